"""The chips that plans are made for, by the names that a user types."""

from __future__ import annotations

import difflib

from bioclip_jax.parallel.chips import CHIPS, Chip

__all__ = ["CHIPS", "Chip", "nearest_first"]


def nearest_first(word: str) -> list[str]:
    """The names of all chips: those that begin with `word`, then those that look like it, then the others."""
    word = word.lower()
    begin = [name for name in CHIPS if word and name.startswith(word)]
    near = difflib.get_close_matches(word, CHIPS, n=len(CHIPS), cutoff=0.5)
    return list(dict.fromkeys([*begin, *near, *CHIPS]))
