"""Opens a model, wherever it lies, to use it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from bioclip_jax.convert.mesh import load_on_mesh
from bioclip_jax.convert.weights import Cast, read_tree
from bioclip_jax.inference.model import Model
from bioclip_jax.training.sources import open_model


def load(
    path: str | os.PathLike[str],
    *,
    model: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> Model:
    """The model at `path`, in float32.

    Args:
      path: the work directory of a run (its latest checkpoint is taken), `WORK_DIR/checkpoints/STEP`, a folder of
        OpenCLIP, Hugging Face or `bioclip-jax convert`, a file of weights (safetensors, or a PyTorch file, which needs
        PyTorch), or `hf-hub:owner/name`.
      model: what a file of bare weights is of, as ViT-L-14.
      overrides: fields of `config.Preprocessing` that replace the model's own, as {"geometry": "squash"}; what differs
        is said on standard error.
      mesh: devices over which the parameters are spread as in training; on one device if not given.

    Raises:
      UsageError: there is nothing, or nothing that is known, at `path`.
      UserError: what is there is damaged or unfinished.
    """
    source, _ = open_model(path, model, overrides)
    parameters = load_on_mesh(source, mesh) if mesh else read_tree(source, Cast("float32"), jnp.asarray)
    return Model(source.config, source.preprocessing, parameters, name=_name(os.fspath(path)))


def _name(where: str) -> str:
    """A model is called what its user calls it, less the way to a folder outside the current one."""
    path = Path(where).expanduser()
    return path.name if path.is_absolute() or ".." in path.parts else where
