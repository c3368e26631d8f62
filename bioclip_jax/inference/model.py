"""A model to use: photos and texts in, features out, computed on all devices of this process."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import PIL.Image
from jax.sharding import NamedSharding
from jaxtyping import Float, UInt8

from bioclip_jax import images as image_files
from bioclip_jax.checkpoints import weights_hash
from bioclip_jax.config import CLIPConfig, Preprocessing
from bioclip_jax.convert.card import Provenance
from bioclip_jax.convert.weights import Source, TreeWeights, flatten
from bioclip_jax.errors import UsageError
from bioclip_jax.images import ImageSource
from bioclip_jax.models import clip
from bioclip_jax.models.functions import l2_normalize, normalize_pixels
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.parallel.sharding import batch_sharding, replicated
from bioclip_jax.pipeline.loader import require_vocabulary
from bioclip_jax.pipeline.token_lengths import token_bucket
from bioclip_jax.text.tokenizer import Tokenizer

BATCH_SIZE = 64


def fingerprint(leaves: Iterable[tuple[str, Any]], config: CLIPConfig, preprocessing: Preprocessing) -> str:
    """Hash of all that decides a model's features; `leaves` are its float32 parameters by path, in any order."""
    rest = json.dumps([dataclasses.asdict(preprocessing), dataclasses.asdict(config)], sort_keys=True)
    return hashlib.sha256((weights_hash(leaves) + rest).encode()).hexdigest()


class Model:
    """A CLIP model with its tokenizer and preprocessing.

    Attributes:
      config: the model's shape.
      preprocessing: how photos become its input.
      parameters: its weights, a nested dict of arrays.
      name: what it is called in reports.
    """

    def __init__(self, config: CLIPConfig, preprocessing: Preprocessing, parameters: clip.Parameters, name: str = ""):
        """`parameters` as `models.clip.split` gives them (any float type; used in float32)."""
        self.config, self.preprocessing, self.name = config, preprocessing, name
        self.parameters = jax.tree.map(lambda x: jax.numpy.asarray(x, jax.numpy.float32), parameters)
        definition, _, _ = clip.abstract(config)
        require_vocabulary(config.text.vocab_size)
        self._tokenizer = Tokenizer(config.text.context_length)

        # float32 is promised: by default TPUs and newer GPUs would round the inputs of matrix products.
        @functools.partial(jax.jit, static_argnames="normalize")
        def image_features(parameters: clip.Parameters, photos: jax.Array, normalize: bool) -> jax.Array:
            with jax.default_matmul_precision("highest"):
                x = normalize_pixels(photos, preprocessing.mean, preprocessing.std, jax.numpy.dtype("float32"))
                features = clip.merge(definition, parameters).encode_image(x)
                return l2_normalize(features) if normalize else features

        @jax.jit
        def text_features(parameters: clip.Parameters, tokens: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest"):
                return l2_normalize(clip.merge(definition, parameters).encode_text(tokens))

        self._image_features, self._text_features = image_features, text_features

    def __repr__(self) -> str:
        vision, joint = self.config.vision, self.config.embed_dim
        return f"Model({self.name!r}, {vision.image_size} px in patches of {vision.patch_size} to {joint} numbers)"

    def encode_image(
        self,
        images: ImageSource | Sequence[ImageSource] | UInt8[np.ndarray, "n h w 3"],
        batch_size: int = BATCH_SIZE,
        *,
        normalize: bool = True,
    ) -> Float[np.ndarray, "n d"]:
        """float32 features of photos: paths, encoded bytes, Pillow images, or uint8 [n, h, w, 3].

        Args:
          images: one photo or several.
          batch_size: photos that each of this process's devices encodes at once.
          normalize: whether features are L2-normalised, or as the projector gives them.

        Raises:
          ImageError: a photo cannot be read.
          UsageError: an array of another type or shape.
        """
        encode = functools.partial(self._image_features, normalize=normalize)
        return self._batched(encode, self._photos(images), batch_size)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = BATCH_SIZE) -> Float[np.ndarray, "m d"]:
        """L2-normalised float32 features of texts, cut to the context length."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        tokens = self._tokenizer(texts)
        # Sorted by length, so that short texts are not computed at the length of the longest.
        lengths = np.argmax(tokens, axis=1) + 1
        features = np.zeros((len(texts), self.config.embed_dim), np.float32)
        buckets = np.array([token_bucket(int(n), self.config.text.context_length) for n in lengths], int)
        for bucket in np.unique(buckets):
            rows = np.flatnonzero(buckets == bucket)
            features[rows] = self._batched(self._text_features, [tokens[row, :bucket] for row in rows], batch_size)
        return features

    @functools.cached_property
    def logit_scale(self) -> float:
        """The factor between cosine similarities and logits."""
        return float(np.exp(np.asarray(self.parameters["logit_scale"], np.float64)))

    def preprocess(self, image: ImageSource) -> UInt8[np.ndarray, "size size 3"]:
        """A photo in the geometry of the model's evaluation; normalisation happens on the device."""
        p = self.preprocessing
        return image_files.evaluation_image(image, self.config.vision.image_size, p.geometry, p.interpolation)

    def save(
        self,
        destination: str | os.PathLike[str],
        to: str,
        *,
        license: str = "",  # noqa: A002 the card's word
        **options: Any,
    ) -> None:
        """Writes the model as a folder for others, or for `bioclip_jax.load`, whole or not at all.

        Args:
          destination: folder to make.
          to: `open_clip`, `hugging_face`, `orbax` or `onnx`.
          license: of the weights, for the card; an SPDX identifier.
          options: `dtype` (float32 if not given, float16, bfloat16), `keep_replay_projector`, `overwrite`.

        Raises:
          UsageError: an option that this model or format does not have, or a destination that may not be replaced.
          UserError: a weight is NaN or infinite, or the folder cannot be written.
        """
        from bioclip_jax.inference import export

        weights = TreeWeights(self.parameters)
        name = self.name or "model"
        source = Source(name, "parameters in memory", self.config, self.preprocessing, weights, Path(name).name)
        export.save(source, Path(destination), to, Provenance(license=license), **options)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of the weights, the model's shape and the preprocessing: what decides the features."""
        return fingerprint(flatten(self.parameters).items(), self.config, self.preprocessing)

    @functools.cached_property
    def _placed(self) -> tuple[clip.Parameters, NamedSharding | None]:
        """The parameters as encoding uses them, and how a batch is split over this process's devices, if it is.

        Parameters that lie on a mesh already stay there, and batches are whole.
        """
        devices = jax.local_devices()
        if len(devices) == 1 or any(len(leaf.devices()) > 1 for leaf in jax.tree.leaves(self.parameters)):
            return self.parameters, None
        mesh = make_mesh(devices=devices)
        return jax.device_put(self.parameters, replicated(mesh)), batch_sharding(mesh)

    def _photos(self, images: Any) -> Iterable[np.ndarray]:
        if isinstance(images, np.ndarray):
            if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
                raise UsageError(f"images: expected uint8 [n, h, w, 3], got {images.dtype} {list(images.shape)}")
            size = self.config.vision.image_size
            if images.shape[1:3] == (size, size):
                return list(images)
            return [self.preprocess(PIL.Image.fromarray(image)) for image in images]
        if isinstance(images, str | os.PathLike | bytes | PIL.Image.Image):
            images = [images]
        return (self.preprocess(image) for image in images)

    def _batched(
        self, encode: Callable[..., jax.Array], rows: Iterable[np.ndarray], batch_size: int
    ) -> Float[np.ndarray, "n d"]:
        """Encodes rows in batches padded to a power of two, so that few programs serve all, split over the devices."""
        parameters, sharding = self._placed
        devices = sharding.num_devices if sharding else 1
        most = batch_size * devices
        features, waiting = [], list[np.ndarray]()

        def flush() -> None:
            if waiting:
                size = min(most, 1 << (len(waiting) - 1).bit_length())
                size += -size % devices
                padded = np.stack(waiting + [waiting[-1]] * (size - len(waiting)))
                placed = jax.device_put(padded, sharding) if sharding else padded
                features.append(np.asarray(encode(parameters, placed))[: len(waiting)])
                waiting.clear()

        for row in rows:
            waiting.append(row)
            if len(waiting) == most:
                flush()
        flush()
        empty = np.zeros((0, self.config.embed_dim), np.float32)
        return np.concatenate([empty, *features])
