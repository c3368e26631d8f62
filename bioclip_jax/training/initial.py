"""Weights that a run starts from instead of random ones."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from rich.console import Console
from rich.markup import escape

from bioclip_jax.config import CLIPConfig, Preprocessing, TrainConfig
from bioclip_jax.convert.mesh import load_on_mesh
from bioclip_jax.convert.weights import Source
from bioclip_jax.errors import UsageError
from bioclip_jax.models import clip
from bioclip_jax.parallel.sharding import replicated
from bioclip_jax.training.sources import open_model


def open_initial(config: TrainConfig) -> Source:
    """The model that `config.initial_weights` names, checked to be of the config's shape.

    Raises:
        UsageError: it is of another shape; the message names every field that differs.
        UserError: it cannot be read.
    """
    source, _ = open_model(config.initial_weights)
    ours, theirs = _shape(config.model), _shape(source.config)
    differing = [f"{name} is {ours[name]}, not its {theirs[name]}" for name in ours if ours[name] != theirs[name]]
    if differing:
        raise UsageError(f"initial_weights {config.initial_weights} is of another shape: {'; '.join(differing)}")
    return source


def load_initial(source: Source, config: TrainConfig, mesh: Mesh, console: Console) -> clip.Parameters:
    """Its parameters, placed on the mesh as training has them.

    A second visual projector that the config asks for and the weights lack starts as a copy of the first (BioCLIP 2's
    code does so); one that the config does not ask for is left out. So is a logit bias; one that is asked for and
    lacking starts where random weights have it, and so does the scale, which was learnt without it.
    """
    for field in dataclasses.fields(Preprocessing):
        ours, theirs = getattr(config.preprocessing, field.name), getattr(source.preprocessing, field.name)
        if ours != theirs:
            line = f"note: preprocessing.{field.name} is {ours} here; {source.where} came with {theirs}"
            console.print(escape(line), soft_wrap=True)
    parameters = load_on_mesh(source, mesh)
    visual: dict[str, Any] = dict(parameters["visual"])
    if not config.model.replay_projector:
        visual.pop("replay_proj", None)
    elif "replay_proj" not in visual:
        visual["replay_proj"] = jnp.copy(visual["proj"])  # not the same array: a step donates both
    scalars: dict[str, Any] = {name: parameters[name] for name in ("logit_scale", "logit_bias") if name in parameters}
    if not config.model.logit_bias:
        scalars.pop("logit_bias", None)
    elif "logit_bias" not in scalars:
        starts = (("logit_scale", clip.INITIAL_SIGMOID_LOGIT_SCALE), ("logit_bias", clip.INITIAL_LOGIT_BIAS))
        scalars = {name: jax.device_put(jnp.float32(value), replicated(mesh)) for name, value in starts}
    dtype = jnp.dtype("float64" if config.dtype == "float64" else config.parameter_dtype)
    return jax.tree.map(lambda leaf: leaf.astype(dtype), {"visual": visual, "text": parameters["text"], **scalars})


def _shape(config: CLIPConfig) -> dict[str, Any]:
    """What decides the shapes of the parameters and what they compute."""
    fields: dict[str, Any] = {"model.embed_dim": config.embed_dim, "model.activation": config.activation}
    for name, tower in (("vision", config.vision), ("text", config.text)):
        fields |= {f"model.{name}.{key}": value for key, value in dataclasses.asdict(tower).items()}
        # By the width that it gives: formats round the ratio otherwise.
        fields[f"model.{name}.mlp_ratio"] = int(tower.width * tower.mlp_ratio) / tower.width
    return fields
