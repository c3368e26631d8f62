"""The towers' mathematics as plain functions of arrays; the module layer on top only holds parameters."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from bioclip_jax.config import Activation, Attention


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """GELU: the exact erf form (Hendrycks and Gimpel 2016), or OpenAI CLIP's x * sigmoid(1.702 x)."""
    if activation == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.gelu(x, approximate=False)


def attention(
    qkv: Float[Array, "batch tokens three_widths"], heads: int, *, is_causal: bool, implementation: Attention
) -> Float[Array, "batch tokens width"]:
    """Multi-head softmax attention on fused queries, keys and values (in that order along the last axis).

    The causal case is a flag, never a mask argument: cuDNN takes odd lengths only without one.
    """
    batch, tokens, three_widths = qkv.shape
    query, key, value = jnp.moveaxis(qkv.reshape(batch, tokens, 3, heads, three_widths // (3 * heads)), 2, 0)
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


def patchify(
    images: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch patches patch_values"]:
    """Cuts images into patches, row by row; values within a patch are ordered row, column, channel.

    A convolution whose stride is its width is this and a matrix product.
    """
    batch, height, width, channels = images.shape
    rows, columns = height // patch_size, width // patch_size
    x = images.reshape(batch, rows, patch_size, columns, patch_size, channels)
    return x.swapaxes(2, 3).reshape(batch, rows * columns, patch_size * patch_size * channels)


def end_of_text(tokens: Int[Array, "batch tokens"]) -> Int[Array, " batch"]:
    """Position of the (first) end-of-text token, which has the highest id of the vocabulary."""
    return jnp.argmax(tokens, axis=-1)


def l2_normalize(x: Float[Array, "... d"], eps: float = 1e-12) -> Float[Array, "... d"]:
    """x / max(||x||, eps) along the last axis, as PyTorch's `F.normalize`; the gradient at zero is finite."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squared, eps * eps))


def normalize_pixels(
    images: Array, mean: tuple[float, float, float], std: tuple[float, float, float], dtype: jnp.dtype
) -> Float[Array, "batch height width 3"]:
    """uint8 pixels [batch, height, width, 3] to (x / 255 - mean) / std, computed in float32 at least."""
    wide = jnp.promote_types(dtype, jnp.float32)
    x = images.astype(wide) / 255
    return ((x - jnp.asarray(mean, wide)) / jnp.asarray(std, wide)).astype(dtype)
