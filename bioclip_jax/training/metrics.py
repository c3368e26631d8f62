"""A run's figures: one line per step in `metrics.jsonl`, per evaluation in `evaluations.jsonl`; both for TensorBoard.

A line is on disk before the checkpoint of its step is started, so that a restart never lacks one; what a killed run
wrote beyond its last checkpoint is cut off when it continues.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from bioclip_jax.errors import UserError


@contextmanager
def _torch_left_alone() -> Iterator[None]:
    """tensorboardX imports PyTorch wherever it finds it, for what is not used here: a second and 180 MB of each run."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


with _torch_left_alone():
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto import event_pb2, summary_pb2

NAME, EVALUATIONS, BOARD = "metrics.jsonl", "evaluations.jsonl", "tensorboard"
TIMINGS = (
    "images_per_second",
    "images_per_second_per_device",
    "mfu",
    "goodput",
    "data_wait_share",
    "device_memory_bytes",
    "seconds",
)
"""The fields that differ between two runs of the same config; all others are equal bit for bit."""


def read_metrics(work_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's steps so far; a half-written last line is left out."""
    return _read(work_dir / NAME)


def read_evaluations(work_dir: Path) -> list[dict[str, Any]]:
    """The figures of a run's evaluations, each with the step (from 0) after which they were measured."""
    return _read(work_dir / EVALUATIONS)


def _read(path: Path) -> list[dict[str, Any]]:
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


def _rewritten(path: Path, rows: list[dict[str, Any]]) -> TextIO:
    """The file with these lines and no others, to be appended to."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    temporary.replace(path)
    return path.open("a", encoding="utf-8")


class MetricsWriter:
    """Appends to the two files and TensorBoard. Every method raises `UserError` where the disk does not take it.

    Attributes:
        kept: the lines of steps before this start.
    """

    def __init__(self, work_dir: Path, first_step: int):
        """Keeps the lines of steps below `first_step` (steps count from 0) and drops the rest."""
        self._work_dir = work_dir
        self.kept = [row for row in read_metrics(work_dir) if row["step"] < first_step]
        evaluations = [row for row in read_evaluations(work_dir) if row["step"] < first_step]
        try:
            self._file = _rewritten(work_dir / NAME, self.kept)
            self._evaluations = _rewritten(work_dir / EVALUATIONS, evaluations)
            (work_dir / BOARD).mkdir(exist_ok=True)
            # The writer without a thread: tensorboardX's own would die of a full disk and leave the run waiting for it.
            self._board = EventsWriter(str(work_dir / BOARD / "events"), f".from{first_step}")
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(first_step, session_log=start)  # TensorBoard forgets what earlier files say of later steps
        except OSError as error:
            raise self._failed(error) from None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One step's figures."""
        self._write(self._file, "train", step, metrics)

    def write_evaluation(self, step: int, figures: Mapping[str, float]) -> None:
        """What was measured after a step."""
        self._write(self._evaluations, "evaluation", step, figures)

    def _write(self, file: TextIO, family: str, step: int, figures: Mapping[str, float]) -> None:
        values = [summary_pb2.Summary.Value(tag=f"{family}/{name}", simple_value=x) for name, x in figures.items()]
        # JSON has no infinity; a step that was skipped may have some.
        finite = {name: x if math.isfinite(x) else None for name, x in figures.items()}
        try:
            file.write(json.dumps({"step": step, **finite}) + "\n")
            self._event(step, summary=summary_pb2.Summary(value=values))
        except OSError as error:
            raise self._failed(error) from None

    def flush(self) -> None:
        """Puts all lines on disk."""
        try:
            for file in (self._file, self._evaluations):
                file.flush()
                os.fsync(file.fileno())
            self._board.flush()
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Flushes and closes both."""
        try:
            self._file.close()
            self._evaluations.close()
            self._board.close()
        except OSError as error:
            raise self._failed(error) from None

    def _event(self, step: int, **content: Any) -> None:
        self._board.write_event(event_pb2.Event(step=step, wall_time=time.time(), **content))

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"figures in {self._work_dir} cannot be written ({error.strerror}); checkpoints are intact")
