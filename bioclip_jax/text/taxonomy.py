"""A place in the tree of life: seven ranks, a scientific and a common name, each a string that is empty where unknown.

A `Taxon` holds what its source says, untouched; `bioclip_jax.text.cleaning` tidies messy tables, and
`bioclip_jax.text.captions` turns a taxon into text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bioclip_jax.errors import UsageError

RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")
"""From the most general to the most specific."""


@dataclass(frozen=True)
class Taxon:
    """Seven ranks and two names; `""` where unknown. `class_` is the rank class, a reserved word in Python.

    `species` is the epithet alone (`corax`), not the binomial. Instances are immutable and hashable, so that they
    serve as keys.
    """

    kingdom: str = ""
    phylum: str = ""
    class_: str = ""
    order: str = ""
    family: str = ""
    genus: str = ""
    species: str = ""
    scientific_name: str = ""
    common_name: str = ""

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Taxon:
        """The taxon of a record, or of any mapping with the ranks' names (`class`, not `class_`) as keys.

        Absent keys, `None` and NaN become `""`; bytes are decoded as UTF-8; anything else becomes its `str`. Never
        raises.
        """
        return cls(*(_text(record.get(name)) for name in (*RANKS, "scientific_name", "common_name")))

    @property
    def ranks(self) -> tuple[str, str, str, str, str, str, str]:
        """The names at the seven ranks, in the order of `RANKS`."""
        return self.kingdom, self.phylum, self.class_, self.order, self.family, self.genus, self.species

    def rank(self, name: str) -> str:
        """The name at the rank called `name`, one of `RANKS`; raises `UsageError` for another word."""
        return self.ranks[_rank_index(name)]

    def lineage(self, rank: str) -> tuple[str, ...]:
        """The names from kingdom down to `rank`, one of `RANKS`, with `""` for a missing one.

        Two taxa are the same at a rank when their lineages are: an epithet alone (`vulgaris`) says nothing.
        """
        return self.ranks[: _rank_index(rank) + 1]


def _rank_index(name: str) -> int:
    if name not in RANKS:
        raise UsageError(f"rank {name!r}: not a rank; use one of {', '.join(RANKS)}")
    return RANKS.index(name)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    # NaN, the missing value of tables, is the one value that differs from itself.
    if value is None or (isinstance(value, float) and value != value):
        return ""
    return value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
