"""The training curves of a run: from its `metrics.jsonl`, one JSON object per line."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bioclip_jax.evaluation.report.charts import curve_chart
from bioclip_jax.evaluation.report.markup import Markup, figure, tag

CURVES = (
    ("loss", "loss", "", 1.0),
    ("accuracy", "accuracy in the batch", "%", 100.0),
    ("learning_rate", "learning rate", "1e-3", 1e3),
    ("logit_scale", "logit scale", "", 1.0),
    ("gradient_norm", "gradient norm", "", 1.0),
    ("images_per_second", "images per second", "", 1.0),
    ("data_wait_share", "time spent waiting for data", "%", 100.0),
    ("mfu", "model FLOPs utilisation", "%", 100.0),
)
"""Key, title, unit, and what the value is multiplied by."""
KEYS = tuple(curve[0] for curve in CURVES)


def read_metrics(path: Path, keys: Sequence[str] = KEYS) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], int]:
    """Steps and values of every key that is there, and how many lines could not be read.

    A killed run may leave half a line. Steps that were repeated after a restart count once, as they came last. Values
    that are not finite are left out.
    """
    by_key: dict[str, dict[int, float]] = {key: {} for key in keys}
    damaged = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        for row in file:
            try:
                entry = json.loads(row)
                step = int(entry["step"])
            except (ValueError, KeyError, TypeError, OverflowError):
                damaged += bool(row.strip())
                continue
            for key, values in by_key.items():
                value = entry.get(key)
                if isinstance(value, int | float) and math.isfinite(value):
                    values[step] = float(value)
    return {
        key: (np.array(sorted(values)), np.array([values[step] for step in sorted(values)]))
        for key, values in by_key.items()
        if values
    }, damaged


def curves_section(path: Path, name: str = "") -> Markup | None:
    """The section on training of `name`; None if the file has nothing to show."""
    found, damaged = read_metrics(path)
    if not found:
        return None
    count = 1 + max(int(steps[-1]) for steps, _ in found.values())
    charts = [
        curve_chart(title, found[key][0], found[key][1] * factor, unit=unit)
        for key, title, unit, factor in CURVES
        if key in found
    ]
    caption = (
        f"Training, {count:,} steps. Pale: every step that was noted; dark: running mean over a fortieth of them. "
        "Axes leave out the outermost half per cent of the values."
    )
    if damaged:
        caption += f" {damaged} line{'s' if damaged > 1 else ''} of the log could not be read."
    return tag(
        "section",
        tag("h2", f"Training of {name}" if name else "Training"),
        figure(caption, tag("div", charts, class_="curves")),
    )
