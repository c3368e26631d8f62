"""Pictures: species along the first principal axis, and how the figures of many models develop with scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.emergence.alignment import Axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Picture

COLOURS = ("#14665a", "#b4641e", "#1f6fb4", "#d1495b", "#8e5ea2", "#6b7280")
GRID = "#e5e7eb"


@dataclass(frozen=True)
class Point:
    """A figure of one model."""

    x: float
    value: float
    low: float
    high: float
    chance: float


def _panels(rows: int, columns: int) -> tuple[Picture, np.ndarray]:
    """Axes without a window; importing matplotlib takes a while, so only here."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(3.6 * columns, 2.9 * rows), layout="constrained")
    FigureCanvasAgg(picture)
    panels = picture.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.grid(color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    return picture, panels


def _saved(picture: Picture, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=110, metadata={"Software": None})
    return path


def draw_axis(axis: Axis, trait_name: str, path: Path, *, title: str = "") -> Path:
    """Every species at its place on the first principal axis and its value of a trait, as in the finches' figure.

    Args:
        axis: of `first_axis`, with the trait's values.
        trait_name: for the label.
        path: PNG to write.
        title: above the picture.
    """
    picture, panels = _panels(1, 1)
    panel = panels[0, 0]
    panel.scatter(axis.positions, axis.trait, s=18, color=COLOURS[0], alpha=0.8, linewidths=0)
    panel.set_xlabel(f"first principal axis ({100 * axis.explained:.0f} % of the variance between species)", fontsize=8)
    panel.set_ylabel(trait_name, fontsize=8)
    found = axis.finding
    text = f"Spearman {found.value:.2f} ({found.low:.2f} to {found.high:.2f}), p = {found.p_value:.3f}"
    panel.set_title(f"{title}\n{text}" if title else text, fontsize=8)
    return _saved(picture, path)


def draw_scaling(panels: Mapping[str, Mapping[str, Sequence[Point]]], path: Path, *, columns: int = 3) -> Path:
    """One panel for each statistic, one curve for each kind of model, with intervals; chance is dotted.

    Args:
        panels: title -> curve -> points.
        path: PNG to write.
        columns: panels in a row.

    Raises:
        UserError: there is no point to draw.
    """
    if not any(points for curves in panels.values() for points in curves.values()):
        raise UserError("there are no figures to draw")
    picture, axes = _panels(-(-len(panels) // columns), columns)
    colour = {curve: COLOURS[place % len(COLOURS)] for place, curve in enumerate(_curves(panels))}
    for panel, (title, curves) in zip(axes.flat, panels.items(), strict=False):
        panel.set_title(title, fontsize=9)
        panel.set_xscale("log")
        for place, (curve, points) in enumerate(curves.items()):
            _draw_curve(panel, sorted(points, key=lambda point: point.x), curve, colour[curve], 1 + 0.025 * place)
        ticks = sorted({point.x for points in curves.values() for point in points})
        panel.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        panel.minorticks_off()
        panel.set_xlabel("training images", fontsize=8)
    for panel in axes.flat[len(panels) :]:
        panel.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), fontsize=8, frameon=False)
    return _saved(picture, path)


def _curves(panels: Mapping[str, Mapping[str, Sequence[Point]]]) -> list[str]:
    return list(dict.fromkeys(curve for curves in panels.values() for curve in curves))


def _draw_curve(panel: Axes, points: Sequence[Point], label: str, colour: str, shift: float) -> None:
    x = np.array([point.x for point in points]) * shift
    values = np.array([point.value for point in points])
    low, high = (np.array([getattr(point, side) for point in points]) for side in ("low", "high"))
    errors = np.nan_to_num(np.maximum(np.stack([values - low, high - values]), 0))
    panel.errorbar(x, values, errors, color=colour, marker="o", markersize=3, linewidth=1.2, capsize=2, label=label)
    panel.plot(x, [point.chance for point in points], color=colour, linewidth=0.9, linestyle=":")
