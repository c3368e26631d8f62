"""Retrieval both ways: the text of a photo among all texts, and the photos of a text among all photos.

Similarities are cosines in full float32, computed a chunk at a time: memory does not grow with photos times texts.
Of equal similarities the earlier counts as nearer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.bootstrap import Bootstrap, interval
from bioclip_jax.evaluation.measures.hierarchy import in_chunks
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples, task_figure
from bioclip_jax.evaluation.tasks.answers import checked, cluster_numbers
from bioclip_jax.heads import PLAIN_TEMPLATES, class_text, logits, text_features

RECALLS = (1, 5, 10)


class TextToImage(NamedTuple):
    """Of every text."""

    first: np.ndarray
    """int64 `[texts]`: the place of the nearest photo that is right, 0 the nearest of all."""
    average_precision: np.ndarray
    """float64 `[texts]`: mean over the right photos of the share of right ones up to each."""


@jax.jit
def _text_ranks(images: Float[Array, "n d"], texts: Float[Array, "m d"], labels: Int[Array, " n"]) -> Int[Array, " n"]:
    similarity = logits(images, texts, 1.0)
    own = jnp.take_along_axis(similarity, labels[:, None], axis=1)
    earlier = jnp.arange(len(texts)) < labels[:, None]
    return ((similarity > own) | ((similarity == own) & earlier)).sum(axis=1)


@jax.jit
def _image_places(
    texts: Float[Array, "m d"], images: Float[Array, "n d"], labels: Int[Array, " n"], first: int
) -> tuple[Int[Array, " m"], Float[Array, " m"]]:
    order = jnp.argsort(-logits(texts, images, 1.0), axis=1, stable=True)
    right = labels[order] == first + jnp.arange(len(texts))[:, None]
    precision = jnp.cumsum(right, axis=1) / jnp.arange(1, len(images) + 1)
    count = jnp.maximum(right.sum(axis=1), 1)
    return jnp.argmax(right, axis=1), jnp.where(right, precision, 0).sum(axis=1) / count


def image_to_text(images: np.ndarray, texts: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How many texts are nearer to each photo than its own: int64 `[n]`.

    Args:
        images: float32 `[n, d]`, L2-normalised.
        texts: float32 `[texts, d]`, L2-normalised.
        labels: int `[n]`, the text of each photo.
    """
    _check(images, texts, labels)
    found = np.empty(len(images), np.int64)
    own = labels.astype(np.int32)
    for start, batch in in_chunks(images, len(texts)):
        padded = np.zeros(len(batch), np.int32)
        padded[: len(found) - start] = own[start : start + len(batch)]
        found[start : start + len(batch)] = np.asarray(_text_ranks(batch, texts, padded))[: len(found) - start]
    return found


def text_to_image(images: np.ndarray, texts: np.ndarray, labels: np.ndarray) -> TextToImage:
    """Where the photos of each text stand among all photos; arguments as `image_to_text`. Each text needs a photo."""
    _check(images, texts, labels)
    if missing := len(texts) - len(np.unique(labels)):
        raise UserError(f"retrieval: {missing} of {len(texts)} texts have no photo")
    first, average = np.empty(len(texts), np.int64), np.empty(len(texts))
    for start, batch in in_chunks(texts, len(images)):
        places, precision = _image_places(batch, images, labels.astype(np.int32), start)
        first[start : start + len(batch)] = np.asarray(places)[: len(texts) - start]
        average[start : start + len(batch)] = np.asarray(precision)[: len(texts) - start]
    return TextToImage(first, average)


def _check(images: np.ndarray, texts: np.ndarray, labels: np.ndarray) -> None:
    if not len(images) or not len(texts):
        raise UserError(f"retrieval needs photos and texts; given were {len(images)} and {len(texts)}")
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= len(texts):
        raise UserError(f"retrieval: the labels of {len(images)} photos are not {len(images)} numbers of texts")
    for name, features in (("photo", images), ("text", texts)):
        bad = ~np.isfinite(features).all(axis=1)
        if bad.any():
            raise UserError(f"retrieval: features of {bad.sum()} {name}s are not finite (first: {bad.argmax()})")


def median(values: np.ndarray) -> Callable[[np.ndarray], float]:
    """The weighted median of fixed values, of any weights: the smallest value with at least half of them up to it."""
    order = np.argsort(values, kind="stable")
    ascending = values[order]

    def weighted(weights: np.ndarray) -> float:
        reached = np.cumsum(weights[order])
        return float(ascending[np.searchsorted(reached, reached[-1] / 2)])

    return weighted


def retrieval_figures(
    template: Figure,
    images: np.ndarray,
    texts: np.ndarray,
    labels: np.ndarray,
    clusters: np.ndarray,
    *,
    resamples: int,
    seed: int,
) -> list[Figure]:
    """Recall at 1, 5 and 10 and the median rank both ways, and the mean average precision of texts.

    Intervals of photos' figures are by their clusters; those of texts by drawing texts, the photos to choose from
    being the same.

    Args:
        template: a figure with split, rank and learner.
        images: float32 `[n, d]`, L2-normalised.
        texts: float32 `[texts, d]`, L2-normalised.
        labels: int `[n]`, the text of each photo.
        clusters: int `[n]`.
        resamples: of the bootstrap; 0 leaves intervals out.
        seed: of the bootstrap.
    """
    found: list[Figure] = []
    ranks, backwards = image_to_text(images, texts, labels), text_to_image(images, texts, labels)
    sides = (
        ("image to text", ranks, clusters, len(texts), 1 / len(texts)),
        ("text to image", backwards.first, np.arange(len(texts)), len(images), 1 / len(images)),
    )
    base = replace(template, protocol="retrieval", samples=len(images), classes=len(texts), majority=None, left_out=0)
    for variant, places, units, choices, chance in sides:
        scores = Scores(units, resamples, seed)
        ones = np.ones(len(places))
        for k in RECALLS:
            if k < choices:
                guess = min(1.0, k * chance) if variant == "image to text" else float("nan")
                scores.add(replace(base, variant=variant, metric=f"recall_at_{k}", chance=guess), places < k, ones)
        if variant == "text to image":
            figure = replace(base, variant=variant, metric="mean_average_precision", chance=float("nan"))
            scores.add(figure, backwards.average_precision, ones)
        found += scores.finish("")[0]
        middle = median(places + 1.0)
        figure = replace(base, variant=variant, metric="median_rank", chance=float("nan"))
        figure = replace(figure, value=middle(ones), clusters=len(np.unique(units)))
        if resamples:
            bootstrap = Bootstrap(units, resamples=resamples, seed=seed)
            bounds = interval(bootstrap.each(middle))
            figure = replace(figure, low=bounds.low, high=bounds.high)
        found.append(figure)
    return found


@dataclass(frozen=True)
class Retrieval:
    """Texts of classes among photos and photos among texts."""

    quick: ClassVar[bool] = True
    name: str
    split: str
    column: str = "class"
    """The label whose classes have a text each, unless `text_type` is given."""
    text_type: str = ""
    """A caption type of the taxonomy (`taxon_com`, ...): photos of one caption are one class."""
    templates: tuple[str, ...] = PLAIN_TEMPLATES

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits needed."""
        return (self.split,)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Recall, median rank and mean average precision."""
        part = samples[self.split]
        if self.text_type and not part.taxa:
            raise UserError(f"task {self.name}: split {self.split} has no taxonomy to make texts of")
        if self.text_type:
            names = [class_text(taxon, self.text_type) for taxon in part.taxa]
        else:
            names = [str(value) for value in checked(self.name, samples, self.split, self.column).columns[self.column]]
        number = {name: place for place, name in enumerate(dict.fromkeys(name for name in names if name))}
        if len(number) < 2:
            raise UserError(f"task {self.name}: {len(number)} texts in split {self.split}; at least two are needed")
        labels = np.array([number.get(name, -1) for name in names])
        asked = labels >= 0
        texts = text_features(context.encode_text, [[name] for name in number], templates=self.templates)
        clusters = cluster_numbers(part.clusters(self.column) if part.taxa or not self.text_type else names)
        rank = self.text_type or self.column
        figures = retrieval_figures(
            task_figure(self, "retrieval", "", "", rank=rank),
            part.unit_features[asked],
            texts,
            labels[asked],
            clusters[asked],
            resamples=context.resamples,
            seed=context.seed,
        )
        unlabelled = int((~asked).sum())
        notes = [f"{self.name}: {unlabelled} photos have no text and were left out"] if unlabelled else []
        return Outcome([replace(figure, left_out=unlabelled) for figure in figures], notes=notes)
