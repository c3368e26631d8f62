"""Null distributions of a trait over species that share ancestors.

Relatives are alike in traits and in features, so two things that evolved apart from each other on one tree correlate
more often than a free permutation of the species allows for (Harmon & Glor 2010; Guillot & Rousset 2013 show the same
of partial Mantel tests). What may be exchanged decides whether a test is valid:

    within_clades   species of one clade (a genus): exact where, given its clade, a species' trait says nothing of its
                    relatives, whatever the kind of trait (restricted permutation; Manly 1991; Lapointe & Garland 2001
                    prefer relatives by degrees, this is the limit that exchanges nobody else)
    brownian        residuals that phylogenetic least squares makes independent: valid for a continuous trait that
                    evolved as Brownian motion, scaled by Pagel's lambda (Adams & Collyer 2015)
    freely          any species: only where there is no phylogenetic signal, or where that signal is asked for

Each returns surrogates of the trait; a statistic of the surrogates is the null distribution of that statistic.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from bioclip_jax.errors import UserError

LAMBDAS = np.linspace(0.0, 0.99, 34)


@partial(jax.jit, static_argnames="permutations")
def _shuffled(key: Array, clades: Int[Array, " n"], permutations: int) -> Int[Array, "permutations n"]:
    """Rows are permutations p with clades[p] == clades: the members of each clade in a random order at its places."""
    places = jnp.argsort(clades, stable=True)

    def one(key: Array) -> Array:
        order = jnp.lexsort((jax.random.uniform(key, clades.shape), clades))
        return jnp.zeros_like(clades).at[places].set(order.astype(clades.dtype))

    return jax.lax.map(one, jax.random.split(key, permutations), batch_size=256)


def within_clades(clades: np.ndarray, permutations: int = 999, seed: int = 0) -> np.ndarray:
    """Permutations that exchange only members of one clade: int32 `[permutations, species]`, to index traits with.

    Args:
        clades: int `[species]`.
        permutations: how many.
        seed: of the draws.

    Raises:
        UserError: no clade has two members.
    """
    clades = np.unique(np.asarray(clades), return_inverse=True)[1].astype(np.int32)
    if not clades.size or np.bincount(clades).max() < 2:
        raise UserError("no clade has two species, so nothing can be exchanged within clades")
    return np.asarray(_shuffled(jax.random.key(seed), clades, permutations))


def freely(species: int, permutations: int = 999, seed: int = 0) -> np.ndarray:
    """Permutations of all species: int32 `[permutations, species]`."""
    return within_clades(np.zeros(species, np.int32), permutations, seed)


def exchangeable(clades: np.ndarray) -> int:
    """How many species have another one in their clade: the others never move."""
    sizes = np.unique(clades, return_counts=True)[1]
    return int(sizes[sizes > 1].sum())


def shared_ancestry(lineages: np.ndarray) -> np.ndarray:
    """Share of the path from the root that two species have in common: float64 `[species, species]`, 1 with itself.

    All branches of the taxonomy count as equally long. This is the covariance of Brownian motion along them; 1 less
    this is the phylogenetic distance.

    Args:
        lineages: int `[species, ranks]`, highest rank first, without the species itself.
    """
    lineages = np.asarray(lineages)
    same = np.logical_and.accumulate(lineages[:, None] == lineages[None], axis=2).sum(axis=2)
    shared = same / (lineages.shape[1] + 1.0)
    np.fill_diagonal(shared, 1.0)
    return shared


def pagel_lambda(trait: np.ndarray, covariance: np.ndarray) -> float:
    """The share of phylogenetic signal, from 0 to 0.99, by maximum likelihood over a grid (Pagel 1999).

    Off-diagonal covariances are multiplied by it; 0 makes species independent.

    Args:
        trait: float `[species]`.
        covariance: float64 `[species, species]`, as of `shared_ancestry`.
    """
    return float(max(LAMBDAS, key=lambda share: _log_likelihood(np.asarray(trait, np.float64), covariance, share)))


def _scaled(covariance: np.ndarray, share: float) -> np.ndarray:
    return share * covariance + (1.0 - share) * np.diag(np.diag(covariance))


def _whitened(trait: np.ndarray, covariance: np.ndarray, share: float) -> tuple[float, np.ndarray, np.ndarray]:
    """The mean by generalised least squares, the independent residuals `[species]`, and what correlates them."""
    root = np.linalg.cholesky(_scaled(covariance, share))
    ones, values = np.linalg.solve(root, np.stack([np.ones(len(trait)), trait], axis=1)).T
    mean = float(ones @ values / (ones @ ones))
    return mean, values - mean * ones, root


def _log_likelihood(trait: np.ndarray, covariance: np.ndarray, share: float) -> float:
    _, residuals, root = _whitened(trait, covariance, share)
    variance = max(float(residuals @ residuals) / len(trait), 1e-300)
    return -0.5 * len(trait) * np.log(variance) - float(np.log(np.diag(root)).sum())


def brownian(trait: np.ndarray, covariance: np.ndarray, permutations: int = 999, seed: int = 0) -> np.ndarray:
    """Surrogates of a continuous trait with its phylogenetic signal: float64 `[permutations, species]`.

    y* = m + L P L^-1 (y - m), with m the mean by generalised least squares, L L^T the covariance scaled by the trait's
    own lambda, and P a permutation: residual randomisation (Adams & Collyer 2015).

    Args:
        trait: float `[species]`.
        covariance: float64 `[species, species]`, as of `shared_ancestry`.
        permutations: how many.
        seed: of the permutations.
    """
    trait = np.asarray(trait, np.float64)
    mean, residuals, root = _whitened(trait, covariance, pagel_lambda(trait, covariance))
    return mean + residuals[freely(len(trait), permutations, seed)] @ root.T


def p_value(value: float, null: np.ndarray) -> float:
    """Share of the null distribution `[permutations]` that is at least `value`, the value itself counted in.

    So the test is exact at every number of permutations (Phipson & Smyth 2010).
    """
    return float((1 + np.sum(null >= value - 1e-5 * abs(value))) / (1 + len(null)))
