"""CLIP: two towers and a temperature (Radford et al. 2021), with BioCLIP 2's optional second visual projector.

The module holds parameters only. `split` turns it into a static definition and a plain tree of arrays, which is what
the optimiser, checkpoints and conversion work on; `merge` turns them back inside a jitted function.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from bioclip_jax.config import Attention, CLIPConfig, Precision, RematPolicy
from bioclip_jax.models.towers import TextTower, VisionTower

Parameters = dict[str, Any]
"""A nested dict of arrays; blocks are stacked, so that a path such as text/blocks/qkv/kernel is one array."""

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
INITIAL_SIGMOID_LOGIT_SCALE, INITIAL_LOGIT_BIAS = math.log(10), -10.0
"""Where the logits have a bias (SigLIP; Zhai et al. 2023, section 3.2)."""


class CLIP(nnx.Module):
    """Image and text towers into one space. All parameters are `nnx.Param`."""

    def __init__(
        self,
        config: CLIPConfig,
        *,
        rngs: nnx.Rngs,
        dtype: Precision = "float32",
        param_dtype: Precision = "float32",
        remat_policy: RematPolicy = "none",
        attention: Attention = "xla",
        mesh: Mesh | None = None,
    ):
        """`dtype` is the towers' arithmetic, `param_dtype` what is stored and updated.

        `mesh`: what the batch is split over; None leaves that to the compiler, and custom kernels to one device.
        """
        options: dict[str, Any] = {
            "dtype": jnp.dtype(dtype),
            "param_dtype": jnp.dtype(param_dtype),
            "remat_policy": remat_policy,
            "attention": attention,
            "mesh": mesh,
            "activation": config.activation,
            "rngs": rngs,
        }
        self.visual = VisionTower(config, **options)
        self.text = TextTower(config, **options)
        scale = INITIAL_SIGMOID_LOGIT_SCALE if config.logit_bias else INITIAL_LOGIT_SCALE
        self.logit_scale = nnx.Param(jnp.asarray(scale, param_dtype), axes=())
        if config.logit_bias:
            self.logit_bias = nnx.Param(jnp.asarray(INITIAL_LOGIT_BIAS, param_dtype), axes=())

    def encode_image(
        self, images: Float[Array, "batch height width 3"], *, replay: bool = False
    ) -> Float[Array, "batch embed_dim"]:
        """Normalised photos to features, not L2-normalised; `replay` takes the second projector."""
        return self.project_image(self.visual.pool(images), replay=replay)

    def project_image(
        self, pooled: Float[Array, "batch width"], *, replay: bool = False
    ) -> Float[Array, "batch embed_dim"]:
        """What `encode_image` does after the tower."""
        proj = self.visual.replay_proj if replay else self.visual.proj
        return jnp.dot(pooled, proj[...], precision=jax.lax.Precision.HIGHEST)

    def encode_text(self, tokens: Int[Array, "batch tokens"]) -> Float[Array, "batch embed_dim"]:
        """Token ids to features, not L2-normalised."""
        return jnp.dot(self.text.pool(tokens), self.text.proj[...], precision=jax.lax.Precision.HIGHEST)


def split(model: CLIP) -> tuple[Any, Parameters]:
    """The model's static definition and its parameters as a plain nested dict of arrays."""
    definition, state = nnx.split(model)
    return definition, nnx.to_pure_dict(state)


def merge(definition: Any, parameters: Parameters) -> CLIP:
    """The model again; call it inside the jitted function, so that only arrays cross its border."""
    return nnx.merge(definition, nnx.State(parameters))


def abstract(config: CLIPConfig, **options: Any) -> tuple[Any, Parameters, Parameters]:
    """Static definition, parameter shapes, and each parameter's logical axes, without computing anything.

    Axes are tuples of names, one per dimension; a stacked block's parameters start with 'layers'.
    """
    model = nnx.eval_shape(lambda: CLIP(config, rngs=nnx.Rngs(0), **options))
    definition, state = nnx.split(model)
    shapes = nnx.to_pure_dict(state)
    axes = {path: variable.get_metadata()["axes"] for path, variable in nnx.to_flat_state(state)}
    flat = {
        path: ("layers",) * (value.ndim - len(axes[path])) + tuple(axes[path])
        for path, value in nnx.traversals.flatten_mapping(shapes).items()
    }
    return definition, shapes, nnx.traversals.unflatten_mapping(flat)
