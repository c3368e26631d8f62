"""Semi-supervised k-means: some rows are labelled and keep their cluster, all others are clustered with them.

It is that of "Generalized Category Discovery" (Vaze et al. 2022), draw for draw as the reference implementation's
`evaluation/faster_mix_k_means_pytorch.py`, for several seeds side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

CHUNK = 2048
"""Rows whose distances to all centres are held at once."""


@dataclass(frozen=True)
class Clustering:
    """One clustering for each seed; the labelled photos come first."""

    labels: np.ndarray
    """int64 `[seeds, n]`: those of the iteration with the least inertia."""
    centres: np.ndarray
    """float32 `[seeds, k, d]`: the means updated in that iteration."""
    initial_centres: np.ndarray
    """float32 `[seeds, k, d]`."""
    draws: np.ndarray
    """int64 `[seeds, k - labelled classes]`: the unlabelled rows that k-means++ drew."""
    inertia: np.ndarray
    """float64 `[seeds]`: sum of squared distances to the centres before the update."""
    iterations: np.ndarray
    """int64 `[seeds]`."""


def cluster(
    labelled: np.ndarray,
    classes: np.ndarray,
    unlabelled: np.ndarray,
    clusters: int,
    *,
    seeds: Sequence[int],
    iterations: int = 10,
    tolerance: float = 1e-4,
) -> Clustering:
    """Clusters photos, seeds side by side.

    The first centres are the labelled classes' means, and unlabelled photos drawn by k-means++. A cluster without
    members gets a mean of NaN, as in the reference, which makes every later iteration worse than those before it.

    Args:
        labelled: float32 `[m, d]`.
        classes: int `[m]`, in 0 .. c - 1, each there at least once; these are the clusters 0 .. c - 1.
        unlabelled: float32 `[n, d]`, at least one.
        clusters: how many in all, k.
        seeds: of the draws.
        iterations: at most.
        tolerance: an iteration that moves centres by less, (sum of distances)², is the last.
    """
    means = _class_means(labelled, classes)
    draws = draw_centres(unlabelled, means, clusters - len(means), seeds)
    start = np.stack([np.concatenate([means, unlabelled[rows]]) for rows in draws])
    data = jax.device_put((labelled, classes.astype(np.int32), unlabelled))
    centres, first = jnp.asarray(start), jnp.asarray(_first_of_equals(start))
    best: list[tuple[float, np.ndarray, np.ndarray]] = [(np.nan, np.empty(0), np.empty(0))] * len(seeds)
    running, counts = np.ones(len(seeds), bool), np.zeros(len(seeds), np.int64)
    own = jnp.broadcast_to(jnp.arange(clusters, dtype=jnp.int32), first.shape)
    for iteration in range(iterations):
        assigned, squared, centres, moved = _iterate(*data, centres, own if iteration else first)
        inertia = np.asarray(squared, np.float64).sum(axis=1)
        for run in np.flatnonzero(running):
            counts[run] += 1
            if not iteration or inertia[run] < best[run][0]:
                best[run] = float(inertia[run]), np.asarray(assigned[run]), np.asarray(centres[run])
        running &= ~(np.asarray(moved) ** 2 < tolerance)
        if not running.any():
            break
    labels = [np.concatenate([classes, assigned]) for _, assigned, _ in best]
    return Clustering(
        np.stack(labels).astype(np.int64),
        np.stack([centre for _, _, centre in best]),
        start,
        draws,
        np.array([value for value, _, _ in best]),
        counts,
    )


def draw_centres(unlabelled: np.ndarray, means: np.ndarray, count: int, seeds: Sequence[int]) -> np.ndarray:
    """Rows drawn by k-means++: int64 `[seeds, count]`.

    Each is the first whose cumulative share of the squared distances to the nearest centre reaches
    `RandomState(seed).rand()`, in float32 of sums in double, as PyTorch's on a CPU. Where nothing is at a distance the
    shares are NaN, none reaches it, and the row before is drawn again, as in the reference.
    """
    rows = np.zeros((len(seeds), count), np.int64)
    if not count:
        return rows
    x = jax.device_put(unlabelled)
    nearest = jnp.tile(_nearest_squared(x, jax.device_put(means)), (len(seeds), 1))
    uniforms = np.stack([np.random.RandomState(seed).rand(count) for seed in seeds])
    for draw in range(count):
        squared = np.asarray(nearest)
        with np.errstate(invalid="ignore"):
            shares = squared / squared.sum(axis=1, keepdims=True)
        reached = np.cumsum(shares, axis=1, dtype=np.float64).astype(np.float32) >= uniforms[:, draw : draw + 1].astype(
            np.float32
        )
        rows[:, draw] = np.where(reached.any(axis=1), reached.argmax(axis=1), rows[:, max(draw - 1, 0)])
        nearest = _nearer(x, jnp.asarray(rows[:, draw]), nearest)
    return rows


@jax.jit
def _nearest_squared(x: Float[Array, "n d"], centres: Float[Array, "c d"]) -> Float[Array, " n"]:
    """Squared distance to the nearest centre; of differences, so that equal ones are at exactly 0."""

    def nearer(nearest: jax.Array, centre: jax.Array) -> tuple[jax.Array, None]:
        return jnp.minimum(nearest, ((x - centre) ** 2).sum(axis=1)), None

    return jax.lax.scan(nearer, jnp.full(len(x), jnp.inf), centres)[0]


@jax.jit
def _nearer(x: Float[Array, "n d"], rows: Int[Array, " r"], nearest: Float[Array, "r n"]) -> Float[Array, "r n"]:
    return jnp.minimum(nearest, ((x[None] - x[rows][:, None]) ** 2).sum(axis=2))


def _class_means(features: np.ndarray, classes: np.ndarray) -> np.ndarray:
    sums = jax.ops.segment_sum(jnp.asarray(features), jnp.asarray(classes), int(classes.max()) + 1)
    return np.asarray(sums) / np.bincount(classes)[:, None].astype(np.float32)


def _first_of_equals(centres: np.ndarray) -> np.ndarray:
    """int32 `[runs, k]`: the lowest cluster whose centre equals each; products need not tie where centres do."""
    lowest = []
    for of_run in centres:
        _, first, group = np.unique(of_run, axis=0, return_index=True, return_inverse=True)
        lowest.append(first[group.reshape(-1)])
    return np.stack(lowest).astype(np.int32)


@jax.jit
def _iterate(
    labelled: Float[Array, "m d"],
    classes: Int[Array, " m"],
    unlabelled: Float[Array, "n d"],
    centres: Float[Array, "r k d"],
    first: Int[Array, "r k"],
) -> tuple[Int[Array, "r n"], Float[Array, "r all"], Float[Array, "r k d"], Float[Array, " r"]]:
    """Assigned clusters, squared distances to `centres`, new centres, and the sum of their moves."""
    runs, clusters, width = centres.shape
    lengths = (centres**2).sum(axis=2)
    flat = centres.reshape(-1, width).T
    run = jnp.arange(runs)

    def assign(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        products = jnp.matmul(x, flat, precision=jax.lax.Precision.HIGHEST).reshape(-1, runs, clusters)
        nearest = first[run, (lengths - 2 * products).argmin(axis=2)]
        return nearest, ((x[:, None] - centres[run, nearest]) ** 2).sum(axis=2)

    assigned, squared = _in_chunks(assign, unlabelled)
    known = ((labelled - centres[:, classes]) ** 2).sum(axis=2) if len(labelled) else jnp.zeros((runs, 0))
    fixed = jax.ops.segment_sum(labelled, classes, clusters)
    fixed_counts = jnp.bincount(classes, length=clusters)

    def update(assigned: jax.Array) -> jax.Array:
        sums = fixed + jax.ops.segment_sum(unlabelled, assigned, clusters)
        return sums / (fixed_counts + jnp.bincount(assigned, length=clusters))[:, None]

    assigned = assigned.T
    updated = jax.vmap(update)(assigned)
    moved = jnp.sqrt(((updated - centres) ** 2).sum(axis=2)).sum(axis=1)
    return assigned, jnp.concatenate([known, squared.T], axis=1), updated, moved


def _in_chunks(function: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """`function` of all rows `[n, d]`, `CHUNK` at a time: with n x k distances at once memory would be unbounded."""
    size = min(CHUNK, len(x))
    padded = jnp.pad(x, ((0, -len(x) % size), (0, 0)))
    parts = jax.lax.map(function, padded.reshape(-1, size, x.shape[1]))
    return jax.tree.map(lambda part: part.reshape(-1, *part.shape[2:])[: len(x)], parts)
