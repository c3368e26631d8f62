"""One training step as a pure function of (state, batch, signals), and the same abstract state for trainer, tests and
planner.

program = make_program(config, mesh)
state = program.init()                               # placed on the mesh
state, metrics = program.step(state, batch, signals) # the old state is donated
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.models import clip
from bioclip_jax.parallel.sharding import ShardingRules, batch_sharding, replicated, split_further
from bioclip_jax.training.objective import SPECIES, Batch, Objective
from bioclip_jax.training.optimizer import learning_rate_schedule, make_optimizer
from bioclip_jax.training.signals import ABORT, SIGNALS, reduced

Metrics = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes: a plain tree of arrays."""

    step: jax.Array
    """int32 scalar: steps done."""
    skipped: jax.Array
    """int32 scalar: steps among them that changed nothing, because their loss or gradient was not finite."""
    parameters: clip.Parameters
    optimizer_state: Any
    ema: clip.Parameters | None = None
    """Moving average of the parameters, where the config asks for one."""

    @property
    def weights(self) -> clip.Parameters:
        """What is evaluated and exported."""
        return self.parameters if self.ema is None else self.ema


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled side of a run."""

    abstract_state: TrainState
    """Shapes, types and placement of the state."""
    abstract_batch: Callable[[Mapping[str, int]], Any]
    """The same of a batch, from the length of each stream's captions."""
    abstract_signals: jax.ShapeDtypeStruct
    """int32 [devices, SIGNALS]; see `training.signals`."""
    init: Callable[[], TrainState]
    start: Callable[[clip.Parameters], TrainState]
    """The first state with parameters that are placed already; they are donated."""
    step: Any
    """(state, batch, signals) -> (state, metrics), jitted; the state is donated."""
    losses: Callable[[clip.Parameters, Batch], Metrics]
    """Loss and accuracies of a batch without training on it."""


def apply_gradients(
    state: TrainState, gradients: clip.Parameters, optimizer: optax.GradientTransformation, config: TrainConfig
) -> TrainState:
    """The optimiser's update, then the logit scale (its log is the parameter) held in 1..max_logit_scale."""
    c = config.optimizer
    directions, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.parameters)
    rate = learning_rate_schedule(c, config.total_steps)(state.step)
    updates = jax.tree.map(lambda x: -rate.astype(x.dtype) * x, directions)
    parameters: Any = optax.apply_updates(state.parameters, updates)
    logit_scale = jnp.clip(parameters["logit_scale"], 0.0, math.log(c.max_logit_scale))
    parameters = {**parameters, "logit_scale": logit_scale}
    ema = state.ema
    if ema is not None:
        # In this form what does not change does not drift.
        ema = jax.tree.map(lambda average, new: average + (1 - c.ema_decay) * (new - average), ema, parameters)
    return dataclasses.replace(
        state, step=state.step + 1, parameters=parameters, optimizer_state=optimizer_state, ema=ema
    )


def make_program(config: TrainConfig, mesh: Mesh, species: int = 0) -> Program:
    """Initialisation and step for a config on a mesh; nothing is computed yet.

    Args:
        config: of the run.
        mesh: of its devices.
        species: how many the training data have, for `loss.kind` species.

    Raises:
        UsageError: a batch does not divide over the devices and micro-batches.
    """
    check_batch(config, mesh)
    options: dict[str, Any] = {
        "dtype": config.dtype,
        "param_dtype": "float64" if config.dtype == "float64" else config.parameter_dtype,
        "remat_policy": config.remat_policy,
        "attention": config.attention,
        "mesh": mesh,
    }
    definition, shapes, axes = clip.abstract(config.model, **options)
    if config.loss.kind == "species":
        head = _species_head(config.model.embed_dim, species, shapes["visual"]["proj"].dtype)
        shapes, axes = {**shapes, SPECIES: jax.eval_shape(lambda: head)}, {**axes, SPECIES: _SPECIES_AXES}
    optimizer = make_optimizer(config.optimizer, config.locked)
    objective = Objective(config, mesh, definition)
    placement = ShardingRules().tree(mesh, axes, shapes)

    def start(parameters: clip.Parameters) -> TrainState:
        if config.loss.kind == "species" and SPECIES not in parameters:
            dtype = parameters["visual"]["proj"].dtype
            parameters = {**parameters, SPECIES: _species_head(config.model.embed_dim, species, dtype)}
        zero = jnp.zeros((), jnp.int32)
        # bfloat16 would round every change of an average away.
        ema = jax.tree.map(_wide_copy, parameters) if config.optimizer.ema_decay else None
        return TrainState(zero, zero, parameters, optimizer.init(parameters), ema)

    def init() -> TrainState:
        return start(clip.split(clip.CLIP(config.model, rngs=nnx.Rngs(config.seed), **options))[1])

    placed = _place(jax.eval_shape(init), placement, mesh, split_moments=config.mesh.shard_optimizer)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, placed)
    moments = jax.tree.map(split_further, placement, shapes) if config.mesh.shard_optimizer else placement

    def step(state: TrainState, batch: Batch, signals: jax.Array) -> tuple[TrainState, Metrics]:
        (loss, extra), gradients = jax.value_and_grad(objective.loss, has_aux=True)(state.parameters, batch)
        gradients = jax.lax.with_sharding_constraint(gradients, moments)
        norm, agreed = optax.tree.norm(gradients), reduced(signals)
        updated = apply_gradients(state, gradients, optimizer, config)
        new = _if_usable(updated, state, jnp.isfinite(loss) & jnp.isfinite(norm), agreed[ABORT] > 0)
        metrics = {
            "loss": loss,
            **extra,
            "logit_scale": jnp.exp(state.parameters["logit_scale"]),
            "gradient_norm": norm,
            "learning_rate": learning_rate_schedule(config.optimizer, config.total_steps)(state.step),
            "skipped": new.skipped,
            "signals": agreed,
        }
        return new, metrics

    def losses(parameters: clip.Parameters, batch: Batch) -> Metrics:
        loss, extra = objective.loss(parameters, batch)
        return {"loss": loss, **extra}

    return Program(
        abstract_state=placed,
        abstract_batch=lambda tokens: _abstract_batch(config, mesh, tokens),
        abstract_signals=jax.ShapeDtypeStruct((mesh.size, SIGNALS), jnp.int32, sharding=batch_sharding(mesh)),
        init=jax.jit(init, out_shardings=shardings),
        start=jax.jit(start, out_shardings=shardings, donate_argnums=0),
        step=jax.jit(_exact(step, config), donate_argnums=0, out_shardings=(shardings, replicated(mesh))),
        losses=jax.jit(_exact(losses, config), out_shardings=replicated(mesh)),
    )


def _if_usable(updated: TrainState, state: TrainState, is_finite: jax.Array, is_aborted: jax.Array) -> TrainState:
    """The updated state; where the step is not to be used, the one before it, one step further."""
    usable = is_finite & ~is_aborted
    new = jax.tree.map(lambda after, before: jnp.where(usable, after, before), updated, state)
    return dataclasses.replace(new, step=updated.step, skipped=state.skipped + ~(is_finite | is_aborted))


def _exact(function: Callable[..., Any], config: TrainConfig) -> Callable[..., Any]:
    """TPUs and newer GPUs round the inputs of float32 products unless told otherwise."""

    def told(*arguments: Any) -> Any:
        with jax.default_matmul_precision(None if config.dtype == "bfloat16" else "highest"):
            return function(*arguments)

    return told


def _wide_copy(x: jax.Array) -> jax.Array:
    return jnp.array(x, jnp.promote_types(x.dtype, jnp.float32), copy=True)


_SPECIES_AXES = {"kernel": ("embed", "vocab"), "bias": ("vocab",)}


def _species_head(width: int, species: int, dtype: Any) -> clip.Parameters:
    """A linear classifier that knows nothing yet."""
    return {"kernel": jnp.zeros((width, species), dtype), "bias": jnp.zeros(species, dtype)}


def check_batch(config: TrainConfig, mesh: Mesh) -> None:
    """Raises UsageError where a batch does not divide over the devices and micro-batches."""
    parts = mesh.size * config.micro_batches
    for name in ("global_batch_size", "replay_batch_size"):
        size = getattr(config, name)
        if size % parts:
            each = f" in {config.micro_batches} micro_batches each" if config.micro_batches > 1 else ""
            raise UsageError(f"{name} {size} does not divide over {mesh.size} devices{each}")


def _abstract_batch(config: TrainConfig, mesh: Mesh, tokens: Mapping[str, int]) -> Any:
    side, sharding = config.model.vision.image_size, batch_sharding(mesh)

    def rows(name: str, *shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        size = config.global_batch_size if name == "bio" else config.replay_batch_size
        return jax.ShapeDtypeStruct((size, *shape), dtype, sharding=sharding)

    batch = {
        name: {"image": rows(name, side, side, 3, dtype=jnp.uint8), "tokens": rows(name, length)}
        for name, length in tokens.items()
    }
    if config.loss.kind == "species":
        batch["bio"][SPECIES] = rows("bio")
    return batch


def _place(state: TrainState, parameter_shardings: Any, mesh: Mesh, *, split_moments: bool) -> TrainState:
    """Abstract state with shardings: moments lie where their parameters do, or split further; scalars everywhere."""
    by_path = dict(jax.tree.leaves_with_path(parameter_shardings))

    def place(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        keys = tuple(key for key in path if isinstance(key, jax.tree_util.DictKey))
        sharding = by_path.get(keys, replicated(mesh))
        if split_moments and path[0].name == "optimizer_state" and leaf.ndim:
            sharding = split_further(sharding, leaf)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    placed: TrainState = jax.tree.map_with_path(place, state)
    return placed
