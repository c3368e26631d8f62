"""Multi-head softmax attention on fused queries, keys and values, and which implementation runs where."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from bioclip_jax.config import Attention
from bioclip_jax.errors import UsageError
from bioclip_jax.models import attention_tpu
from bioclip_jax.parallel.mesh import BATCH_AXES

Implementation = Literal["xla", "cudnn", "pallas"]


def choose(attention: Attention, width: int, heads: int, dtype: jnp.dtype, mesh: Mesh | None) -> Implementation:
    """What `attention` means for blocks of `width` on the mesh's devices (without a mesh: JAX's default ones).

    'auto' takes the custom kernel on TPUs, cuDNN on NVIDIA GPUs (Ampere or later) in bfloat16, and XLA elsewhere or
    where these do not support the width.

    Raises:
        UsageError: 'pallas', and the heads do not fill whole vectors of 128.
    """
    device = _device(mesh)
    fits_pallas = attention_tpu.supports(width, heads) and jnp.dtype(dtype).itemsize <= 4
    if attention == "pallas" and not fits_pallas:
        lanes = attention_tpu.group_lanes(width // heads)
        raise UsageError(
            f"attention pallas: heads of {width // heads} need a width that is a multiple of {lanes}, not {width}, and "
            "at most float32; take xla"
        )
    if attention != "auto":
        return attention
    if device.platform == "tpu" and fits_pallas:
        return "pallas"
    # cuDNN's needs Ampere or later.
    has_cudnn = "NVIDIA" in device.device_kind and float(getattr(device, "compute_capability", 0)) >= 8
    if has_cudnn and jnp.dtype(dtype) == jnp.bfloat16 and width // heads % 8 == 0:
        return "cudnn"
    return "xla"


def _device(mesh: Mesh | None) -> jax.Device:
    return mesh.devices.flat[0] if mesh is not None else jax.devices()[0]


def attention(
    qkv: Float[Array, "batch tokens three_widths"],
    heads: int,
    *,
    is_causal: bool,
    implementation: Implementation,
    mesh: Mesh | None = None,
) -> Float[Array, "batch tokens width"]:
    """Multi-head softmax attention; queries, keys and values lie in that order along the last axis.

    The causal case is a flag, never a mask argument: cuDNN takes odd lengths only without one. `mesh` is what the
    batch is split over: a custom kernel runs on each device's rows, as XLA cannot split it.
    """
    if implementation == "pallas":
        return _pallas_attention(qkv, heads, is_causal, mesh)
    batch, tokens, three_widths = qkv.shape
    query, key, value = (part.reshape(batch, tokens, heads, -1) for part in jnp.split(qkv, 3, axis=-1))
    if implementation == "cudnn":
        out = jax.nn.dot_product_attention(query, key, value, is_causal=is_causal, implementation="cudnn")
    else:
        out = _softmax_attention(query, key, value, is_causal)
    return out.reshape(batch, tokens, three_widths // 3)


def _softmax_attention(query: Array, key: Array, value: Array, is_causal: bool) -> Array:
    # Not jax.nn.dot_product_attention: its softmax is float32 whatever the inputs, which float64 runs would show.
    wide = jnp.promote_types(query.dtype, jnp.float32)
    logits = jnp.einsum("bqhd,bkhd->bhqk", query, key, preferred_element_type=wide) * query.shape[-1] ** -0.5
    if is_causal:
        tokens = query.shape[1]
        visible = jnp.arange(tokens)[:, None] >= jnp.arange(tokens)
        logits = jnp.where(visible, logits, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weights, value)


def _pallas_attention(qkv: Array, heads: int, is_causal: bool, mesh: Mesh | None) -> Array:
    interpret = _device(mesh).platform != "tpu"

    def local(rows: Array) -> Array:
        return attention_tpu.attention(rows, heads, is_causal, interpret)

    if mesh is None or mesh.size == 1:
        return local(qkv)
    split = PartitionSpec(BATCH_AXES)
    # A kernel does not say over which axes its result varies, so that check is off; nothing here is replicated.
    return jax.shard_map(local, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)(qkv)
