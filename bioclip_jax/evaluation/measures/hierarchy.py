"""How far answers are from the truth in the taxonomy, and whether answers at several ranks fit together.

The distance of two species is the number of ranks climbed from species to their lowest common ancestor: 0 the same
species, 1 the same genus, ..., 6 the same kingdom, 7 nothing in common. Its mean over the mistakes alone is the
mistake severity ("hierarchical distance of a mistake", Bertinetto et al. 2020, Making Better Mistakes, section 2.3).

Records lack names at some ranks. A missing rank is first taken from taxa that share a lower rank; where it stays
unknown, the rank is passed over: two taxa part at the highest rank where both have a name and the names differ, and
their common ancestor is the deepest rank above it where both have one, so an unknown rank never brings taxa closer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bioclip_jax.heads import TaxonHead, log_sum_of_members, rank_groups
from bioclip_jax.text.taxonomy import RANKS, Taxon

CELLS = 1 << 24
"""Of the largest array at work: 64 MB."""


def in_chunks(rows: np.ndarray, width: int) -> Iterator[tuple[int, np.ndarray]]:
    """Chunks of `rows` `[n, d]` of one size, so that one times `width` stays below `CELLS`, and where each starts.

    The last is padded by zeros, so that all of them compile once.
    """
    size = max(1, min(len(rows), 1024, CELLS // max(width, 1)))
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        yield start, np.concatenate([chunk, np.zeros((size - len(chunk), *rows.shape[1:]), rows.dtype)])


def lineages(taxa: Sequence[Taxon]) -> np.ndarray:
    """The taxon at each rank, numbered by rank: int32 `[taxa, 7]`, -1 where no name is known.

    A missing name is that of most taxa that share the nearest lower rank (a family lies in one order, whichever of
    its records say so).
    """
    found = np.stack([rank_groups(taxa, rank).index for rank in RANKS], axis=1)
    for rank in reversed(range(len(RANKS) - 1)):
        for lower in range(rank + 1, len(RANKS)):
            gaps = (found[:, rank] < 0) & (found[:, lower] >= 0)
            for group in np.unique(found[gaps, lower]):
                members = found[:, lower] == group
                names = found[members, rank]
                if (names >= 0).any():
                    found[members & gaps, rank] = np.bincount(names[names >= 0]).argmax()
    return found


def lca_distance(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Ranks climbed to the lowest common ancestor of two species: int64 `[n]`, 0 to 7.

    Args:
        true: int `[n, 7]`, rows of `lineages` whose species is known.
        predicted: int `[n, 7]`, likewise.
    """
    known = (true >= 0) & (predicted >= 0)
    agrees = known & (true == predicted)
    together = agrees & (np.cumsum(known & ~agrees, axis=1) == 0)
    deepest = (together * np.arange(1, len(RANKS) + 1)).max(axis=1)
    return np.where(agrees[:, -1], 0, len(RANKS) - deepest)


@dataclass(frozen=True)
class TaxonTree:
    """The taxa of a head as a tree of seven levels; a rank without a name is a node of its own below its parent."""

    lineages: np.ndarray
    """int32 `[taxa, 7]`."""

    @cached_property
    def nodes(self) -> np.ndarray:
        """int32 `[7, taxa]`: the node of each taxon at each rank, numbered by rank."""
        return self._levels[0]

    @cached_property
    def parents(self) -> np.ndarray:
        """int32 `[7, taxa]`: of each node at a rank the node above, 0 at the first; -1 beyond the last node."""
        return self._levels[1]

    @cached_property
    def _levels(self) -> tuple[np.ndarray, np.ndarray]:
        nodes, parents = [], []
        above = np.zeros(len(self.lineages), np.int32)
        for names in self.lineages.T:
            found, index = np.unique(np.stack([above, names], axis=1), axis=0, return_inverse=True)
            parents.append(np.full(len(names), -1, np.int32))
            parents[-1][: len(found)] = found[:, 0]
            above = index.reshape(-1).astype(np.int32)
            nodes.append(above)
        return np.stack(nodes), np.stack(parents)

    def descend(self, image_features: np.ndarray, head: TaxonHead) -> np.ndarray:
        """Answers from kingdom to species, each the most probable child of the one before: nodes, int32 `[n, 7]`.

        A node's probability is the sum of its species' (a softmax over the head's taxa), so this is greedy inference
        on P(species) = P(kingdom) P(phylum | kingdom) ...

        Args:
            image_features: float32 `[n, d]`, L2-normalised.
            head: over the taxa of this tree.
        """
        found = np.empty((len(image_features), len(RANKS)), np.int32)
        for start, batch in in_chunks(image_features, len(head.taxa)):
            answers = np.asarray(_descend(head.log_probabilities(batch), self.nodes, self.parents))
            found[start : start + len(batch)] = answers[: len(found) - start]
        return found


@jax.jit
def _descend(
    log_probabilities: Float[Array, "n taxa"], nodes: Int[Array, "ranks taxa"], parents: Int[Array, "ranks taxa"]
) -> Int[Array, "n ranks"]:
    def down(at: jax.Array, level: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        of_rank, above = level
        sums = log_sum_of_members(log_probabilities, of_rank)
        best = jnp.argmax(jnp.where(above == at[:, None], sums, -jnp.inf), axis=1).astype(jnp.int32)
        return best, best

    start = jnp.zeros(len(log_probabilities), jnp.int32)
    return jax.lax.scan(down, start, (nodes, parents))[1].T


def consistent(answers: np.ndarray, lineage: np.ndarray) -> np.ndarray:
    """Whether the answers at all ranks lie on one lineage, that of the answer at the lowest rank: bool `[n]`.

    Args:
        answers: int `[n, ranks]`, the taxon answered at each rank.
        lineage: int `[n, ranks]`, those that the lowest answer belongs to; -1 (unknown) agrees with any.
    """
    return ((lineage < 0) | (answers == lineage)).all(axis=1)
