"""Opens a model wherever it lies: a run's work directory, one of its checkpoints, or whatever `convert` knows."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bioclip_jax.config import TrainConfig
from bioclip_jax.convert import open_clip
from bioclip_jax.convert.hub import PREFIX, is_hub_name
from bioclip_jax.convert.sources import open_foreign
from bioclip_jax.convert.weights import MODEL_NAME, Source
from bioclip_jax.errors import UsageError, UserError

CHECKPOINTS, RUN_CONFIG = "checkpoints", "config.json"


@dataclass(frozen=True)
class Run:
    """The training run that a model comes from."""

    work_dir: Path
    step: int
    config: TrainConfig


def open_model(
    where: str | os.PathLike[str], model: str | None = None, overrides: Mapping[str, Any] | None = None
) -> tuple[Source, Run | None]:
    """The model at `where`, and its training run if it is one of ours.

    Args:
        where: work directory (its latest checkpoint is taken), `WORK_DIR/checkpoints/STEP`, a folder of OpenCLIP,
            Hugging Face or `convert`, a file of weights, or hf-hub:owner/name.
        model: what a file of bare weights is of, as ViT-L-14.
        overrides: fields of `Preprocessing` that replace the model's own, which is said on standard error.

    Raises:
        UsageError: there is nothing, or nothing that is known, at `where`.
        UserError: what is there is damaged or unfinished.
    """
    name = os.fspath(where)
    path = Path(os.path.expanduser(name))  # noqa: PTH111 Path's own raises for an unknown user
    if not name.startswith(PREFIX) and (not name or not path.exists()):
        hint = f"; a model of the Hugging Face Hub is {PREFIX}{name}" if is_hub_name(name) else ""
        raise UsageError(f"no model at {name!r}: there is no such file or folder{hint}")
    run = _find_run(path)
    if run and model:
        raise UsageError(f"--model {model!r} is for a file of bare weights; {name} says itself what it holds")
    source = _open_run(run, name) if run else open_foreign(name, model)
    if source is None:
        raise UsageError(
            f"{name} is no model: neither a work directory, nor a checkpoint in one, nor a folder of OpenCLIP, "
            "Hugging Face or `bioclip-jax convert`"
        )
    return _overridden(source, overrides or {}), run


def _find_run(path: Path) -> Run | None:
    from bioclip_jax.convert.hugging_face import is_hugging_face

    resolved = path.resolve()
    around = resolved.parent.parent
    if _is_converted(resolved) or is_hugging_face(resolved):
        return None
    if resolved.parent.name == CHECKPOINTS and resolved.name.isdigit() and (around / RUN_CONFIG).is_file():
        work_dir, steps = around, [int(resolved.name)]
    elif (resolved / RUN_CONFIG).is_file():
        from bioclip_jax.training.checkpointing import finished_steps

        work_dir, steps = resolved, finished_steps(resolved)
    else:
        return None
    from bioclip_jax.training.checkpointing import read_config

    config = read_config(work_dir)
    if not steps:
        raise UserError(f"{path}: this run has no finished checkpoint yet")
    return Run(work_dir, steps[-1], config)


def _is_converted(folder: Path) -> bool:
    return (folder / open_clip.CONFIG_NAME).is_file() or (folder / MODEL_NAME).is_file()


def _open_run(run: Run, name: str) -> Source:
    from bioclip_jax.convert.orbax import PARAMETERS, OrbaxWeights

    config = run.config
    key = "ema" if config.optimizer.ema_decay else PARAMETERS
    weights = OrbaxWeights(run.work_dir / CHECKPOINTS / str(run.step), config.model, name, key)
    return Source(name, "a training run", config.model, config.preprocessing, weights, run.work_dir.name)


def _overridden(source: Source, overrides: Mapping[str, Any]) -> Source:
    """Another preprocessing than the model's own is said aloud: it changes every feature."""
    unknown = overrides.keys() - {field.name for field in dataclasses.fields(source.preprocessing)}
    if unknown:
        raise UsageError(f"overrides has {min(unknown)!r}, which is no field of the preprocessing")
    changed = dataclasses.replace(source.preprocessing, **overrides)
    for field, value in overrides.items():
        own = getattr(source.preprocessing, field)
        if value != own:
            print(f"note: {field} {value} takes the place of {own}, with which {source.where} came", file=sys.stderr)
    return dataclasses.replace(source, preprocessing=changed)
