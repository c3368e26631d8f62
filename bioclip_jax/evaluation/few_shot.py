"""SimpleShot few-shot classification (Wang et al. 2019, "CL2N"), by the protocol of BioCLIP 2.

Features are centred by the mean of the support and normalised; a class is the mean of its supports (not normalised
again); the nearest class by Euclidean distance wins. Folds are drawn by Python's `random`, so they equal the
reference's index for index.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bioclip_jax.heads import normalise

CHUNK = 1024
"""Queries that are compared with all classes at once."""


@dataclass(frozen=True)
class Folds:
    """The folds of one number of shots."""

    classes: np.ndarray
    """int64 `[classes]`: labels in order of first appearance; supports stand in this order, `shots` of each."""
    support: np.ndarray
    """int64 `[folds, classes * shots]`: rows."""
    query: np.ndarray
    """int64 `[folds, queries]`: rows."""
    left_out: int
    """Classes with too few images for this number of shots."""


def pool_folds(
    labels: np.ndarray, shots: Sequence[int], folds: int = 5, *, compounding: bool = False
) -> dict[int, Folds]:
    """Draws supports from one pool; the rest is the query (the reference implementation's main, "version 2").

    Classes need more than k images.

    Args:
        labels: int `[n]`, in the order of the data; rows labelled -1 take no part.
        shots: numbers of supports per class.
        folds: fold f is drawn with `random.seed(f)`, one stream over all classes in order of first appearance.
        compounding: shuffle every class from the order that the fold before left, also from one of `shots` to the
            next, not from the order of the data (the reference implementation's v1.0.0 shuffles in place).
    """
    everything = _rows_by_class(labels)
    result = {}
    for k in shots:
        used = [label for label, rows in everything.items() if len(rows) > k]
        supports, queries = [], []
        for fold in range(folds):
            generator = random.Random(fold)
            support: list[int] = []
            query: list[int] = []
            for label in used:
                rows = everything[label] if compounding else list(everything[label])
                generator.shuffle(rows)
                support += rows[:k]
                query += rows[k:]
            supports.append(support)
            queries.append(query)
        result[k] = _folds(used, supports, queries, len(everything))
    return result


def split_folds(
    support_labels: np.ndarray, query_labels: np.ndarray, shots: Sequence[int], folds: int = 5
) -> dict[int, Folds]:
    """Draws supports from one split as `pool_folds` does; the queries are the other split's rows of those classes.

    A class needs k images in the support split and one in the query split. Classes left out are counted among those
    of the queries.
    """
    everything = _rows_by_class(support_labels)
    asked = _rows_by_class(query_labels)
    result = {}
    for k in shots:
        used = [label for label, rows in everything.items() if label in asked and len(rows) >= k]
        known = set(used)
        query = [row for row, label in enumerate(query_labels.tolist()) if label in known]
        supports = []
        for fold in range(folds):
            generator = random.Random(fold)
            support: list[int] = []
            for label in used:
                rows = list(everything[label])
                generator.shuffle(rows)
                support += rows[:k]
            supports.append(support)
        result[k] = _folds(used, supports, [query] * folds, len(asked))
    return result


def _rows_by_class(labels: np.ndarray) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        if label >= 0:
            rows.setdefault(label, []).append(row)
    return rows


def _folds(used: list[int], supports: list[list[int]], queries: list[list[int]], classes: int) -> Folds:
    return Folds(
        np.array(used, np.int64), np.array(supports, np.int64), np.array(queries, np.int64), classes - len(used)
    )


@partial(jax.jit, static_argnames=("classes", "chunk"))
def _nearest_class(
    support_features: Float[Array, "n d"],
    query_features: Float[Array, "m d"],
    support: Int[Array, "folds supports"],
    query: Int[Array, "folds queries"],
    classes: int,
    chunk: int,
) -> Int[Array, "folds queries"]:
    def one_fold(rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        supports = support_features[rows[0]]
        centre = supports.mean(axis=0)
        centroids = normalise(supports - centre).reshape(classes, -1, supports.shape[-1]).mean(axis=1)
        lengths = (centroids**2).sum(axis=1)

        def one_chunk(rows: jax.Array) -> jax.Array:
            queries = normalise(query_features[rows] - centre)
            products = jnp.matmul(queries, centroids.T, precision=jax.lax.Precision.HIGHEST)
            return jnp.argmin(lengths - 2 * products, axis=1)

        padded = jnp.pad(rows[1], (0, -len(rows[1]) % chunk))
        return jax.lax.map(one_chunk, padded.reshape(-1, chunk)).ravel()[: len(rows[1])]

    return jax.lax.map(one_fold, (support, query))


def simple_shot(support_features: np.ndarray, query_features: np.ndarray, folds: Folds) -> np.ndarray:
    """Classifies the queries of every fold: predicted labels, int64 `[folds, queries]`.

    Args:
        support_features: float32 `[n, d]`, the rows that `folds.support` counts.
        query_features: float32 `[m, d]`, the rows that `folds.query` counts (in a pool, the same array).
        folds: drawn by `pool_folds` or `split_folds`.
    """
    classes, chunk = len(folds.classes), max(1, min(CHUNK, folds.query.shape[1]))
    nearest = _nearest_class(support_features, query_features, folds.support, folds.query, classes, chunk)
    return folds.classes[np.asarray(nearest)]
