"""The label space of a benchmark: one numbering of taxa for all its splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip_jax.heads import RankGroups, rank_groups, unique_taxa
from bioclip_jax.text.taxonomy import Taxon


@dataclass(frozen=True)
class Labels:
    """Every distinct taxon of the splits, and its group at each rank, so that a label means the same in all of them.

    A species has the lineage of its most complete record: a rank is missing only where no record of the species has it.
    """

    taxa: tuple[Taxon, ...]
    member: Mapping[str, np.ndarray]
    """Split -> int32 `[n]`: which of `taxa` each sample is."""
    groups: Mapping[str, RankGroups]
    """Rank -> groups of `taxa`."""
    species: np.ndarray
    """int32 `[taxa]`: the species of each, -1 where it is unknown."""

    @classmethod
    def of(cls, splits: Mapping[str, Sequence[Taxon]], ranks: Sequence[str]) -> Labels:
        """The labels at `ranks` of all samples, given by split as their taxa."""
        taxa, index = unique_taxa([taxon for of_split in splits.values() for taxon in of_split])
        ends = np.cumsum([len(of_split) for of_split in splits.values()])[:-1]
        member = dict(zip(splits, np.split(index, ends), strict=True))
        groups = {rank: rank_groups(taxa, rank) for rank in dict.fromkeys(ranks)}
        return cls(taxa, member, groups, rank_groups(taxa, "species").index)

    def true(self, split: str, rank: str) -> np.ndarray:
        """int32 `[n]`: the group of each sample of `split` in `groups[rank]`, -1 where its name is missing."""
        return self.groups[rank].index[self.member[split]]

    def clusters(self, splits: Sequence[str]) -> np.ndarray:
        """int64 `[n]`: the species of each sample of `splits`; one whose species is unknown has a number of its own."""
        species = np.concatenate([self.species[self.member[split]] for split in splits]).astype(np.int64)
        own = len(self.taxa) + np.arange(len(species))
        return np.where(species < 0, own, species)
