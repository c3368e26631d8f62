"""One pre-norm Transformer block, and a stack of them as one module whose parameters have a leading layer axis.

Both towers use it. Scan and rematerialisation live here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from bioclip_jax.config import LAYER_NORM_EPS, Activation, Attention, RematPolicy
from bioclip_jax.models import functions


def linear(inputs: int, outputs: int, std: float, axes: tuple[str, str], rngs: nnx.Rngs, **options: Any) -> nnx.Linear:
    """A dense layer with normal initial weights and zero biases; `axes` are the kernel's logical axes."""
    return nnx.Linear(
        inputs,
        outputs,
        kernel_init=nnx.initializers.normal(std),
        kernel_metadata={"axes": axes},
        bias_metadata={"axes": axes[1:]},
        rngs=rngs,
        **options,
    )


class LayerNorm(nnx.Module):
    """Layer normalisation: statistics and arithmetic in float32 at least, the result in the input's type."""

    def __init__(self, width: int, *, param_dtype: Any, rngs: nnx.Rngs):
        """`width`: size of the last axis, over which statistics are taken."""
        del rngs  # starts from constants
        self.scale = nnx.Param(jnp.ones(width, param_dtype), axes=("embed",))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype), axes=("embed",))

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """(x - mean) / sqrt(variance + eps) * scale + bias (Ba et al. 2016)."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        normal = centred * jax.lax.rsqrt(variance + LAYER_NORM_EPS)
        return (normal * self.scale[...] + self.bias[...]).astype(x.dtype)


class Block(nnx.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float,
        layers: int,
        *,
        is_causal: bool,
        activation: Activation,
        attention: Attention,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        """Initial weights follow CLIP's released code: residual outputs shrink with the number of `layers`."""
        self.heads, self.is_causal = heads, is_causal
        self.activation, self.attention = activation, attention
        hidden = int(width * mlp_ratio)
        std, out_std = width**-0.5, (2 * layers * width) ** -0.5
        types = {"dtype": dtype, "param_dtype": param_dtype}
        self.ln_1 = LayerNorm(width, param_dtype=param_dtype, rngs=rngs)
        self.qkv = linear(width, 3 * width, std, ("embed", "heads"), rngs, **types)
        self.out = linear(width, width, out_std, ("heads", "embed"), rngs, **types)
        self.ln_2 = LayerNorm(width, param_dtype=param_dtype, rngs=rngs)
        self.fc = linear(width, hidden, (2 * width) ** -0.5, ("embed", "mlp"), rngs, **types)
        self.proj = linear(hidden, width, out_std, ("mlp", "embed"), rngs, **types)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """One block; the result has x's type."""
        context = functions.attention(
            self.qkv(self.ln_1(x)), self.heads, is_causal=self.is_causal, implementation=self.attention
        )
        x = x + self.out(context)
        return x + self.proj(functions.activate(self.fc(self.ln_2(x)), self.activation))


def stack(layers: int, rngs: nnx.Rngs, **block_arguments: Any) -> Block:
    """`layers` blocks as one `Block` whose parameters have a leading axis of that length."""
    make = nnx.vmap(lambda r: Block(layers=layers, rngs=r, **block_arguments), in_axes=0, out_axes=0)
    return make(rngs.split(layers))


def run_stack(
    blocks: Block, x: Float[Array, "batch tokens width"], remat_policy: RematPolicy
) -> Float[Array, "batch tokens width"]:
    """Applies stacked blocks in order with `jax.lax.scan`; `remat_policy` says what the backward pass recomputes."""

    def body(x: Array, block: Block) -> tuple[Array, None]:
        return block(x), None  # activations only: returning the block would stack its parameters as outputs

    if remat_policy != "none":
        policies = jax.checkpoint_policies
        policy = {"dots": policies.dots_with_no_batch_dims_saveable, "full": policies.nothing_saveable}[remat_policy]
        body = jax.checkpoint(body, policy=policy, prevent_cse=False)  # safe only because it is inside a scan
    return jax.lax.scan(body, x, blocks)[0]
