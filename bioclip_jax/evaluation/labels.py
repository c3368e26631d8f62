"""The label space of a benchmark: one numbering of taxa for all its splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip_jax.evaluation.features import Samples
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

    @classmethod
    def of(cls, splits: Sequence[Samples], ranks: Sequence[str]) -> Labels:
        """The labels of all samples of `splits` at `ranks`."""
        taxa, index = unique_taxa([taxon for samples in splits for taxon in samples.taxa])
        ends = np.cumsum([len(samples) for samples in splits])[:-1]
        member = {samples.split: part for samples, part in zip(splits, np.split(index, ends), strict=True)}
        return cls(taxa, member, {rank: rank_groups(taxa, rank) for rank in ranks})

    def true(self, split: str, rank: str) -> np.ndarray:
        """int32 `[n]`: the group of each sample of `split` in `groups[rank]`, -1 where its name is missing."""
        return self.groups[rank].index[self.member[split]]
