"""A random rooted tree over the seven ranks with known branch lengths.

Every node has one rank; children choose their parent with log-normally distributed attraction, which gives the hollow
curve of real taxonomies (many genera of one species, a few of very many). The tree is ultrametric: every species has
height 0, the root height 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bioclip_jax.pipeline.synthetic.counter import Draws
from bioclip_jax.text.taxonomy import RANKS

_HEIGHTS = ((0.90, 0.96), (0.74, 0.84), (0.58, 0.68), (0.40, 0.52), (0.24, 0.34), (0.08, 0.18), (0.0, 0.0))
"""Range of node heights by rank."""
_ATTRACTION = {"order": 0.2, "family": 0.4, "genus": 0.7, "species": 0.8}
"""Standard deviation of the logarithm of a parent's attraction for children of each rank."""

_LEAST_SPECIES = 6
"""Every class has as many species where the world is large enough."""


@dataclass(frozen=True)
class Tree:
    """`parents[r]` int64 [nodes of rank r]: the parent's number at rank r - 1 (the root for kingdoms).
    `heights[r]` float64 [nodes of rank r]. `body_plans` [classes]: which body plan each class has.
    """

    parents: tuple[np.ndarray, ...]
    heights: tuple[np.ndarray, ...]
    body_plans: np.ndarray

    @property
    def num_species(self) -> int:
        """Number of leaves."""
        return len(self.parents[-1])

    def branch_lengths(self, rank: int) -> np.ndarray:
        """Length of the branch above each node of a rank, float64 [nodes]."""
        if rank == 0:
            return 1.0 - self.heights[0]
        return self.heights[rank - 1][self.parents[rank]] - self.heights[rank]

    def ancestors(self, species: np.ndarray | int) -> np.ndarray:
        """Node numbers of the lineage, int64 [..., 7], kingdom first."""
        nodes = np.asarray(species, np.int64)
        lineage = [nodes]
        for rank in range(len(RANKS) - 1, 0, -1):
            nodes = self.parents[rank][nodes]
            lineage.append(nodes)
        return np.stack(lineage[::-1], axis=-1)

    def distance(self, first: np.ndarray | int, second: np.ndarray | int) -> np.ndarray:
        """Patristic distance between species (the sum of branch lengths between them), float64, in [0, 2]."""
        a, b = self.ancestors(first), self.ancestors(second)
        meeting = np.ones(np.broadcast_shapes(a.shape[:-1], b.shape[:-1]))
        for rank in range(len(RANKS)):
            meeting = np.where(a[..., rank] == b[..., rank], self.heights[rank][a[..., rank]], meeting)
        return 2.0 * meeting


def rank_sizes(num_species: int, num_plans: int) -> tuple[int, int, int, int]:
    """How many classes, orders, families and genera a world of `num_species` has: classes grow with the cube root
    beyond one for each body plan, the ranks between class and species geometrically.
    """
    classes = min(num_species, max(2, min(num_plans, num_species // 4), round(num_species ** (1 / 3))))
    ratio = num_species / classes
    orders, families, genera = (max(classes, round(classes * ratio**power)) for power in (0.26, 0.48, 0.7))
    return classes, orders, families, genera


def grow_tree(num_species: int, phyla_of_plans: np.ndarray, kingdoms_of_phyla: np.ndarray, seed: int) -> Tree:
    """A random tree. `phyla_of_plans` int [plans] and `kingdoms_of_phyla` int [phyla] place the body plans; every
    plan has a class before any has two.
    """
    draws = Draws(seed, "tree")
    num_plans = len(phyla_of_plans)
    classes, orders, families, genera = rank_sizes(num_species, num_plans)
    plans = np.concatenate([np.arange(num_plans), (draws.uniform(classes) * num_plans).astype(np.int64)])[:classes]
    used_phyla, class_parents = np.unique(phyla_of_plans[plans], return_inverse=True)
    used_kingdoms, phylum_parents = np.unique(kingdoms_of_phyla[used_phyla], return_inverse=True)
    parents = [np.zeros(len(used_kingdoms), np.int64), phylum_parents.astype(np.int64), class_parents.astype(np.int64)]
    owner = np.arange(classes)  # the class of each node of the rank last grown
    for count, (rank, spread) in zip((orders, families, genera, num_species), _ATTRACTION.items(), strict=True):
        given = np.arange(len(owner))
        if rank == "species":
            given = np.concatenate(
                [given, _short_classes(owner, min(_LEAST_SPECIES, 2 * num_species // (3 * classes)))]
            )
        parents.append(_choose_parents(count, len(owner), given, spread, draws))
        owner = owner[parents[-1]]
    heights = []
    for (low, high), nodes in zip(_HEIGHTS, parents, strict=True):
        heights.append(low + (high - low) * draws.uniform(len(nodes)))
    return Tree(tuple(parents), tuple(heights), plans)


def _short_classes(owner: np.ndarray, least: int) -> np.ndarray:
    """The first genus of each class with fewer than `least` genera, as often as it takes to give it as many species;
    `owner` [genera] sorted: the class of each genus.
    """
    _, first, count = np.unique(owner, return_index=True, return_counts=True)
    return np.repeat(first, np.maximum(0, least - count))


def _choose_parents(count: int, num_parents: int, given: np.ndarray, spread: float, draws: Draws) -> np.ndarray:
    """A parent for each of `count` children, sorted: those `given`, the rest at random."""
    weights = np.exp(spread * draws.normal(num_parents))
    edges = np.cumsum(weights) / weights.sum()
    rest = np.searchsorted(edges[:-1], draws.uniform(count - len(given)), side="right")
    return np.sort(np.concatenate([given, rest])).astype(np.int64)
