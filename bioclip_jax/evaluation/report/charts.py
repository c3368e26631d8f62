"""Charts as SVG: axes, accuracy by rank with intervals, training curves, a map of points. Numbers in, `Markup` out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bioclip_jax.evaluation.report.markup import Child, Markup, tag

MODEL, BASELINE, CHANCE, GRID, INK = "#14665a", "#b4641e", "#6b7280", "#e5e7eb", "#374151"
PALETTE = (
    "#1f6fb4", "#d1495b", "#2a9d6f", "#8e5ea2", "#e39a1f", "#17a2b8",
    "#7a5230", "#e377a8", "#6b8e23", "#34495e", "#c0a000", "#a04030",
)  # fmt: skip
OTHERS = "#b6bcc6"


@dataclass(frozen=True)
class Mark:
    """A figure with its interval, as shares; `hover` is shown under the pointer."""

    value: float
    low: float
    high: float
    hover: str


@dataclass(frozen=True)
class RankColumn:
    """What a chart of accuracy by rank shows above one rank."""

    rank: str
    chance: float
    model: Mark | None
    baseline: Mark | None


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def svg(width: float, height: float, label: str, *children: Child) -> Markup:
    """A picture that shrinks with the page; `label` says to a screen reader what it shows."""
    return tag("svg", *children, viewBox=f"0 0 {_number(width)} {_number(height)}", role="img", aria_label=label)


def words(x: float, y: float, content: str, *, anchor: str = "middle", size: float = 12, **style: str) -> Markup:
    """Text in a picture."""
    return tag("text", content, x=_number(x), y=_number(y), text_anchor=anchor, font_size=size, **style)


def line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, **style: str) -> Markup:
    """A straight line."""
    ends = {"x1": _number(x1), "y1": _number(y1), "x2": _number(x2), "y2": _number(y2)}
    return tag("line", **ends, stroke=colour, stroke_width=width, **style)


def rank_chart(title: str, columns: Sequence[RankColumn]) -> Markup:
    """Accuracy by rank: model (line and dots) and baseline (squares) with intervals, chance as a dashed step."""
    width, height, left, top, bottom = 520.0, 330.0, 42.0, 34.0, 34.0
    step = (width - left - 8) / max(len(columns), 1)

    def y(share: float) -> float:
        return height - bottom - share * (height - top - bottom)

    parts: list[Markup] = [words(left, 16, title, anchor="start", size=14, font_weight="600", fill="#111827")]
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        parts.append(line(left, y(share), width - 8, y(share), GRID))
        parts.append(words(left - 8, y(share) + 4, f"{share:.0%}", anchor="end", size=11, fill=CHANCE))
    model_line = []
    for number, column in enumerate(columns):
        x = left + step * (number + 0.5)
        parts.append(words(x, height - 12, column.rank, fill=INK))
        chance = line(x - step * 0.36, y(column.chance), x + step * 0.36, y(column.chance), CHANCE, 1.5)
        hover = tag("title", f"chance at {column.rank}: {column.chance:.1%}")
        parts.append(tag("g", hover, chance, stroke_dasharray="3 3"))
        if column.baseline:
            parts.append(_baseline_mark(x + (9 if column.model else 0), column.baseline, y))
        if column.model:
            shift = x - (9 if column.baseline else 0)
            model_line.append((shift, y(column.model.value)))
            parts.append(_model_mark(shift, column.model, y))
    path = "M" + " L".join(f"{_number(a)} {_number(b)}" for a, b in model_line)
    if len(model_line) > 1:
        parts.insert(1, tag("path", d=path, fill="none", stroke=MODEL, stroke_width=1.2, opacity="0.35"))
    return svg(width, height, title, parts)


def _model_mark(x: float, mark: Mark, y: Callable[[float], float]) -> Markup:
    return tag(
        "g",
        tag("title", mark.hover),
        line(x, y(mark.low), x, y(mark.high), MODEL, 2),
        tag("circle", cx=_number(x), cy=_number(y(mark.value)), r=4.5, fill=MODEL),
        words(x, y(mark.high) - 6, f"{100 * mark.value:.0f}", size=11, fill=MODEL, font_weight="600"),
    )


def _baseline_mark(x: float, mark: Mark, y: Callable[[float], float]) -> Markup:
    middle = y(mark.value)
    box = tag(
        "rect",
        x=_number(x - 3.5),
        y=_number(middle - 3.5),
        width=7,
        height=7,
        fill="#fff",
        stroke=BASELINE,
        stroke_width=1.8,
    )
    return tag("g", tag("title", mark.hover), line(x, y(mark.low), x, y(mark.high), BASELINE, 1.6), box)


def curve_chart(title: str, steps: np.ndarray, values: np.ndarray, *, unit: str = "") -> Markup:
    """One quantity over training steps: as measured (pale) and as a running mean over a fortieth of the steps."""
    width, height, left, top, bottom = 250.0, 150.0, 40.0, 26.0, 22.0
    window = max(1, len(values) // 40)
    smooth = np.convolve(
        np.pad(values, (window // 2, (window - 1) // 2), mode="edge"), np.ones(window) / window, "valid"
    )
    low, high, ticks = axis(float(np.quantile(values, 0.005)), float(np.quantile(values, 0.995)))
    first, last = float(steps[0]), float(max(steps[-1], steps[0] + 1))

    def x(step: float) -> float:
        return left + (step - first) / (last - first) * (width - left - 8)

    def y(value: float) -> float:
        return height - bottom - (min(max(value, low), high) - low) / (high - low) * (height - top - bottom)

    parts = [
        words(
            0, 14, title + (f" ({unit})" if unit else ""), anchor="start", size=12.5, font_weight="600", fill="#111827"
        )
    ]
    for value in ticks:
        parts.append(line(left, y(value), width - 8, y(value), GRID))
        parts.append(words(left - 5, y(value) + 3.5, f"{value:g}", anchor="end", size=10, fill=CHANCE))
    chosen = np.unique(np.linspace(0, len(steps) - 1, 300).astype(int))
    for series, colour, thickness in ((values, "#bcd5d0", 0.8), (smooth, MODEL, 1.6)):
        path = "M" + " L".join(f"{_number(x(float(steps[i])))} {_number(y(float(series[i])))}" for i in chosen)
        parts.append(tag("path", d=path, fill="none", stroke=colour, stroke_width=thickness, stroke_linejoin="round"))
    parts.append(words(left, height - 6, f"{first:,.0f}", anchor="start", size=10, fill=CHANCE))
    parts.append(words(width - 8, height - 6, f"step {last:,.0f}", anchor="end", size=10, fill=CHANCE))
    return svg(width, height, title, parts)


def axis(low: float, high: float) -> tuple[float, float, list[float]]:
    """A range around `low` and `high` that starts and ends at round numbers, and two to five ticks in it."""
    if not high > low:
        low, high = low - abs(low) * 0.1 - 1e-3, high + abs(high) * 0.1 + 1e-3
    rough = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(rough))
    unit = power * next(factor for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    start, end = math.floor(low / unit), math.ceil(high / unit)
    return start * unit, end * unit, [round(number * unit, 10) for number in range(start, end + 1)]


@dataclass(frozen=True)
class Point:
    """A point of a map, with coordinates in 0 to 1."""

    x: float
    y: float
    group: int
    hollow: bool
    hover: str


def point_map(points: Sequence[Point], colours: Sequence[str], label: str) -> Markup:
    """A scatter of points, coloured by group; hollow ones are rings. The name is shown under the pointer."""
    width, height, margin = 760.0, 600.0, 12.0
    parts = []
    for point in sorted(points, key=lambda p: (p.hollow, -p.group)):
        colour = colours[point.group]
        look = (
            {"fill": "#fff", "stroke": colour, "stroke_width": "1.6"}
            if point.hollow
            else {"fill": colour, "fill_opacity": ".82"}
        )
        parts.append(
            tag(
                "circle",
                tag("title", point.hover),
                cx=_number(margin + point.x * (width - 2 * margin)),
                cy=_number(margin + point.y * (height - 2 * margin)),
                r=3.6 if point.hollow else 4,
                class_=f"g{point.group}",
                **look,
            )
        )
    return svg(width, height, label, parts)
