"""A run's checkpoints: saved in the background, kept by policy, found again by a restart, and passed over if damaged.

Layout of a work directory:

    config.json               the run's whole config
    dataset.json              name and hash of the dataset directory that it began with
    first_start.json          when it began
    checkpoints/STEP/         Orbax, and file_sums.json; STEP is the number of steps done
    checkpoints/STEP.damaged/ one that could not be continued from
    metrics.jsonl             one JSON object per step
    evaluations.jsonl         one per evaluation while training
    tensorboard/              the same for TensorBoard
    profile/                  what `--profile-steps` or SIGUSR1 asked for
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
from orbax.checkpoint import v1 as ocp

from bioclip_jax.checkpoints import first_line, load_tree
from bioclip_jax.config import CheckpointConfig, TrainConfig
from bioclip_jax.config_json import from_dict, to_json
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.parallel.agreement import gather, together
from bioclip_jax.parallel.distributed import RUN_AGAIN
from bioclip_jax.pipeline.lock import exclusive
from bioclip_jax.pipeline.manifest import write_json
from bioclip_jax.training.file_sums import find_damage, has_sums, write_sums
from bioclip_jax.training.step import TrainState

CONFIG_NAME, CHECKPOINTS, TEMPORARY, LOCK = "config.json", "checkpoints", "config.json.tmp", "lock"
DATASET_NAME, DAMAGED = "dataset.json", ".damaged"
_OF_A_HOST = tuple(
    f"{stream}.{name}"
    for stream in ("data", "replay")
    for name in ("threads", "processes", "prefetch_batches", "cache_folder", "cache_bytes")
)
FREE_FIELDS = (
    "checkpoint.",
    "evaluation.",
    "mesh.",
    "log_every",
    "attention",
    "remat_policy",
    "micro_batches",
    "max_skipped_steps",
    "steps_per_epoch",
    "loss.column_chunk",
    *_OF_A_HOST,
)
"""What may differ between a run and its continuation without making it another run."""


@contextlib.contextmanager
def claimed_work_dir(work_dir: Path, config: TrainConfig) -> Iterator[None]:
    """Creates the directory and its config.json, or finds the same run there, and keeps other processes out of it.

    Raises:
        UsageError: the directory holds something else, or a run of another config (the message names the field).
        UserError: another process trains there, or it cannot be written.
    """
    path = work_dir / CONFIG_NAME
    if path.exists():
        require_same_run(work_dir, config)
    elif work_dir.is_dir() and any(entry.name not in (TEMPORARY, LOCK) for entry in work_dir.iterdir()):
        raise UsageError(
            f"{work_dir} is not empty and holds no run ({CONFIG_NAME} is missing); choose another --work-dir"
        )
    with contextlib.ExitStack() as held:
        try:
            work_dir.mkdir(parents=True, exist_ok=True)
            # Before anything of a run that goes on here is replaced.
            held.enter_context(exclusive(work_dir / LOCK, f"{work_dir}: another process is training here now"))
            temporary = work_dir / TEMPORARY  # with the lock all that a run killed here leaves
            temporary.write_text(to_json(config), encoding="utf-8")
            temporary.replace(path)
        except OSError as error:
            raise UserError(f"{work_dir}: cannot be written ({error.strerror})") from None
        yield


def require_same_run(work_dir: Path, config: TrainConfig) -> None:
    """Raises UsageError where the run in a directory has another config; the message names the field."""
    old = read_config(work_dir)
    before, now = _leaves(json.loads(to_json(old))), _leaves(json.loads(to_json(config)))
    for name in sorted(before.keys() | now.keys()):
        if not name.startswith(FREE_FIELDS) and before.get(name) != now.get(name):
            raise UsageError(
                f"{work_dir} holds a run whose {name} is {before.get(name)}, not {now.get(name)}; "
                "choose another --work-dir, or the same config to continue it"
            )


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


def has_checkpoints(work_dir: Path) -> bool:
    """Whether a run has saved anything yet, damaged or not."""
    return bool(finished_steps(work_dir)) or any((work_dir / CHECKPOINTS).glob(f"*{DAMAGED}"))


def common_fields(config: TrainConfig) -> dict[str, Any]:
    """What all processes of a run have to have alike, by dotted name: all but how each of them reads its data."""
    fields = _leaves(json.loads(to_json(config)))
    return {name: value for name, value in fields.items() if not name.startswith(_OF_A_HOST)}


def _fields(state: TrainState) -> dict[str, Any]:
    """The state's parts that there are; `dataclasses.asdict` would copy every array."""
    parts = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    return {name: part for name, part in parts.items() if part is not None}


def restore_latest(work_dir: Path, abstract: TrainState, say: Callable[[str], None]) -> TrainState | None:
    """The newest state that is not damaged, placed as `abstract` says; None for a run without checkpoints.

    All processes call this together. Damaged checkpoints are renamed to STEP.damaged, and `say` is told.

    Raises:
        UserError: all checkpoints are damaged, or a sound one does not hold this model.
    """
    folder = work_dir / CHECKPOINTS
    steps: list[int] = gather(finished_steps(work_dir))[0]
    damaged = gather(sorted(path.name for path in folder.glob(f"*{DAMAGED}")))[0]
    for place, step in reversed(list(enumerate(steps))):
        path = folder.resolve() / str(step)
        # The first process reads all files once; the others' word would be the same.
        damage = gather(together(partial(_find_damage, path)))[0]
        if damage is None:
            sound = has_sums(path)
            try:
                state = TrainState(**together(partial(load_tree, path, _fields(abstract))))
                if not sound and jax.process_index() == 0:  # the process was killed before it had written them
                    with contextlib.suppress(OSError):
                        write_sums(path)
                return state
            except UserError as error:
                if sound:
                    raise
                damage = str(error)
        damaged.append(f"{step}{DAMAGED}")
        before = f"the run continues from {steps[place - 1]}" if place else "there is none before it"
        say(f"WARNING: checkpoint {path} is damaged: {damage}. It is set aside as {step}{DAMAGED}; {before}")
        together(partial(_set_aside, path))
    if damaged:
        raise UserError(
            f"{folder}: all checkpoints are damaged ({', '.join(sorted(damaged))}); put one back, or begin another run "
            "in another --work-dir"
        )
    return None


def _find_damage(path: Path) -> str | None:
    """What the first process finds; a disk that does not answer now says nothing about what it holds."""
    try:
        return find_damage(path) if jax.process_index() == 0 else None
    except OSError as error:
        failure = UserError(
            f"checkpoint {path} cannot be read now ({error.strerror or error}) and is left as it is; run the same "
            "command again once it can"
        )
        failure.exit_code = RUN_AGAIN
        raise failure from None


def _set_aside(path: Path) -> None:
    if jax.process_index():
        return
    target = path.with_name(path.name + DAMAGED)
    try:
        shutil.rmtree(target, ignore_errors=True)  # of an earlier accident at the same step
        path.rename(target)
    except OSError as error:
        raise UserError(f"{path} is damaged and cannot be renamed to {target.name} ({error.strerror})") from None


class _Kept:
    """Orbax's question which checkpoints stay, answered."""

    def __init__(self, config: CheckpointConfig, figures: Mapping[int, float]):
        self._config, self._figures = config, figures

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        every = self._config.keep_every_steps
        kept = {*steps[-self._config.keep :], *(step for step in steps if every and step % every == 0)}
        return [step in kept or step == self.best(steps) for step in steps]

    def best(self, steps: Sequence[int]) -> int | None:
        """The step with the best figure, by the evaluation at or before it; the earliest of equal ones."""
        sign = 1 if self._config.best_is == "highest" else -1
        known = {step: [done for done in self._figures if done <= step] for step in steps}
        values = {step: sign * self._figures[max(dones)] for step, dones in known.items() if dones}
        return max(values, key=lambda step: (values[step], -step), default=None)


class Checkpoints:
    """Saves one run's state. All processes call the same methods at the same steps."""

    def __init__(self, work_dir: Path, config: CheckpointConfig):
        """Half-written checkpoints of a killed run are swept away."""
        self.folder = work_dir / CHECKPOINTS
        self.intervals = [every for every in (config.every_steps, config.keep_every_steps) if every]
        self._figures: dict[int, float] = {}
        self._best_metric = config.best_metric
        self._finishing: threading.Thread | None = None
        self._error: Exception | None = None
        self._checkpointer = ocp.training.Checkpointer(
            self.folder.resolve(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=_Kept(config, self._figures),
            cleanup_tmp_directories=True,
        )

    def note_figures(self, done: int, figures: Mapping[str, float | None]) -> None:
        """What was measured after so many steps; the best checkpoint is kept by it."""
        value = figures.get(self._best_metric)
        if value is not None and math.isfinite(value):
            self._figures[done] = value

    def due(self, step: int) -> bool:
        """Whether the state after `step` steps is to be saved by the policy."""
        return any(step % every == 0 for every in self.intervals)

    def save(self, state: TrainState, step: int) -> None:
        """Starts writing in the background, once the previous save is finished.

        Raises:
            UserError: this or the previous save failed; older checkpoints are intact.
        """
        try:
            self._wait()
            response = self._checkpointer.save_async(step, _fields(state), overwrite=True)
        except Exception as error:
            raise self._failed(error) from None
        if jax.process_index() == 0:
            self._finishing = threading.Thread(target=self._add_sums, args=(step, response), daemon=True)
            self._finishing.start()

    def finish(self) -> None:
        """Waits for what is being written."""
        try:
            self._wait()
            self._checkpointer.close()
        except Exception as error:
            raise self._failed(error) from None

    def settle(self, seconds: float) -> None:
        """Gives what is being written so long to end. If it fails or takes longer, the checkpoint before it stands."""

        def wait() -> None:
            with contextlib.suppress(Exception):
                self._wait()

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        waiting.join(seconds)

    def _wait(self) -> None:
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
            if self._error is not None:
                error, self._error = self._error, None
                raise error
        self._checkpointer.wait()

    def _add_sums(self, step: int, response: Any) -> None:
        try:
            if response is not None:
                response.result()
            write_sums(self.folder / str(step))
        except Exception as error:  # it belongs to the thread that saves
            self._error = error

    def _failed(self, error: Exception) -> UserError:
        return UserError(
            f"{self.folder}: a checkpoint could not be written ({first_line(error)}); "
            "earlier ones are intact: make room and run the same command again"
        )
