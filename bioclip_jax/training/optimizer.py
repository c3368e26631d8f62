"""AdamW with OpenCLIP's parameter groups and schedule (OpenCLIP's `training/main.py` and `scheduler.py`)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from bioclip_jax.config import OptimizerConfig

NOT_DECAYED = ("bias", "scale", "class_embedding", "logit_scale")
"""Last names of the parameters without weight decay: all that are vectors in one layer (upstream: `ndim < 2`)."""


def learning_rate_schedule(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """Linear warm-up, lr * (step + 1) / warmup, then half a cosine to zero at `total_steps`; steps count from 0."""

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(step, jax.dtypes.canonicalize_dtype(jnp.float64))
        warm = config.learning_rate * (count + 1) / max(config.warmup_steps, 1)
        progress = (count - config.warmup_steps) / max(total_steps - config.warmup_steps, 1)
        return jnp.where(
            count < config.warmup_steps, warm, config.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * progress))
        )

    return schedule


def decay_mask(parameters: Any) -> Any:
    """True where weight decay applies, for a tree of parameters."""
    return jax.tree.map_with_path(lambda path, _: path[-1].key not in NOT_DECAYED, parameters)


def make_optimizer(config: OptimizerConfig, total_steps: int) -> optax.GradientTransformation:
    """Decoupled weight decay (Loshchilov and Hutter 2019) multiplied by the scheduled rate, as PyTorch's AdamW."""
    return optax.adamw(
        learning_rate_schedule(config, total_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decay_mask,
    )
