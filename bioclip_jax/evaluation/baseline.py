"""The learner without deep learning: logistic regression on a colour histogram and an 8 x 8 thumbnail.

A photo is squashed to 64 x 64 pixels by area. Its features are the joint RGB histogram, 6 bins to a channel (216
numbers, the square root of the shares), and the mean colours of an 8 x 8 grid (192 numbers); each is standardised by
the training photos. One regression is fitted for each rank, with the fixed strength C = 0.03 and at most 100
iterations. Balanced accuracy is decided by the logits less the logarithm of the class shares in training (Menon et al.
2021), micro accuracy by the logits. Classes that the training photos do not have cannot be answered.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np

from bioclip_jax.evaluation.cache import ArrayCache, digest
from bioclip_jax.evaluation.logistic import LogisticRegression
from bioclip_jax.images import ImageSource, decode, open_image

SIZE, BINS, GRID = 64, 6, 8
_BIN_OF_LEVEL = (np.arange(256) * BINS // 256).astype(np.int32)
INVERSE_STRENGTH = 0.03


class ColourFeatures:
    """Colour histogram and thumbnail as an image encoder; its features are not normalised."""

    name = "colour histogram and thumbnail"
    fingerprint = f"colour-histogram-{BINS}-thumbnail-{GRID}-of-{SIZE}-by-area"

    def preprocess(self, image: ImageSource) -> np.ndarray:
        """uint8 `[64, 64, 3]`."""
        pixels = decode(image) if isinstance(image, bytes) else np.asarray(open_image(image).convert("RGB"))
        return cv2.resize(pixels, (SIZE, SIZE), interpolation=cv2.INTER_AREA)

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        """Features of uint8 `[n, 64, 64, 3]`: float32 `[n, 408]`."""
        levels = _BIN_OF_LEVEL[images]
        codes = (levels[..., 0] * BINS + levels[..., 1]) * BINS + levels[..., 2]
        cells = BINS**3
        offsets = codes.reshape(len(images), -1) + np.arange(len(images), dtype=np.int32)[:, None] * cells
        counts = np.bincount(offsets.ravel(), minlength=len(images) * cells).reshape(len(images), cells)
        block = SIZE // GRID
        thumbnails = images.reshape(len(images), GRID, block, GRID, block, 3).mean(axis=(2, 4)).reshape(len(images), -1)
        return np.concatenate([np.sqrt(counts / SIZE**2), thumbnails / 255], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Standardiser:
    """Takes the training photos' mean away and divides by their standard deviation (1 where that is 0)."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray) -> Standardiser:
        """From training features `[n, d]`."""
        deviation = features.std(axis=0)
        return cls(features.mean(axis=0), np.where(deviation > 0, deviation, 1).astype(np.float32))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Standardised features `[n, d]`."""
        return (features - self.mean) / self.scale


@dataclass(frozen=True)
class Baseline:
    """A regression fitted for one rank; classes are those of the training photos, by label."""

    labels: tuple[str, ...]
    model: LogisticRegression
    log_shares: np.ndarray

    @classmethod
    def fit(cls, features: np.ndarray, labels: list[str], cache: ArrayCache) -> Baseline:
        """From standardised training features `[n, d]` and their labels; the same data are fitted only once."""
        names, numbers, counts = np.unique(labels, return_inverse=True, return_counts=True)
        about = hashlib.sha256(features.tobytes()).hexdigest()
        key = digest("baseline", ColourFeatures.fingerprint, INVERSE_STRENGTH, about, labels)
        kept = cache.get(key, {"weights", "intercept"})
        if kept is None:
            model = LogisticRegression.fit(features, numbers, classes=len(names), inverse_strength=INVERSE_STRENGTH)
            cache.put(key, {"weights": model.weights, "intercept": model.intercept})
        else:
            model = LogisticRegression(kept["weights"], kept["intercept"])
        return cls(tuple(names.tolist()), model, np.log(counts / counts.sum()))

    def predict(self, features: np.ndarray, candidates: tuple[str, ...], *, balanced: bool) -> np.ndarray:
        """The best of `candidates` for standardised features `[n, d]`: int64 `[n]`, -1 if training had none of them."""
        place = {label: number for number, label in enumerate(self.labels)}
        known = [number for number, label in enumerate(candidates) if label in place]
        if not known:
            return np.full(len(features), -1)
        columns = [place[candidates[number]] for number in known]
        scores = self.model.logits(features)[:, columns]
        if balanced:
            scores = scores - self.log_shares[columns]
        return np.array(known)[scores.argmax(axis=1)]
