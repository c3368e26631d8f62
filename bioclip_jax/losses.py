"""The contrastive loss of CLIP (Radford et al. 2021, figure 3), over all rows of the global batch.

`contrastive_loss` is what runs: each device keeps its rows, gathers the texts, and shares only two numbers per column.
`reference_contrastive_loss` is the textbook form that tests compare it with.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

HIGHEST = jax.lax.Precision.HIGHEST  # TPUs and TF32 would round float32 inputs, which no CPU test shows


def reference_contrastive_loss(
    image_features: Float[Array, "batch d"], text_features: Float[Array, "batch d"], logit_scale: Float[Array, ""]
) -> Float[Array, ""]:
    """Mean of both directions' cross-entropy; features L2-normalised, `logit_scale` the multiplier (not its log)."""
    logits = logit_scale * jnp.dot(image_features, text_features.T, precision=HIGHEST)
    labels = jnp.arange(len(logits))
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)
    return (rows.mean() + columns.mean()) / 2


def contrastive_loss(
    image_features: Float[Array, "batch d"],
    text_features: Float[Array, "batch d"],
    logit_scale: Float[Array, ""],
    mesh: Mesh,
    axes: Sequence[str] = ("data", "fsdp"),
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Loss and in-batch accuracy of L2-normalised paired rows, the batch split over the mesh's `axes`.

    The accuracy is the share of photos whose own text scores highest; equal texts tie and count as right, as upstream.
    """
    names = tuple(axes)
    rows, everywhere = PartitionSpec(names), PartitionSpec()

    def local(image: Array, text: Array, scale: Array) -> tuple[Array, Array]:
        texts = jax.lax.all_gather(text, names, tiled=True)  # [batch, d]
        logits = scale * jnp.dot(image, texts.T, precision=HIGHEST)  # [rows, batch]
        first = jax.lax.axis_index(names) * len(image)
        own = jnp.take_along_axis(logits, (first + jnp.arange(len(image)))[:, None], axis=1)[:, 0]
        row_lse = jax.nn.logsumexp(logits, axis=1)
        column_lse = _logsumexp_over_rows(logits, names)
        total = jax.lax.psum(jnp.sum(row_lse - 2 * own), names) + jnp.sum(column_lse)
        hits = jax.lax.psum(jnp.sum(own >= jnp.max(logits, axis=1)), names)
        return total / (2 * len(texts)), hits / len(texts)

    split = jax.shard_map(local, mesh=mesh, in_specs=(rows, rows, everywhere), out_specs=(everywhere, everywhere))
    return split(image_features, text_features, logit_scale)


def _logsumexp_over_rows(logits: Float[Array, "rows batch"], names: tuple[str, ...]) -> Float[Array, " batch"]:
    """Column log-sum-exp over all devices' rows. The true maximum is subtracted: at scale 100 a constant underflows."""
    maximum = jax.lax.pmax(jax.lax.stop_gradient(jnp.max(logits, axis=0)), names)
    return maximum + jnp.log(jax.lax.psum(jnp.sum(jnp.exp(logits - maximum), axis=0), names))
