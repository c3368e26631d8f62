"""Zero-shot classification: photos against text features, in batches, on the device.

`top_k` is BioCLIP 2's protocol (`evaluation/classification.py` of the reference implementation: softmax is monotone,
so the classes with the largest logits). The candidates at one rank come about in one of four ways:

    mean       the mean probability of each taxon's species: every taxon counts the same, however many species it has
    sum        the sum of those probabilities, as pybioclip's: every species counts the same
    prototype  the mean of the members' text features
    prefix     the rank's own text: "a photo of Animalia Chordata Aves."

All ranking is by logits or logarithms of probabilities, which do not underflow where probabilities do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bioclip_jax.heads import RankGroups, TaxonHead, log_sum_of_members, logits

BATCH = 1024


class Ranking(NamedTuple):
    """The best classes of each image."""

    top: np.ndarray
    """int32 `[n, k]`, best first; equal ones in order of the classes."""
    log_probability: np.ndarray
    """float32 `[n]`: of the best class."""


Found = tuple[Int[Array, "n k"], Float[Array, " n"]]


@partial(jax.jit, static_argnames="k")
def _best(scores: Float[Array, "n width"], classes: int, k: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The k best of the first `classes` scores, the best score, and the logarithm of the sum of exponentials."""
    scores = jnp.where(jnp.arange(scores.shape[1]) < classes, scores, -jnp.inf)
    best, top = jax.lax.top_k(scores, k)
    return top, best[:, 0], jax.nn.logsumexp(scores, axis=1)


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    """Rows in batches of one size (a single one where there are none), the last padded by zeros; compiled once."""
    size = max(1, min(BATCH, len(rows)))
    padding = -len(rows) % size or (0 if len(rows) else size)
    padded = np.concatenate([rows, np.zeros((padding, *rows.shape[1:]), rows.dtype)])
    return [padded[start : start + size] for start in range(0, len(padded), size)]


def _ranking(parts: Sequence[Found], images: int, k: int) -> Ranking:
    top = np.concatenate([np.asarray(top) for top, _ in parts])[:images, :k]
    return Ranking(top, np.concatenate([np.asarray(best) for _, best in parts])[:images])


def top_k(
    image_features: np.ndarray, class_features: np.ndarray, logit_scale: float, k: int, *, width: int = 0
) -> Ranking:
    """The min(k, classes) classes of largest logit for each image, and the best one's softmax probability.

    Args:
        image_features: float32 `[n, d]`.
        class_features: float32 `[classes, d]`.
        logit_scale: the multiplier of similarities.
        k: how many classes.
        width: classes are padded to so many, so that tasks of different size compile once.
    """
    classes = len(class_features)
    padded = np.zeros((max(width, classes), class_features.shape[1]), np.float32)
    padded[:classes] = class_features
    parts = []
    for batch in _batches(image_features):
        top, best, total = _best(logits(batch, padded, logit_scale), classes, min(k, len(padded)))
        parts.append((top, best - total))
    return _ranking(parts, len(image_features), min(k, classes))


def summed_top_k(
    image_features: np.ndarray, head: TaxonHead, ranks: Sequence[RankGroups], k: int, *, mean: bool = False
) -> list[Ranking]:
    """For each of `ranks` the groups of largest probability, summed over their members; `mean` ranks by the mean.

    The probability given is the group's, which is the sum, in both cases.
    """
    parts: list[list[Found]] = [[] for _ in ranks]
    for batch in _batches(image_features):
        members = head.log_probabilities(batch)
        for groups, of_rank in zip(ranks, parts, strict=True):
            sums = log_sum_of_members(members, groups.index)
            counts = np.bincount(groups.index[groups.index >= 0], minlength=len(groups.index))
            shift = np.log(np.maximum(counts, 1)).astype(np.float32) if mean else np.float32(0)
            top, _, _ = _best(sums - shift, len(groups), min(k, len(head.taxa)))
            of_rank.append((top, jnp.take_along_axis(sums, top[:, :1], axis=1)[:, 0]))
    return [
        _ranking(of_rank, len(image_features), min(k, len(groups)))
        for groups, of_rank in zip(ranks, parts, strict=True)
    ]
