"""A run's figures: one line per step in `metrics.jsonl`, and the same for TensorBoard.

A line is on disk before the checkpoint of its step is started, so that a restart never lacks one; what a killed run
wrote beyond its last checkpoint is cut off when it continues.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2, summary_pb2

from bioclip_jax.errors import UserError

NAME, BOARD = "metrics.jsonl", "tensorboard"
TIMINGS = ("images_per_second", "mfu", "data_wait_share", "seconds")
"""The fields that differ between two runs of the same config; all others are equal bit for bit."""


def read_metrics(work_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run so far; a half-written last line is left out."""
    path, rows = work_dir / NAME, []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break
    return rows


class MetricsWriter:
    """Appends to `metrics.jsonl` and TensorBoard. Every method raises `UserError` where the disk does not take it."""

    def __init__(self, work_dir: Path, first_step: int):
        """Keeps the lines of steps below `first_step` (steps count from 0) and drops the rest."""
        kept = [row for row in read_metrics(work_dir) if row["step"] < first_step]
        path, temporary = work_dir / NAME, work_dir / (NAME + ".tmp")
        self._work_dir = work_dir
        try:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            temporary.replace(path)
            self._file = path.open("a", encoding="utf-8")
            (work_dir / BOARD).mkdir(exist_ok=True)
            # The writer without a thread: tensorboardX's own would die of a full disk and leave the run waiting for it.
            self._board = EventsWriter(str(work_dir / BOARD / "events"), f".from{first_step}")
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._event(first_step, session_log=start)  # TensorBoard forgets what earlier files say of later steps
        except OSError as error:
            raise self._failed(error) from None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One step's figures."""
        values = [summary_pb2.Summary.Value(tag=f"train/{name}", simple_value=x) for name, x in metrics.items()]
        try:
            self._file.write(json.dumps({"step": step, **metrics}) + "\n")
            self._event(step, summary=summary_pb2.Summary(value=values))
        except OSError as error:
            raise self._failed(error) from None

    def flush(self) -> None:
        """Puts all lines on disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._board.flush()
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Flushes and closes both."""
        try:
            self._file.close()
            self._board.close()
        except OSError as error:
            raise self._failed(error) from None

    def _event(self, step: int, **content: Any) -> None:
        self._board.write_event(event_pb2.Event(step=step, wall_time=time.time(), **content))

    def _failed(self, error: OSError) -> UserError:
        return UserError(f"figures in {self._work_dir} cannot be written ({error.strerror}); checkpoints are intact")
