"""AdamW with OpenCLIP's parameter groups and schedules (OpenCLIP's `training/main.py` and `scheduler.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bioclip_jax.config import OptimizerConfig

NOT_DECAYED = ("bias", "scale", "class_embedding", "logit_scale", "logit_bias")
"""Last names of the parameters without weight decay: all that are vectors in one layer (upstream: `ndim < 2`)."""


def learning_rate_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The rate of each step, counted from 0.

    Linear warm-up, lr * (step + 1) / warmup; then half a cosine to zero at `total_steps`, or the constant rate and,
    over the last `cooldown_steps`, a line to zero there.
    """

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(step, jax.dtypes.canonicalize_dtype(jnp.float64))
        warm = (count + 1) / max(config.warmup_steps, 1)
        progress = (count - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
        if config.schedule == "cosine":
            then = 0.5 * (1 + jnp.cos(jnp.pi * progress))
        else:
            then = jnp.minimum(1.0, (total_steps - count) / max(config.cooldown_steps, 1))
            then = then if config.cooldown_steps else jnp.ones_like(count)
        return config.learning_rate * jnp.where(count < config.warmup_steps, warm, then)

    return schedule


def decay_mask(parameters: Any) -> Any:
    """True where weight decay applies, for a tree of parameters."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, parameters)


def make_optimizer(config: OptimizerConfig, locked: Sequence[str] = ()) -> optax.GradientTransformation:
    """Adam's direction plus decoupled weight decay (Loshchilov and Hutter 2019), which PyTorch's AdamW steps against.

    The step's rate is applied by whoever updates. `locked` towers get no moments.
    """
    adamw = optax.chain(
        optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps, mu_dtype=_moment_dtype(config)),
        optax.add_decayed_weights(config.weight_decay, decay_mask),
    )
    if not locked:
        return adamw

    def trained(parameters: Any) -> Any:
        return {name: jax.tree.map(lambda _, on=name not in locked: on, part) for name, part in parameters.items()}

    # What is left out of a mask passes as it came: the gradient of a locked tower is zero.
    return optax.masked(adamw, trained)


def _moment_dtype(config: OptimizerConfig) -> Any:
    return jnp.bfloat16 if config.moment_dtype == "bfloat16" else None
