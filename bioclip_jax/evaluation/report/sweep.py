"""The runs of a sweep in one table: the fields of their configs that differ, and the figures that they ended with."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_jax.evaluation.methods import well_formed
from bioclip_jax.evaluation.report.curves import read_metrics
from bioclip_jax.evaluation.report.markup import Markup, details, figure, tag
from bioclip_jax.evaluation.report.measured import Measured

_CONFIG, _METRICS, _EVALUATIONS = "config.json", "metrics.jsonl", "evaluations.jsonl"
_MEANS = ("loss", "accuracy", "images_per_second", "mfu")
_SHARE = 40  # of a run's steps, at its end, one in so many is averaged, as the curves' running mean does
_AT_THE_END = ("goodput", "skipped")
_DIGITS = 4


@dataclass(frozen=True)
class SweepPoint:
    """One run, as its work directory shows it."""

    name: str
    fields: Mapping[str, Any]
    """Of its config, by dotted name."""
    figures: Mapping[str, float]
    """`steps`, those of training at its end, and those of evaluations."""


def read_points(folders: Iterable[Path], runs: Sequence[Measured]) -> list[SweepPoint]:
    """The runs among these work directories: those with a config that can be read. `runs` are newest first."""
    points = []
    for folder, name in names_of(folders).items():
        try:
            config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict):
            figures = _training(folder) | _evaluation(folder) | _measured(folder, runs)
            points.append(SweepPoint(name, dict(_leaves(config)), figures))
    return points


def names_of(folders: Iterable[Path]) -> dict[Path, str]:
    """What runs are called: by their folders' names, and whole paths where those are the same."""
    folders = list(folders)
    count = Counter(folder.name for folder in folders)
    return {folder: folder.name if folder.name and count[folder.name] == 1 else str(folder) for folder in folders}


def differing(points: Sequence[SweepPoint]) -> list[str]:
    """The names of the fields that are not the same for all points, in the config's order."""
    names = dict.fromkeys(name for point in points for name in point.fields)
    return [name for name in names if any(p.fields.get(name) != points[0].fields.get(name) for p in points)]


def sweep_section(points: Sequence[SweepPoint]) -> Markup | None:
    """The table; None where there are not several runs."""
    if len(points) < 2:
        return None
    fields, figures = differing(points), _names(points)
    head = tag("tr", tag("th", "run", class_="text"), [tag("th", name) for name in (*fields, *figures)])
    rows = [
        tag(
            "tr",
            tag("td", point.name, class_="text"),
            [tag("td", _shown(point.fields.get(name))) for name in fields],
            [tag("td", _shown(point.figures.get(name))) for name in figures],
        )
        for point in points
    ]
    caption = (
        "The fields in which the runs' configs differ, and their last figures: loss, accuracy, speed and MFU are means "
        f"over the last {_SHARE}th of a run's steps; accuracy is that in the batch; zero-shot is balanced accuracy."
    )
    table = tag("div", tag("table", tag("thead", head), tag("tbody", rows)), class_="table")
    copied = details("The same as CSV", tag("pre", as_csv(points)))
    return tag("section", tag("h2", f"{len(points)} runs"), figure(caption, table), copied)


def as_csv(points: Sequence[SweepPoint]) -> str:
    """The table with all digits, to be read by other programs.

    As in the tables of `bioclip-jax predict`, a text that begins as a formula does gets a `'` before it.
    """
    fields, figures = differing(points), _names(points)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_harmless, ("run", *fields, *figures)))
    for point in points:
        settings = [_harmless(point.fields.get(name)) for name in fields]
        writer.writerow([_harmless(point.name), *settings, *(_digits(point.figures.get(name)) for name in figures)])
    return text.getvalue()


def _names(points: Sequence[SweepPoint]) -> list[str]:
    return list(dict.fromkeys(name for point in points for name in point.figures))


def _training(folder: Path) -> dict[str, float]:
    path = folder / _METRICS
    if not path.is_file():
        return {}
    found, _ = read_metrics(path, (*_MEANS, *_AT_THE_END))
    if not found:
        return {}
    figures = {"steps": 1.0 + max(int(steps[-1]) for steps, _ in found.values())}
    for name, (_, values) in found.items():
        count = max(1, len(values) // _SHARE) if name in _MEANS else 1
        figures[name] = float(np.mean(values[-count:]))
    return figures


def _evaluation(folder: Path) -> dict[str, float]:
    """The last line's figures."""
    figures: dict[str, float] = {}
    try:
        lines = (folder / _EVALUATIONS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return figures
    for line in lines:
        try:
            row = json.loads(line)
            figures = {name: float(x) for name, x in row.items() if name != "step" and isinstance(x, int | float)}
        except (ValueError, AttributeError):
            break  # what a killed run has written half
    return figures


def _measured(folder: Path, runs: Sequence[Measured]) -> dict[str, float]:
    """Zero-shot accuracy at species of what `bioclip-jax eval` measured of the run, the newest of each benchmark."""
    figures: dict[str, float] = {}
    for run in runs:
        if run.results.path.parent != folder:
            continue
        for split in run.splits():
            found = run.zero_shot(split, "species", "balanced_accuracy")
            if found is not None and math.isfinite(found.value):
                figures.setdefault(f"{run.run.benchmark}/{split}/zero_shot/species", found.value)
    return figures


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return "" if value is None else str(value)


def _harmless(value: Any) -> str:
    """A cell that no spreadsheet takes for a formula; numbers may begin with a sign."""
    text = well_formed(_cell(value))
    is_formula = isinstance(value, str | list) and re.match(r"[=+\-@\t\r\n]", text)
    return f"'{text}" if is_formula else text


def _shown(value: Any) -> str:
    if value is None or value == "":
        return "\N{EN DASH}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) >= 1 else f"{value:.{_DIGITS}g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _cell(value)
