"""A run's figures: one line per step in `metrics.jsonl`, and the same for TensorBoard.

A line is on disk before the checkpoint of its step is started, so that a restart never lacks one; what a killed run
wrote beyond its last checkpoint is cut off when it continues.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import tensorboardX

from bioclip_jax.errors import UserError

NAME = "metrics.jsonl"
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
    """Appends to `metrics.jsonl` and TensorBoard."""

    def __init__(self, work_dir: Path, first_step: int):
        """Keeps the lines of steps below `first_step` (steps count from 0) and drops the rest."""
        kept = [row for row in read_metrics(work_dir) if row["step"] < first_step]
        path, temporary = work_dir / NAME, work_dir / (NAME + ".tmp")
        try:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            temporary.replace(path)
            self._file = path.open("a", encoding="utf-8")
            folder = work_dir / "tensorboard"
            self._board = tensorboardX.SummaryWriter(str(folder), purge_step=first_step if kept else None)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from None

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One step's figures."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def flush(self) -> None:
        """Puts all lines on disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(f"{self._file.name}: cannot be written ({error.strerror})") from None

    def close(self) -> None:
        """Flushes and closes both."""
        self.flush()
        self._file.close()
        self._board.close()
