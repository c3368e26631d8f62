"""Contrastive losses over all rows of the global batch: CLIP's softmax (Radford et al. 2021, figure 3) and SigLIP's
sigmoid (Zhai et al. 2023).

`contrastive_loss` is what runs: each device keeps its rows, gathers the texts once, and shares only one number per
column; where asked, logits are computed a chunk of columns at a time, and again for the gradient. The `reference_`
functions are the textbook forms that tests compare it with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt32

HIGHEST = jax.lax.Precision.HIGHEST  # TPUs and TF32 would round float32 inputs, which no CPU test shows

_NEVER = -1e30
"""A logit that no sum notices, and whose difference from itself is not NaN."""
CHUNK_COLUMNS, CHUNK_FROM_BYTES = 2048, 2**28
"""`automatic_chunk`: this many columns at a time, once a device's logits would take more bytes than that."""


def reference_contrastive_loss(
    image_features: Float[Array, "batch d"],
    text_features: Float[Array, "batch d"],
    logit_scale: Float[Array, ""],
    positives: Bool[Array, "batch batch"] | None = None,
) -> Float[Array, ""]:
    """Mean of both directions' cross-entropy; features L2-normalised, `logit_scale` the multiplier (not its log).

    A row's other `positives` are left out of its negatives, and those of its column likewise.
    """
    logits = logit_scale * jnp.dot(image_features, text_features.T, precision=HIGHEST)
    if positives is not None:
        logits = jnp.where(positives & ~jnp.eye(len(logits), dtype=bool), -jnp.inf, logits)
    labels = jnp.arange(len(logits))
    rows = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    columns = optax.softmax_cross_entropy_with_integer_labels(logits.T, labels)
    return (rows.mean() + columns.mean()) / 2


def reference_sigmoid_loss(
    image_features: Float[Array, "batch d"],
    text_features: Float[Array, "batch d"],
    logit_scale: Float[Array, ""],
    logit_bias: Float[Array, ""],
    positives: Bool[Array, "batch batch"] | None = None,
) -> Float[Array, ""]:
    """-log sigmoid(+-logit) of every pair, + for positives, summed over texts and averaged over photos."""
    logits = logit_scale * jnp.dot(image_features, text_features.T, precision=HIGHEST) + logit_bias
    positives = jnp.eye(len(logits), dtype=bool) if positives is None else positives
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(jnp.where(positives, logits, -logits)), axis=1))


def contrastive_loss(
    image_features: Float[Array, "batch d"],
    text_features: Float[Array, "batch d"],
    logit_scale: Float[Array, ""],
    mesh: Mesh,
    *,
    kind: Literal["softmax", "sigmoid"] = "softmax",
    logit_bias: Float[Array, ""] | None = None,
    captions: UInt32[Array, "batch 2"] | None = None,
    column_chunk: int = 0,
    gather_bfloat16: bool = False,
    axes: Sequence[str] = ("data", "fsdp"),
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Loss and in-batch accuracy of L2-normalised paired rows, the batch split over the mesh's `axes`.

    The accuracy is the share of photos whose own text scores highest; equal texts tie and count as right, as upstream.

    Args:
        image_features: of the photos.
        text_features: of their captions.
        logit_scale: the multiplier, not its log.
        mesh: of the devices.
        kind: of loss.
        logit_bias: added to the logits; for the sigmoid loss.
        captions: of `caption_identity`, where rows with equal captions are not to be negatives of each other. With
            softmax they are left out; to share the target among them, as UniCL does (Yang et al. 2022), would change
            no gradient, for their texts have equal features. With sigmoid they are positives.
        column_chunk: texts whose logits are in memory at once, 0 for all; the next smaller divisor of the batch is
            taken. Each chunk's logits are computed again for the gradient.
        gather_bfloat16: exchange and multiply features in bfloat16 (the gradient of the texts is summed in it, too);
            otherwise in the features' own type, at the highest precision.
        axes: over which the batch is split.
    """
    names = tuple(axes)
    rows, whole = PartitionSpec(names), PartitionSpec()
    batch = len(image_features)
    chunks = batch // _divisor(batch, column_chunk or batch)
    reduce = _softmax if kind == "softmax" else _sigmoid

    def local(image: Array, text: Array, captions: Array | None, scale: Array, bias: Array | None) -> tuple[Array, ...]:
        wide = image.dtype
        if gather_bfloat16:
            image, text = image.astype(jnp.bfloat16), text.astype(jnp.bfloat16)
        texts = _gathered(text, names)  # [batch, d]
        columns = jnp.arange(batch)[:, None]
        own = columns[: len(image)] + jax.lax.axis_index(names) * len(image)
        # Who is a positive of whom: those with one caption, otherwise everybody of itself.
        here, everywhere = (own, columns) if captions is None else (captions, _gathered(captions, names))

        def chunk(texts: Array, columns: Array, captions: Array) -> _Statistics:
            dot = jnp.dot(image, texts.T, precision=HIGHEST, preferred_element_type=wide)
            logits = scale * dot + (0 if bias is None else bias)  # [rows, columns]
            return _statistics(logits, (here[:, None] == captions).all(axis=-1), own == columns.T, kind)

        parts = _in_chunks(chunk, (texts, columns, everywhere), chunks)
        hits = jax.lax.psum(jnp.sum(jnp.sum(parts.own, axis=0) >= jnp.max(parts.highest, axis=0)), names)
        return reduce(parts, names) / batch, hits / batch

    arguments = (image_features, text_features, captions, logit_scale, logit_bias)
    specs = (rows, rows, rows, whole, whole)
    split = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(whole, whole))
    loss, accuracy = split(*arguments)
    return loss, accuracy


def caption_identity(tokens: Int[Array, "batch tokens"]) -> UInt32[Array, "batch 2"]:
    """Two hashes of each row's token ids: rows with equal captions have equal ones, others by a chance of 2^-64."""
    ids = tokens.astype(jnp.uint32)
    hashes = []
    for multiplier, seed in ((0x9E3779B1, 0x85EBCA77), (0xC2B2AE3D, 0x27D4EB2F)):  # xxHash's primes
        value = jnp.full(len(tokens), seed, jnp.uint32)
        for place in range(tokens.shape[1]):
            value = (value ^ ids[:, place]) * jnp.uint32(multiplier)
            value = value ^ (value >> 15)
        hashes.append(value)
    return jnp.stack(hashes, axis=1)


def automatic_chunk(batch: int, devices: int) -> int:
    """How many columns at a time: 0 for all while a device's float32 logits are small, or no divisor is near 2,048."""
    if 4 * batch * batch // devices <= CHUNK_FROM_BYTES:
        return 0
    near = range(CHUNK_COLUMNS // 4, 4 * CHUNK_COLUMNS)
    return min((size for size in near if batch % size == 0), key=lambda size: abs(size - CHUNK_COLUMNS), default=0)


class _Statistics(NamedTuple):
    """What a chunk of columns adds to the loss, of all columns with a leading axis of chunks."""

    rows: Array
    """softmax: log-sum-exp of each row, [rows]; sigmoid: summed losses of each row."""
    columns: Array
    """softmax: log-sum-exp of each column over this device's rows, [columns]; sigmoid: nothing."""
    own: Array
    """Each row's own logit where this chunk has it, else 0, [rows]."""
    highest: Array
    """Each row's highest logit, [rows]; without gradient."""


def _statistics(logits: Array, positive: Array, own: Array, kind: str) -> _Statistics:
    if kind == "softmax":
        # Not -inf: a device may have no negative of a column at all.
        contrasted = jnp.where(positive & ~own, _NEVER, logits)
        rows, columns = (jax.nn.logsumexp(contrasted, axis=axis) for axis in (1, 0))
    else:
        rows = -jnp.sum(jax.nn.log_sigmoid(jnp.where(positive, logits, -logits)), axis=1)
        columns = jnp.zeros(0, logits.dtype)
    return _Statistics(
        rows=rows,
        columns=columns,
        own=jnp.sum(jnp.where(own, logits, 0), axis=1),
        highest=jnp.max(jax.lax.stop_gradient(logits), axis=1),
    )


def _softmax(parts: _Statistics, names: tuple[str, ...]) -> Array:
    """Summed cross-entropies of both directions, halved."""
    rows, own = jax.nn.logsumexp(parts.rows, axis=0), jnp.sum(parts.own, axis=0)
    columns = parts.columns.reshape(-1)  # over this device's rows; of all rows:
    # The true maximum is subtracted: at scale 100 a constant underflows.
    highest = jax.lax.pmax(jax.lax.stop_gradient(columns), names)
    columns = highest + jnp.log(jax.lax.psum(jnp.exp(columns - highest), names))
    return (jax.lax.psum(jnp.sum(rows - 2 * own), names) + jnp.sum(columns)) / 2


def _sigmoid(parts: _Statistics, names: tuple[str, ...]) -> Array:
    return jax.lax.psum(jnp.sum(parts.rows), names)


def _in_chunks(function: Callable[..., Any], arrays: tuple[Array, ...], chunks: int) -> Any:
    """`function` of equal parts of `arrays`, one after the other; results gain a leading axis of chunks."""
    if chunks == 1:
        return jax.tree.map(lambda x: x[None], function(*arrays))
    parts = tuple(x.reshape(chunks, -1, *x.shape[1:]) for x in arrays)
    again = jax.checkpoint(function, prevent_cse=False)  # safe inside a scan
    return jax.lax.scan(lambda _, part: (None, again(*part)), None, parts)[1]


def _gathered(rows: Array, names: tuple[str, ...]) -> Array:
    return jax.lax.all_gather(rows, names, tiled=True)


def _divisor(number: int, at_most: int) -> int:
    """The largest divisor of `number` that is not above `at_most`."""
    return next(size for size in range(min(at_most, number), 0, -1) if number % size == 0)


def species_loss(
    image_features: Float[Array, "batch d"],
    kernel: Float[Array, "d species"],
    bias: Float[Array, " species"],
    species: Int[Array, " batch"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Mean cross-entropy and accuracy of a linear classifier: species without captions or a tree.

    Arithmetic in the features' type at the highest precision; rows may be split over devices.
    """
    logits = jnp.dot(image_features, kernel, precision=HIGHEST) + bias
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, species).mean()
    return loss, jnp.mean(jnp.argmax(logits, axis=1) == species)
