"""The towers' mathematics as plain functions of arrays; the module layer on top only holds parameters."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Sharding
from jaxtyping import Array, Float, Int

from bioclip_jax.config import Activation


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """GELU: the exact erf form (Hendrycks and Gimpel 2016), or OpenAI CLIP's x * sigmoid(1.702 x).

    In bfloat16 the erf form is computed by a formula that is within 3e-5 of it (its derivative within 1.1e-4), a
    hundredth of what bfloat16 resolves at 1, with half the instructions.
    """
    if activation == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    if x.dtype == jnp.bfloat16:
        return _short_gelu(x.astype(jnp.float32)).astype(x.dtype)
    return _gelu(x)


@jax.custom_vjp
def _gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x Phi(x), as PyTorch writes it; only x is kept for the gradient, Phi(x) + x phi(x)."""
    return x * _normal_cdf(x)


def _gelu_forward(x: Array) -> tuple[Array, Array]:
    return _gelu(x), x


def _gelu_backward(x: Array, gradient: Array) -> tuple[Array]:
    density = jnp.exp(-0.5 * x * x) * (2 * math.pi) ** -0.5
    return (gradient * (_normal_cdf(x) + x * density),)


_gelu.defvjp(_gelu_forward, _gelu_backward)


def _normal_cdf(x: Array) -> Array:
    return 0.5 + 0.5 * jax.lax.erf(x * 0.5**0.5)


def _short_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x (1 + tanh(z p(z^2))) / 2 with z = x held in -5..5; p was fitted to the value and derivative of the erf form."""
    z = jnp.clip(x, -5.0, 5.0)
    square = z * z
    inner = z * (0.7975086657 + square * (0.0370039551 - 0.000351247575 * square))
    half = 0.5 * x
    return half + half * jnp.tanh(inner)


def dense(
    x: Float[Array, "... inputs"],
    kernel: Float[Array, "inputs outputs"],
    bias: Float[Array, " outputs"] | None,
    whole: Sharding | None = None,
) -> Float[Array, "... outputs"]:
    """x @ kernel + bias in x's type, whose gradients for `kernel` and `bias` are summed and returned in their own type.

    JAX's own gradient of a kernel cast to bfloat16 is rounded to bfloat16 before devices add up their shares. `whole`:
    the sharding of an array that is not split; split parameters are gathered to it in x's type, and their gradients
    summed in it. The compiler left alone takes products apart instead, into many small ones between exchanges.
    """
    out = _matmul(x, kernel, whole)
    return out if bias is None else _add(out, bias, whole)


def _place(x: Array, sharding: Sharding | None) -> Array:
    return x if sharding is None else jax.lax.with_sharding_constraint(x, sharding)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x: Array, kernel: Array, whole: Sharding | None) -> Array:
    return jnp.dot(x, _place(kernel.astype(x.dtype), whole))


def _matmul_forward(x: Array, kernel: Array, whole: Sharding | None) -> tuple[Array, tuple[Array, Array]]:
    return _matmul(x, kernel, whole), (x, kernel)


def _matmul_backward(whole: Sharding | None, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows = tuple(range(x.ndim - 1))
    wide = jnp.promote_types(x.dtype, kernel.dtype)
    summed = jax.lax.dot_general(x, gradient, ((rows, rows), ((), ())), preferred_element_type=wide)
    return jnp.dot(gradient, _place(kernel.astype(x.dtype), whole).T), _place(summed, whole).astype(kernel.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _add(x: Array, bias: Array, whole: Sharding | None) -> Array:
    return x + _place(bias.astype(x.dtype), whole)


def _add_forward(x: Array, bias: Array, whole: Sharding | None) -> tuple[Array, Array]:
    return _add(x, bias, whole), bias


def _add_backward(whole: Sharding | None, bias: Array, gradient: Array) -> tuple[Array, Array]:
    wide = jnp.promote_types(gradient.dtype, bias.dtype)
    summed = jnp.sum(gradient, axis=range(gradient.ndim - bias.ndim), dtype=wide)
    return gradient, _place(summed, whole).astype(bias.dtype)


_add.defvjp(_add_forward, _add_backward)


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
