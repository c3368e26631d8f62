"""Goodput: the time that went into steps which were kept, over all the time since a run first began.

Work that a restart repeats, waiting for data, evaluations, saving, compiling and the time between two starts all count
as lost. The two numbers behind it outlive the process: the first start is in a file of its own, and the time of a kept
step is in its line of `metrics.jsonl`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bioclip_jax.pipeline.manifest import write_json

NAME = "first_start.json"


def first_start(work_dir: Path, now: Callable[[], float] = time.time) -> float:
    """When the run in a directory first began, in seconds since 1970; noted there if it begins now."""
    try:
        return float(json.loads((work_dir / NAME).read_text(encoding="utf-8"))["seconds_since_1970"])
    except (OSError, ValueError, KeyError, TypeError):
        start = now()
        write_json(work_dir / NAME, {"seconds_since_1970": start})
        return start


class Goodput:
    """Adds up a run's useful seconds."""

    def __init__(self, start: float, rows: Iterable[Mapping[str, Any]], now: Callable[[], float] = time.time):
        """Of a run that began at `start` and whose kept steps have these lines of figures."""
        self._start, self._now = start, now
        self._useful = sum(row.get("seconds", 0.0) * (1 - row.get("data_wait_share", 0.0)) for row in rows)

    def add(self, seconds: float) -> float:
        """Counts a step's useful seconds, and returns the share of all time so far, 0..1."""
        self._useful += seconds
        return min(1.0, self._useful / max(self._now() - self._start, 1e-9))
