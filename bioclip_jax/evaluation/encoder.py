"""What evaluation asks of a model: nothing else of it is used, so any model that can answer can be measured."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Protocol, cast

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.images import ImageSource


class ImageEncoder(Protocol):
    """Turns photos into features."""

    @property
    def name(self) -> str:
        """As shown in tables."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hash of weights and preprocessing: features are cached under it."""
        ...

    def preprocess(self, image: ImageSource) -> np.ndarray:
        """One photo at the model's evaluation geometry: uint8 `[size, size, 3]`."""
        ...

    def encode_image(self, images: np.ndarray) -> np.ndarray:
        """Features of preprocessed photos uint8 `[n, size, size, 3]`: float32 `[n, d]`."""
        ...


class RawImageEncoder(Protocol):
    """A model that also gives features as its projector leaves them; probes and some clusterings want those."""

    def encode_image(self, images: np.ndarray, *, normalize: bool) -> np.ndarray:
        """The features, L2-normalised or not: float32 `[n, d]`."""
        ...


def gives_raw_features(encoder: ImageEncoder) -> bool:
    """Whether `encoder` is a `RawImageEncoder` too."""
    return "normalize" in inspect.signature(encoder.encode_image).parameters


def raw_features(encoder: ImageEncoder, images: np.ndarray) -> np.ndarray:
    """Features that are not normalised, where the encoder has such: float32 `[n, d]`."""
    if gives_raw_features(encoder):
        return cast(RawImageEncoder, encoder).encode_image(images, normalize=False)
    return encoder.encode_image(images)


class Encoder(ImageEncoder, Protocol):
    """A CLIP model: features of images and texts live in one space and are L2-normalised."""

    @property
    def logit_scale(self) -> float:
        """The multiplier of similarities, exponential applied."""
        ...

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """float32 `[m, d]`, L2-normalised."""
        ...


def require_finite(features: np.ndarray, what: Sequence[str], encoder_name: str) -> np.ndarray:
    """Returns `features` `[n, d]`; raises a `UserError` that names the first of `what` with one that is not finite."""
    bad = ~np.isfinite(features).all(axis=1)
    if bad.any():
        first = what[int(bad.argmax())]
        raise UserError(
            f"model {encoder_name!r} gives NaN or infinite features for {bad.sum()} of {len(bad)} inputs "
            f"(first: {first!r}): its weights are damaged or its training diverged; evaluate another checkpoint"
        )
    return features
