"""From parameters and a batch to the loss: the towers, in parts of the batch where memory asks for it, then the losses.

Streams never see each other's negatives (BioCLIP 2's experience replay): each has its own loss, and they are added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bioclip_jax.config import IMAGENET_MEAN, IMAGENET_STD, LossConfig, TrainConfig
from bioclip_jax.losses import automatic_chunk, caption_identity, contrastive_loss, species_loss
from bioclip_jax.models import clip
from bioclip_jax.models.functions import l2_normalize, normalize_pixels
from bioclip_jax.parallel.mesh import BATCH_AXES
from bioclip_jax.parallel.sharding import batch_sharding

Stream = Mapping[str, jax.Array]
"""image: uint8 [b, h, w, 3], or normalised floats; tokens: int32 [b, t]; where asked, species: int32 [b]."""
Batch = Mapping[str, Stream]
"""{"bio": the photos of organisms}, and "replay" beside it where there is one."""
SPECIES = "species"
"""The classifier of `LossConfig.kind` species among the parameters, and the labels in a stream."""


class Features(NamedTuple):
    """Of a stream, not normalised."""

    image: jax.Array
    """[b, embed_dim]; replay's are by its own projector where there is one."""
    text: jax.Array | None
    """[b, embed_dim]; None where there are no captions."""


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of a config on a mesh; pure functions of parameters and batch.

    Attributes:
        config: of the run.
        mesh: whose devices share the rows.
        definition: of the model, as `models.clip.split` gives it.
    """

    config: TrainConfig
    mesh: Mesh
    definition: Any

    def loss(self, parameters: clip.Parameters, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The sum of the streams' losses; their accuracies, and where there are several the parts of the sum."""
        features = self.encode(parameters, batch)
        losses, figures = {}, {}
        for name, stream in batch.items():
            losses[name], accuracy = self._stream_loss(parameters, features[name], stream)
            figures["accuracy" if name == "bio" else f"{name}_accuracy"] = accuracy
        if len(losses) > 1:
            figures |= {f"{name}_loss": value for name, value in losses.items()}
        return jnp.sum(jnp.stack(list(losses.values()))), figures

    def encode(self, parameters: clip.Parameters, batch: Batch) -> dict[str, Features]:
        """Features of all rows.

        With micro-batches the backward pass computes them again, part by part, so that only one part's activations are
        in memory; the result and its gradient are those of the whole batch (Gao et al. 2021, "GradCache").
        """
        parts = self.config.micro_batches
        if parts == 1:
            return self._encode_part(parameters, batch)
        rows = batch_sharding(self.mesh)
        # Interleaved, so that each part has equally many rows of every device.
        taken = jax.tree.map(lambda x: x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        taken = jax.lax.with_sharding_constraint(taken, NamedSharding(self.mesh, PartitionSpec(None, BATCH_AXES)))
        encode = jax.checkpoint(self._encode_part, prevent_cse=False)  # safe inside a scan
        features = jax.lax.scan(lambda _, part: (None, encode(parameters, part)), None, taken)[1]
        whole = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, x.shape[-1]), features)
        placed: dict[str, Features] = jax.lax.with_sharding_constraint(whole, rows)
        return placed

    def _encode_part(self, parameters: clip.Parameters, batch: Batch) -> dict[str, Features]:
        parameters = {
            name: jax.lax.stop_gradient(part) if name in self.config.locked else part
            for name, part in parameters.items()
            if name != SPECIES
        }
        model = clip.merge(self.definition, parameters)
        pooled = self._split(model.visual.pool(self._join([self.pixels(stream) for stream in batch.values()])), batch)
        features = {}
        for (name, stream), rows in zip(batch.items(), pooled, strict=True):
            replay = name == "replay" and self.config.model.replay_projector
            text = None if SPECIES in stream else model.encode_text(stream["tokens"])
            features[name] = Features(model.project_image(rows, replay=replay), text)
        return features

    def pixels(self, stream: Stream) -> jax.Array:
        """A stream's photos as the towers take them."""
        image, preprocessing = stream["image"], self.config.preprocessing
        if image.dtype != jnp.uint8:
            return image
        mean, std = preprocessing.mean, preprocessing.std
        if self.config.normalization == "imagenet":
            mean, std = IMAGENET_MEAN, IMAGENET_STD
        return normalize_pixels(image, mean, std, jnp.dtype(self.config.dtype))

    def _join(self, arrays: list[jax.Array]) -> jax.Array:
        """Rows of several streams as those of one, each device's own below one another: nothing moves between them."""
        if len(arrays) == 1:
            return arrays[0]
        devices = self.mesh.size
        joined = jnp.concatenate([x.reshape(devices, -1, *x.shape[1:]) for x in arrays], axis=1)
        rows: jax.Array = joined.reshape(-1, *joined.shape[2:])
        return jax.lax.with_sharding_constraint(rows, batch_sharding(self.mesh))

    def _split(self, rows: jax.Array, batch: Batch) -> list[jax.Array]:
        """The inverse of `_join`."""
        if len(batch) == 1:
            return [rows]
        devices = self.mesh.size
        sizes = [stream["image"].shape[0] // devices for stream in batch.values()]
        by_device = rows.reshape(devices, -1, rows.shape[-1])
        ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
        return [
            jax.lax.with_sharding_constraint(
                by_device[:, end - size : end].reshape(-1, rows.shape[-1]), batch_sharding(self.mesh)
            )
            for size, end in zip(sizes, ends, strict=True)
        ]

    def _stream_loss(
        self, parameters: clip.Parameters, features: Features, stream: Stream
    ) -> tuple[jax.Array, jax.Array]:
        if features.text is None:
            head = parameters[SPECIES]
            return species_loss(features.image, head["kernel"], head["bias"], stream[SPECIES])
        c: LossConfig = self.config.loss
        rows = len(features.image)
        return contrastive_loss(
            l2_normalize(features.image),
            l2_normalize(features.text),
            jnp.exp(parameters["logit_scale"].astype(features.image.dtype)),
            self.mesh,
            kind="sigmoid" if c.kind == "sigmoid" else "softmax",
            logit_bias=parameters["logit_bias"].astype(features.image.dtype) if c.kind == "sigmoid" else None,
            captions=caption_identity(stream["tokens"]) if c.several_positives else None,
            column_chunk=automatic_chunk(rows, self.mesh.size) if c.column_chunk == -1 else c.column_chunk,
            gather_bfloat16=c.gather_bfloat16,
        )
