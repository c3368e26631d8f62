"""One pre-norm Transformer block, and a stack of them as one module whose parameters have a leading layer axis.

Both towers use it. Scan and rematerialisation live here and nowhere else.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jaxtyping import Array, Float

from bioclip_jax.config import LAYER_NORM_EPS, Activation, Attention, RematPolicy
from bioclip_jax.models import attention as attention_module
from bioclip_jax.models import functions
from bioclip_jax.parallel.sharding import batch_sharding, replicated


class Linear(nnx.Module):
    """A dense layer with normal initial weights and zero biases; gradients have the parameters' type."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        std: float,
        axes: tuple[str, str],
        *,
        dtype: Any,
        param_dtype: Any,
        mesh: Mesh | None,
        rngs: nnx.Rngs,
        use_bias: bool = True,
    ):
        """`std` of the initial kernel, `axes` its logical axes."""
        self.dtype, self.whole = dtype, None if mesh is None else replicated(mesh)
        kernel = std * jax.random.normal(rngs.params(), (inputs, outputs), param_dtype)
        self.kernel = nnx.Param(kernel, axes=axes)
        self.bias = nnx.Param(jnp.zeros(outputs, param_dtype), axes=axes[1:]) if use_bias else None

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """x @ kernel + bias, in `dtype`."""
        bias = None if self.bias is None else self.bias[...]
        return functions.dense(x.astype(self.dtype), self.kernel[...], bias, self.whole)


class LayerNorm(nnx.Module):
    """Layer normalisation: statistics and arithmetic in float32 at least, the result in the input's type."""

    def __init__(self, width: int, *, param_dtype: Any, rngs: nnx.Rngs):
        """`width`: size of the last axis, over which statistics are taken."""
        del rngs  # starts from constants
        self.scale = nnx.Param(jnp.ones(width, param_dtype), axes=("embed",))
        self.bias = nnx.Param(jnp.zeros(width, param_dtype), axes=("embed",))

    def __call__(self, x: Float[Array, "... width"]) -> Float[Array, "... width"]:
        """(x - mean) / sqrt(variance + eps) * scale + bias (Ba et al. 2016)."""
        with jax.named_scope("norm"):
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            mean, variance = _moments(wide, one_pass=x.dtype == jnp.bfloat16)
            mean = checkpoint_name(mean, "statistics")[..., None]
            scale = checkpoint_name(jax.lax.rsqrt(variance + LAYER_NORM_EPS), "statistics")[..., None]
            return ((wide - mean) * scale * self.scale[...] + self.bias[...]).astype(x.dtype)


def _moments(x: Float[Array, "... width"], *, one_pass: bool) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean and variance over the last axis. In one pass the variance loses digits that bfloat16 inputs do not have."""
    mean = jnp.mean(x, axis=-1)
    if one_pass:
        return mean, jnp.maximum(jnp.mean(x * x, axis=-1) - mean * mean, 0)
    centred = x - mean[..., None]
    return mean, jnp.mean(centred * centred, axis=-1)


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
        mesh: Mesh | None,
        dtype: Any,
        param_dtype: Any,
        rngs: nnx.Rngs,
    ):
        """Initial weights follow CLIP's released code: residual outputs shrink with the number of `layers`."""
        self.heads, self.is_causal = heads, is_causal
        self.activation, self.mesh = activation, mesh
        self.attention = attention_module.choose(attention, width, heads, dtype, mesh)
        hidden = int(width * mlp_ratio)
        std, out_std = width**-0.5, (2 * layers * width) ** -0.5
        types = {"dtype": dtype, "param_dtype": param_dtype, "mesh": mesh}
        self.ln_1 = LayerNorm(width, param_dtype=param_dtype, rngs=rngs)
        self.qkv = Linear(width, 3 * width, std, ("embed", "heads"), rngs=rngs, **types)
        self.out = Linear(width, width, out_std, ("heads", "embed"), rngs=rngs, **types)
        self.ln_2 = LayerNorm(width, param_dtype=param_dtype, rngs=rngs)
        self.fc = Linear(width, hidden, (2 * width) ** -0.5, ("embed", "mlp"), rngs=rngs, **types)
        self.proj = Linear(hidden, width, out_std, ("mlp", "embed"), rngs=rngs, **types)

    def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
        """One block; the result has x's type. Scopes name the parts in profiles and in the compiler's estimates."""
        with jax.named_scope("attention"):
            qkv = checkpoint_name(self.qkv(self.ln_1(x)), "qkv")
            context = attention_module.attention(
                qkv, self.heads, is_causal=self.is_causal, implementation=self.attention, mesh=self.mesh
            )
            x = x + checkpoint_name(self.out(checkpoint_name(context, "context")), "mixed")
        with jax.named_scope("mlp"):
            hidden = checkpoint_name(self.fc(self.ln_2(x)), "hidden")
            return x + self.proj(functions.activate(hidden, self.activation))


_SAVED: dict[RematPolicy, tuple[str, ...]] = {
    "dots": ("qkv", "context", "mixed", "hidden", "statistics"),
    "mlp": ("context", "hidden", "statistics"),
    "attention": ("qkv", "context", "statistics"),
    "context": ("context", "statistics"),
    "full": (),
}


def stack(layers: int, rngs: nnx.Rngs, **block_arguments: Any) -> Block:
    """`layers` blocks as one `Block` whose parameters have a leading axis of that length."""
    make = nnx.vmap(lambda r: Block(layers=layers, rngs=r, **block_arguments), in_axes=0, out_axes=0)
    return make(rngs.split(layers))


def run_stack(
    blocks: Block, x: Float[Array, "batch tokens width"], remat_policy: RematPolicy
) -> Float[Array, "batch tokens width"]:
    """Applies stacked blocks in order with `jax.lax.scan`; `remat_policy` says what the backward pass recomputes."""

    def body(x: Array, block: Block) -> tuple[Array, None]:
        # Activations only: returning the block would stack its parameters as outputs.
        return split_batch(block(x), blocks.mesh), None

    if remat_policy != "none":
        # Without prevent_cse it is safe only because it is inside a scan.
        body = jax.checkpoint(
            body, policy=jax.checkpoint_policies.save_only_these_names(*_SAVED[remat_policy]), prevent_cse=False
        )
    return jax.lax.scan(body, split_batch(x, blocks.mesh), blocks)[0]


def split_batch(x: Float[Array, "batch ..."], mesh: Mesh | None) -> Float[Array, "batch ..."]:
    """x, each device holding its rows. Beside split parameters the compiler may otherwise gather activations."""
    return x if mesh is None else jax.lax.with_sharding_constraint(x, batch_sharding(mesh))
