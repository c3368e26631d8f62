"""Opens a model by looking at what is there: a work directory, one of its checkpoints, or an OpenCLIP folder."""

from __future__ import annotations

import os
from pathlib import Path

from bioclip_jax.checkpoints import load_tree
from bioclip_jax.convert import open_clip
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.inference.model import Model
from bioclip_jax.models import clip
from bioclip_jax.training.checkpointing import CHECKPOINTS, CONFIG_NAME, finished_steps, read_config


def load(path: str | os.PathLike[str]) -> Model:
    """The model at `path`, in float32.

    Args:
      path: the work directory of a run (its latest checkpoint is taken), `WORK_DIR/checkpoints/STEP`, or a folder with
        `open_clip_config.json` and `open_clip_model.safetensors`.

    Raises:
      UsageError: there is nothing, or nothing that is known, at `path`.
      UserError: what is there is damaged or unfinished.
    """
    where = Path(path).expanduser()
    if not where.exists():
        raise UsageError(f"no model at {where}: there is no such file or folder")
    if open_clip.is_open_clip(where):
        config, preprocessing, parameters = open_clip.load(where)
        return Model(config, preprocessing, parameters, name=_name(where))
    if (where / CONFIG_NAME).is_file() and not (where / "model.safetensors").exists():
        steps = finished_steps(where)
        if not steps:
            raise UserError(f"{where}: this run has no finished checkpoint yet")
        return _from_checkpoint(where.resolve(), steps[-1], _name(where))
    resolved = where.resolve()
    if resolved.parent.name == CHECKPOINTS and resolved.name.isdigit():
        return _from_checkpoint(resolved.parent.parent, int(resolved.name), _name(where))
    raise UsageError(f"{where} is no model: neither a work directory, nor a checkpoint in one, nor an OpenCLIP folder")


def _name(where: Path) -> str:
    """A model is called what its user calls it, less the way to a folder outside the current one."""
    return where.name if where.is_absolute() or ".." in where.parts else str(where)


def _from_checkpoint(work_dir: Path, step: int, name: str) -> Model:
    config = read_config(work_dir)
    _, shapes, _ = clip.abstract(config.model)
    tree = load_tree(work_dir / CHECKPOINTS / str(step), {"parameters": shapes})
    return Model(config.model, config.preprocessing, tree["parameters"], name=name)
