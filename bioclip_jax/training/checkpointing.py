"""A run's checkpoints: saved in the background, kept by policy, found again by a restart.

Layout of a work directory:

    config.json               the run's whole config
    dataset.json              name and hash of the dataset directory that it began with
    checkpoints/STEP/         Orbax; STEP is the number of steps done
    metrics.jsonl             one JSON object per step
    tensorboard/              the same for TensorBoard
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

from orbax.checkpoint import v1 as ocp

from bioclip_jax.checkpoints import first_line, load_tree
from bioclip_jax.config import TrainConfig, from_dict, to_json
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.manifest import write_json
from bioclip_jax.training.step import TrainState

CONFIG_NAME, CHECKPOINTS, TEMPORARY = "config.json", "checkpoints", "config.json.tmp"
DATASET_NAME = "dataset.json"
FREE_FIELDS = (
    "checkpoint.",
    "mesh.",
    "log_every",
    "attention",
    "remat_policy",
    "data.threads",
    "data.prefetch_batches",
)
"""What may differ between a run and its continuation without making it another run."""


def prepare_work_dir(work_dir: Path, config: TrainConfig) -> None:
    """Creates the directory and its config.json, or checks that the run found there is the same one.

    Raises:
        UsageError: the directory holds something else, or a run of another config (the message names the field).
    """
    path = work_dir / CONFIG_NAME
    if path.exists():
        old = read_config(work_dir)
        before, now = _leaves(json.loads(to_json(old))), _leaves(json.loads(to_json(config)))
        for name in sorted(before.keys() | now.keys()):
            if not name.startswith(FREE_FIELDS) and before.get(name) != now.get(name):
                raise UsageError(
                    f"{work_dir} holds a run whose {name} is {before.get(name)}, not {now.get(name)}; "
                    "choose another --work-dir, or the same config to continue it"
                )
    elif work_dir.is_dir() and any(entry.name != TEMPORARY for entry in work_dir.iterdir()):
        raise UsageError(
            f"{work_dir} is not empty and holds no run ({CONFIG_NAME} is missing); choose another --work-dir"
        )
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        temporary = work_dir / TEMPORARY  # all that a run killed here leaves
        temporary.write_text(to_json(config), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{work_dir}: cannot be written ({error.strerror})") from None


def check_dataset_note(work_dir: Path, note: tuple[str, str] | None, is_new: bool) -> None:
    """Notes name and hash of the data that a run begins with, and looks whether one that continues has the same.

    Raises:
        UserError: the dataset was built anew since the run began.
    """
    if note is None:
        return
    before = read_dataset_note(work_dir)
    if is_new or before is None:
        write_json(work_dir / DATASET_NAME, {"name": note[0], "hash": note[1]})
    elif before[1] != note[1]:
        raise UserError(
            f"{work_dir}: this run began with other data (dataset {before[0]!r} was built anew since); put them back, "
            "or begin another run"
        )


def read_dataset_note(work_dir: Path) -> tuple[str, str] | None:
    """Name and hash of the dataset directory that a run began with; None where that is not known."""
    try:
        content = json.loads((work_dir / DATASET_NAME).read_text(encoding="utf-8"))
        return str(content["name"]), str(content["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _leaves(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def read_config(work_dir: Path) -> TrainConfig:
    """The config of the run in a work directory."""
    path = work_dir / CONFIG_NAME
    try:
        config = from_dict(TrainConfig, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read as a run's config ({first_line(error)})") from None
    return cast("TrainConfig", config)


def finished_steps(work_dir: Path) -> list[int]:
    """Steps of the checkpoints that were completely written, ascending."""
    folder = work_dir / CHECKPOINTS
    if not folder.is_dir():
        return []
    names = [path for path in folder.iterdir() if path.name.isdigit() and ocp.is_orbax_checkpoint(path)]
    return sorted(int(path.name) for path in names)


def _fields(state: TrainState) -> dict[str, Any]:
    """The state's parts; `dataclasses.asdict` would copy every array."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


class Checkpoints:
    """Saves and restores one run's state."""

    def __init__(self, work_dir: Path, config: TrainConfig):
        """Half-written checkpoints of a killed run are swept away."""
        self.folder = work_dir / CHECKPOINTS
        self.every = config.checkpoint.every_steps
        policies = ocp.training.preservation_policies
        self._checkpointer = ocp.training.Checkpointer(
            self.folder.resolve(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.LatestN(config.checkpoint.keep),
            cleanup_tmp_directories=True,
        )

    def restore_latest(self, abstract: TrainState) -> TrainState | None:
        """The newest state, placed as `abstract` says, or None where there is none."""
        latest = self._checkpointer.latest
        if latest is None:
            return None
        restored = load_tree(self.folder.resolve() / str(latest.step), _fields(abstract))
        return TrainState(**restored)

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be saved."""
        return step % self.every == 0

    def save(self, state: TrainState, step: int) -> None:
        """Starts writing in the background, once the previous save is finished.

        Raises:
            UserError: this or the previous save failed; older checkpoints are intact.
        """
        try:
            self._checkpointer.wait()
            self._checkpointer.save_async(step, _fields(state), overwrite=True)
        except Exception as error:
            raise self._failed(error) from None

    def finish(self) -> None:
        """Waits for what is being written."""
        try:
            self._checkpointer.wait()
            self._checkpointer.close()
        except Exception as error:
            raise self._failed(error) from None

    def _failed(self, error: Exception) -> UserError:
        return UserError(
            f"{self.folder}: a checkpoint could not be written ({first_line(error)}); "
            "earlier ones are intact: make room and run the same command again"
        )
