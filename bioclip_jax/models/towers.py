"""The two towers of CLIP, each up to its projection into the shared space."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from bioclip_jax.config import CLIPConfig, RematPolicy
from bioclip_jax.models import functions
from bioclip_jax.models.transformer import LayerNorm, Linear, run_stack, stack


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, axes: tuple[str | None, ...], dtype: Any) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, dtype), axes=axes)


class VisionTower(nnx.Module):
    """Photo to pooled class token, and its projections."""

    def __init__(
        self,
        config: CLIPConfig,
        *,
        dtype: Any,
        param_dtype: Any,
        remat_policy: RematPolicy,
        mesh: Mesh | None,
        rngs: nnx.Rngs,
        **block: Any,
    ):
        """`block`: attention and activation of the blocks."""
        c = config.vision
        self.patch_size, self.remat_policy, self.dtype = c.patch_size, remat_policy, dtype
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "mesh": mesh}
        std, tokens = c.width**-0.5, (c.image_size // c.patch_size) ** 2 + 1
        values = c.patch_size * c.patch_size * 3
        self.patch_embedding = Linear(
            values, c.width, values**-0.5, ("patch", "embed"), use_bias=False, rngs=rngs, **types
        )
        self.class_embedding = _normal(rngs, (c.width,), std, ("embed",), param_dtype)
        self.positional_embedding = _normal(rngs, (tokens, c.width), std, (None, "embed"), param_dtype)
        self.ln_pre = LayerNorm(c.width, param_dtype=param_dtype, rngs=rngs)
        self.blocks = stack(
            c.layers, rngs, width=c.width, heads=c.heads, mlp_ratio=c.mlp_ratio, is_causal=False, **types, **block
        )
        self.ln_post = LayerNorm(c.width, param_dtype=param_dtype, rngs=rngs)
        self.proj = _normal(rngs, (c.width, config.embed_dim), std, ("embed", "joint"), param_dtype)
        if config.replay_projector:
            self.replay_proj = _normal(rngs, (c.width, config.embed_dim), std, ("embed", "joint"), param_dtype)

    def pool(self, images: Float[Array, "batch height width 3"]) -> Float[Array, "batch width"]:
        """Normalised photos to the class token after the last norm, in float32 at least."""
        with jax.named_scope("vision"):
            return self._pool(images)

    def _pool(self, images: Array) -> Array:
        x = self.patch_embedding(functions.patchify(images.astype(self.dtype), self.patch_size))
        first = jnp.broadcast_to(self.class_embedding[...], (x.shape[0], 1, x.shape[-1]))
        # Added in the parameters' type, so that their gradients are summed in it.
        x = jnp.concatenate([first, x.astype(first.dtype)], axis=1) + self.positional_embedding[...]
        x = run_stack(self.blocks, self.ln_pre(x.astype(self.dtype)), self.remat_policy)
        return self.ln_post(_wide(x[:, 0]))


class TextTower(nnx.Module):
    """Token ids to the end-of-text token, and its projection."""

    def __init__(
        self,
        config: CLIPConfig,
        *,
        dtype: Any,
        param_dtype: Any,
        remat_policy: RematPolicy,
        mesh: Mesh | None,
        rngs: nnx.Rngs,
        **block: Any,
    ):
        """`block`: attention and activation of the blocks."""
        c = config.text
        self.remat_policy, self.dtype = remat_policy, dtype
        self.token_embedding = _normal(rngs, (c.vocab_size, c.width), 0.02, ("vocab", "embed"), param_dtype)
        self.positional_embedding = _normal(rngs, (c.context_length, c.width), 0.01, (None, "embed"), param_dtype)
        types: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "mesh": mesh}
        self.blocks = stack(
            c.layers, rngs, width=c.width, heads=c.heads, mlp_ratio=c.mlp_ratio, is_causal=True, **types, **block
        )
        self.ln_final = LayerNorm(c.width, param_dtype=param_dtype, rngs=rngs)
        self.proj = _normal(rngs, (c.width, config.embed_dim), c.width**-0.5, ("embed", "joint"), param_dtype)

    def pool(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch width"]:
        """Token ids (any length up to the context) to the end-of-text token after the last norm, float32 at least.

        Attention is causal, so what is cut or padded after the end-of-text token changes nothing.
        """
        with jax.named_scope("text"):
            return self._pool(tokens)

    def _pool(self, tokens: Array) -> Array:
        # The gradient of a frequent token is a long sum, in which bfloat16 would stall.
        x = _wide(self.token_embedding[...])[tokens] + self.positional_embedding[...][: tokens.shape[1]]
        x = run_stack(self.blocks, x.astype(self.dtype), self.remat_policy)
        last = jnp.take_along_axis(x, functions.end_of_text(tokens)[:, None, None], axis=1)[:, 0]
        return self.ln_final(_wide(last))


def _wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
