"""The elements of the statistics page: tables with bars, a histogram, a curve. ElementTree escapes every text."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias
from xml.etree.ElementTree import Element

import numpy as np

from bioclip_jax.pipeline.statistics import quantile

INK, SOFT, GRID, BAR = "#374151", "#6b7280", "#e5e7eb", "#14665a"

Child: TypeAlias = "str | Element | Sequence[Child] | None"

# What XML does not allow at all.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


def tag(element: str, *children: Child, **attributes: str | float) -> Element:
    """An element. `class_` is `class`, other underscores are hyphens; nested children are flattened, None left out."""
    node = Element(element, {key.rstrip("_").replace("_", "-"): _clean(value) for key, value in attributes.items()})
    _append(node, children)
    return node


def table(heads: Sequence[str], rows: Sequence[Sequence[Child]], texts: int = 1) -> Element:
    """A table; the first `texts` columns are text, the others numbers or bars."""

    def style(column: int) -> dict[str, str]:
        return {"class_": "text"} if column < texts else {}

    head = tag("tr", [tag("th", name, **style(column)) for column, name in enumerate(heads)])
    body = [tag("tr", [tag("td", cell, **style(column)) for column, cell in enumerate(row)]) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", body)), class_="table")


def bar(share: float) -> Element:
    """A bar for a cell of a table; `share` of its full width, 0 to 1."""
    return tag("div", tag("i", " ", style=f"width:{100 * share:.2f}%"), class_="bar")


def counts_table(head: str, counts: Mapping[str, int], total: int, most: int = 12, empty: str = "not said") -> Element:
    """The most frequent values with bars, the share of `total` in figures, and the others in one row."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown, others = (ordered, []) if len(ordered) <= most + 1 else (ordered[:most], ordered[most:])
    largest = max((count for _, count in shown), default=1)

    def row(value: Child, count: int, *bars: Child) -> Sequence[Child]:
        return value, number(count), percent(count, total), *bars

    rows = [row(value or tag("em", empty), count, bar(count / largest)) for value, count in shown]
    if others:
        rows.append(row(tag("em", f"{len(others):,} others"), sum(count for _, count in others), ""))
    return table((head, "photos", "share", ""), rows)


def number(value: int) -> str:
    """With commas; an en dash for 0, which the eye passes over."""
    return f"{value:,}" if value else "\N{EN DASH}"


def percent(part: float, whole: float) -> str:
    """A share in per cent, never rounded to 0 or 100."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1 or 99.9 < share < 100:
        return "< 0.1 %" if share < 50 else "> 99.9 %"
    return f"{share:.0f} %" if share in (0, 100) else f"{share:.1f} %"


def svg(width: float, height: float, label: str, *children: Child) -> Element:
    """A picture that shrinks with the page; `label` says to a screen reader what it shows."""
    return tag("svg", *children, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label)


def words(x: float, y: float, content: str, anchor: str = "middle", size: float = 11, **style: str) -> Element:
    """Text in a picture."""
    return tag(
        "text", content, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, font_size=size, **({"fill": SOFT} | style)
    )


def line(x1: float, y1: float, x2: float, y2: float, colour: str = GRID, **style: str) -> Element:
    """A straight line."""
    return tag("line", x1=f"{x1:.1f}", y1=f"{y1:.1f}", x2=f"{x2:.1f}", y2=f"{y2:.1f}", stroke=colour, **style)


def histogram(
    title: str,
    counts: Mapping[int, int],
    unit: str,
    *,
    width: float = 340,
    bins: int = 40,
    span: tuple[int, int] | None = None,
    marks: Sequence[int] = (),
) -> Element:
    """How often which value occurs, in equal steps; what is above the last stands in it.

    Args:
      title: stands above.
      counts: value -> how often.
      unit: of the values.
      width: of the picture; its height is 170.
      bins: at most this many.
      span: from where to where; from the smallest value to the 99.5 % quantile if not given.
      marks: values with a dashed line, where they are in the span.
    """
    height, side, top, bottom = 170.0, 2.0, 38.0, 24.0
    values = np.array(sorted(counts))
    weights = np.array([counts[value] for value in values.tolist()], float)
    low, high = span or (int(values[0]), quantile(counts, 0.995))
    step = max(1, math.ceil((high - low + 1) / bins))
    used = (high - low) // step + 1
    heights = np.bincount(np.minimum((values - low) // step, used - 1), weights, used)
    across, up = (width - 2 * side) / used, (height - top - bottom) / heights.max()
    parts: list[Child] = [words(side, 14, title, "start", 12.5, fill="#111827", font_weight="600")]
    for place, count in enumerate(heights):
        first, last = low + place * step, low + (place + 1) * step - 1
        steps = f"{first:,}" if step == 1 else f"{first:,} to {last:,}"
        box = {"x": f"{side + place * across + 0.4:.2f}", "y": f"{height - bottom - count * up:.2f}"}
        size = {"width": f"{max(across - 0.8, 0.5):.2f}", "height": f"{count * up:.2f}", "fill": BAR}
        parts.append(tag("rect", tag("title", f"{steps} {unit}: {int(count):,} photos"), **box, **size))
    parts.append(line(side, height - bottom, width - side, height - bottom, SOFT))
    for mark in marks:
        if low <= mark < low + used * step:
            x = side + (mark - low + 0.5) / step * across
            parts += [
                line(x, top - 8, x, height - bottom, SOFT, stroke_dasharray="3 3"),
                words(x, top - 10, f"{mark}", size=10),
            ]
    parts.append(words(side, height - 8, f"{low:,}", "start"))
    most = low + used * step - 1
    more = " and more" if int(values[-1]) > most else ""
    parts.append(words(width - side, height - 8, f"{most:,} {unit}{more}", "end"))
    return svg(width, height, title, parts)


def tail_curve(counts: np.ndarray, marks: Sequence[int]) -> Element:
    """Photos per species over the rank of the species, both logarithmic.

    Args:
      counts: int64 [species], descending, at least 1 each.
      marks: numbers of photos with a line that says how many species have as many.
    """
    width, height, left, right, top, bottom = 560.0, 330.0, 62.0, 124.0, 12.0, 42.0
    decades_x = max(1, math.ceil(math.log10(max(len(counts), 2)) - 1e-9))
    decades_y = max(1, math.ceil(math.log10(max(int(counts[0]), 2)) - 1e-9))

    def x(rank: float) -> float:
        return left + math.log10(rank) / decades_x * (width - left - right)

    def y(count: float) -> float:
        return height - bottom - math.log10(count) / decades_y * (height - top - bottom)

    parts: list[Child] = []
    for power in range(decades_x + 1):
        parts += [
            line(x(10**power), top, x(10**power), height - bottom),
            words(x(10**power), height - 22, f"{10**power:,}"),
        ]
    for power in range(decades_y + 1):
        parts += [
            line(left, y(10**power), width - right, y(10**power)),
            words(left - 7, y(10**power) + 4, f"{10**power:,}", "end"),
        ]
    places = np.unique(np.round(np.geomspace(1, len(counts), 240)).astype(int))
    path = "M" + " L".join(f"{x(int(place)):.1f} {y(int(counts[place - 1])):.1f}" for place in places)
    parts.append(tag("path", d=path, fill="none", stroke=BAR, stroke_width=2, stroke_linejoin="round"))
    for mark in marks:
        reached = int((counts >= mark).sum())
        if reached:
            text = f"{reached:,} with {mark}+ " if mark > 1 else f"{reached:,} in all"
            parts.append(line(left, y(mark), width - right, y(mark), SOFT, stroke_dasharray="3 3"))
            parts.append(tag("circle", cx=f"{x(reached):.1f}", cy=f"{y(mark):.1f}", r=4, fill=BAR))
            parts.append(words(width - right + 8, y(mark) + 4, text, "start", 12, fill=INK))
    parts.append(words((left + width - right) / 2, height - 4, "species, the most photographed first"))
    middle = (top + height - bottom) / 2
    parts.append(words(14, middle, "photos of it", transform=f"rotate(-90 14 {middle:.1f})"))
    return svg(width, height, "photos per species", parts)


def _append(node: Element, child: Child) -> None:
    if child is None:
        return
    if isinstance(child, Element):
        node.append(child)
    elif not isinstance(child, str):
        for part in child:
            _append(node, part)
    elif len(node):
        node[-1].tail = (node[-1].tail or "") + _clean(child)
    else:
        node.text = (node.text or "") + _clean(child)


def _clean(value: str | float) -> str:
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(value))
