"""Zero-shot classification: photos against text features, in batches, on the device.

`top_k` is BioCLIP 2's protocol (`evaluation/classification.py` of the reference implementation: softmax is monotone,
so the classes with the largest logits). The candidates at one rank come about in one of three ways:

    prefix     the rank's own text: "a photo of Animalia Chordata Aves."
    sum        the probabilities of the head's species, summed over the members of each taxon
    prototype  the mean of the members' text features
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from bioclip_jax.heads import RankGroups, TaxonHead, logits

METHODS = ("sum", "prototype", "prefix")
BATCH = 1024


@partial(jax.jit, static_argnames="k")
def _top_k(scores: Float[Array, "n classes"], k: int) -> tuple[jax.Array, jax.Array]:
    return jax.lax.top_k(scores, k)


def _batches(rows: np.ndarray) -> list[np.ndarray]:
    """Rows in batches of one size (a single one where there are none), the last padded by zeros; compiled once."""
    size = max(1, min(BATCH, len(rows)))
    padding = -len(rows) % size or (0 if len(rows) else size)
    padded = np.concatenate([rows, np.zeros((padding, *rows.shape[1:]), rows.dtype)])
    return [padded[start : start + size] for start in range(0, len(padded), size)]


def top_k(image_features: np.ndarray, class_features: np.ndarray, logit_scale: float, k: int) -> np.ndarray:
    """The k best classes of each image, best first; equal logits in order of the classes. int32 `[n, min(k,
    classes)]`.
    """
    k = min(k, len(class_features))
    found = [np.asarray(_top_k(logits(batch, class_features, logit_scale), k)[1]) for batch in _batches(image_features)]
    return np.concatenate(found)[: len(image_features)]


def top_k_accuracy(top: np.ndarray, labels: np.ndarray, ks: Sequence[int] = (1, 3, 5)) -> dict[str, float]:
    """Micro accuracy within the first k of `top` `[n, at most]`: keys `top1`, ...; k is capped by the number of
    classes.
    """
    capped = dict.fromkeys(min(k, top.shape[1]) for k in ks)
    hits = top == labels[:, None]
    return {f"top{k}": float(hits[:, :k].any(axis=1).mean()) for k in capped}


@jax.jit
def _masked_softmax(scores: Float[Array, "n width"], classes: int) -> Float[Array, "n width"]:
    return jax.nn.softmax(scores, where=jnp.arange(scores.shape[1]) < classes)


def class_probabilities(
    image_features: np.ndarray, class_features: np.ndarray, logit_scale: float, width: int = 0
) -> np.ndarray:
    """Softmax over classes given by text features: float32 `[n, classes]`.

    Classes are padded to `width`, so that tasks of different size compile once.
    """
    classes = len(class_features)
    padded = np.zeros((max(width, classes), class_features.shape[1]), np.float32)
    padded[:classes] = class_features
    found = [
        np.asarray(_masked_softmax(logits(batch, padded, logit_scale), classes)) for batch in _batches(image_features)
    ]
    return np.concatenate(found)[: len(image_features), :classes]


def summed_probabilities(image_features: np.ndarray, head: TaxonHead, ranks: Sequence[RankGroups]) -> list[np.ndarray]:
    """For each of `ranks` the head's probabilities, summed over the members of every group: float32 `[n, groups]`."""
    found: list[list[np.ndarray]] = [[] for _ in ranks]
    for batch in _batches(image_features):
        probabilities = head.probabilities(batch)
        for groups, parts in zip(ranks, found, strict=True):
            parts.append(head.roll_up(probabilities, groups))
    return [np.concatenate(parts)[: len(image_features)] for parts in found]
