"""Counts the records that could not be used while training, and ends the run when they are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from bioclip_jax.errors import UserError

_EXAMPLES = 5
_FORGIVEN = 8  # a few are no share


class Replaced(NamedTuple):
    """A record that could not be used; a neighbour took its place."""

    key: str
    reason: str


class BadSamples:
    """What was replaced so far in this process.

    Args:
      limit: the greatest share of the samples that may be replaced.

    Attributes:
      seen: samples so far.
      reasons: how many were replaced, by reason.
      examples: the first few that were.
    """

    def __init__(self, limit: float):
        self._limit = limit
        self.seen = 0
        self.reasons: Counter[str] = Counter()
        self.examples: list[Replaced] = []

    @property
    def count(self) -> int:
        """How many were replaced."""
        return self.reasons.total()

    def add(self, samples: int, replaced: Sequence[Replaced]) -> None:
        """Counts a batch of so many samples.

        Raises:
          UserError: more than the limit were replaced, and more than a handful.
        """
        self.seen += samples
        self.reasons.update(one.reason.partition(": ")[0] for one in replaced)
        self.examples += [one for one in dict.fromkeys(replaced) if one not in self.examples]
        del self.examples[_EXAMPLES:]
        if self.count > max(_FORGIVEN, self._limit * self.seen):
            raise UserError(
                f"{self.in_words()}: more than max_bad_share {self._limit:g}; look at the data "
                "(`bioclip-jax data build` lists what cannot be used), or allow a larger share"
            )

    def in_words(self) -> str:
        """One line: how many, why, and which were the first."""
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        names = ", ".join(repr(one.key) for one in self.examples)
        return f"{self.count:,} of {self.seen:,} samples could not be used ({reasons}; first {names})"
