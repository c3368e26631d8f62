"""One training step as a pure function of (state, batch), and the same abstract state for trainer, tests and planner.

program = make_program(config, mesh)
state = program.init()                      # placed on the mesh
state, metrics = program.step(state, batch) # the old state is donated
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

from bioclip_jax.config import Preprocessing, TrainConfig
from bioclip_jax.losses import contrastive_loss
from bioclip_jax.models import clip
from bioclip_jax.models.functions import normalize_pixels
from bioclip_jax.parallel.sharding import ShardingRules, replicated
from bioclip_jax.training.optimizer import learning_rate_schedule, make_optimizer

Batch = Mapping[str, Mapping[str, jax.Array]]
"""{"bio": {"image": uint8 [b, h, w, 3], "tokens": int32 [b, t]}}, and "replay" likewise where there is one."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """All that a step changes: a plain tree of arrays."""

    step: jax.Array
    """int32 scalar: steps done."""
    parameters: clip.Parameters
    optimizer_state: Any


@dataclasses.dataclass(frozen=True)
class Program:
    """The compiled side of a run."""

    abstract_state: TrainState
    """Shapes, types and placement of the state."""
    init: Callable[[], TrainState]
    start: Callable[[clip.Parameters], TrainState]
    """The first state with parameters that are placed already; they are donated."""
    step: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def stream_losses(model: clip.CLIP, streams: Batch, mesh: Mesh) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """Loss and in-batch accuracy of each stream of normalised images: 'bio', and 'replay' through its own projector.

    Streams never see each other's negatives (BioCLIP 2's experience replay).
    """
    losses, accuracies = {}, {}
    for name, stream in streams.items():
        images, texts = model.contrast(stream["image"], stream["tokens"], replay=name == "replay")
        losses[name], accuracies[name] = contrastive_loss(images, texts, jnp.exp(model.logit_scale[...]), mesh)
    return losses, accuracies


def normalize_batch(batch: Batch, preprocessing: Preprocessing, dtype: Any) -> Batch:
    """uint8 photos to normalised ones, on the device."""
    mean, std = preprocessing.mean, preprocessing.std
    return {
        name: {**stream, "image": normalize_pixels(stream["image"], mean, std, dtype)} for name, stream in batch.items()
    }


def apply_gradients(
    state: TrainState, gradients: clip.Parameters, optimizer: optax.GradientTransformation, max_logit_scale: float
) -> TrainState:
    """The optimiser's update, then the logit scale (its log is the parameter) held in 1..max_logit_scale."""
    updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.parameters)
    parameters: Any = optax.apply_updates(state.parameters, updates)
    logit_scale = jnp.clip(parameters["logit_scale"], 0.0, math.log(max_logit_scale))
    return TrainState(state.step + 1, {**parameters, "logit_scale": logit_scale}, optimizer_state)


def make_program(config: TrainConfig, mesh: Mesh) -> Program:
    """Initialisation and step for a config on a mesh; nothing is computed yet."""
    parameter_type = "float64" if config.dtype == "float64" else "float32"
    options: dict[str, Any] = {
        "dtype": config.dtype,
        "param_dtype": parameter_type,
        "remat_policy": config.remat_policy,
        "attention": config.attention,
    }
    definition, shapes, axes = clip.abstract(config.model, **options)
    optimizer = make_optimizer(config.optimizer, config.total_steps)
    schedule = learning_rate_schedule(config.optimizer, config.total_steps)

    def start(parameters: clip.Parameters) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), parameters, optimizer.init(parameters))

    def init() -> TrainState:
        return start(clip.split(clip.CLIP(config.model, rngs=nnx.Rngs(config.seed), **options))[1])

    def loss(parameters: clip.Parameters, batch: Batch) -> tuple[jax.Array, dict[str, jax.Array]]:
        streams = normalize_batch(batch, config.preprocessing, jnp.dtype(config.dtype))
        losses, accuracies = stream_losses(clip.merge(definition, parameters), streams, mesh)
        total = jnp.sum(jnp.stack(list(losses.values())))
        named = {("accuracy" if name == "bio" else f"{name}_accuracy"): value for name, value in accuracies.items()}
        named |= {f"{name}_loss": value for name, value in losses.items() if len(losses) > 1}
        return total, named

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, jax.Array]]:
        (value, extra), gradients = jax.value_and_grad(loss, has_aux=True)(state.parameters, batch)
        new = apply_gradients(state, gradients, optimizer, config.optimizer.max_logit_scale)
        metrics = {
            "loss": value,
            **extra,
            "logit_scale": jnp.exp(state.parameters["logit_scale"]),
            "gradient_norm": optax.tree.norm(gradients),
            "learning_rate": schedule(state.step),
        }
        return new, metrics

    abstract = jax.eval_shape(init)
    placed = _place(abstract, ShardingRules().tree(mesh, axes, shapes), mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, placed)
    return Program(
        abstract_state=placed,
        init=jax.jit(init, out_shardings=shardings),
        start=jax.jit(start, out_shardings=shardings, donate_argnums=0),
        step=jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated(mesh))),
    )


def _place(state: TrainState, parameter_shardings: Any, mesh: Mesh) -> TrainState:
    """Abstract state with shardings: moments lie where their parameters do, scalars everywhere."""

    def with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    structure: Any = jax.tree.structure(state.parameters)

    def is_parameters(node: Any) -> bool:
        return bool(jax.tree.structure(node) == structure)

    def place(node: Any) -> Any:
        if is_parameters(node):
            return jax.tree.map(with_sharding, node, parameter_shardings)
        return with_sharding(node, replicated(mesh))

    return jax.tree.map(place, state, is_leaf=is_parameters)
