"""More charts as SVG: lines in the unit square, stacked shares, a table of shades. Numbers in, `Markup` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bioclip_jax.evaluation.report.charts import CHANCE, GRID, INK, MODEL, line, svg, words
from bioclip_jax.evaluation.report.markup import Markup, tag

MODEL_COLOURS = (MODEL, "#b4641e", "#1f6fb4", "#8e5ea2", "#d1495b", "#6b8e23", "#34495e")
"""The first is the page's own model's."""
RANK_SHADES = ("#e8f1ef", "#c9e0da", "#a3cabf", "#79b1a3", "#4e9585", "#2b7a6b", "#14665a")
"""Kingdom to species."""


@dataclass(frozen=True)
class Series:
    """A line with dots; coordinates as shares of the axes, 0 to 1."""

    label: str
    colour: str
    x: np.ndarray
    y: np.ndarray
    hover: Sequence[str] = ()
    """One per dot; no dots without."""
    radius: Sequence[float] = field(default_factory=tuple)
    joined: np.ndarray | None = None
    """bool: the points that the line goes through; all by default."""


@dataclass(frozen=True)
class Frame:
    """The unit square in a picture, and what its axes say."""

    title: str
    across: str
    up: str
    top: float = 1.0
    """The value at the upper edge."""
    width: float = 250.0
    height: float = 220.0
    ticks: int = 5

    def x(self, share: float) -> float:
        """Where a share of the horizontal axis lies."""
        return 38 + share * (self.width - 56)

    def y(self, value: float) -> float:
        """Where a value of the vertical axis lies."""
        return self.height - 36 - min(value / self.top, 1.0) * (self.height - 64)

    def draw(self, parts: Sequence[Markup], *, diagonal: bool = False) -> Markup:
        """The picture: grid, titles, then `parts`."""
        found = [words(0, 14, self.title, anchor="start", size=12.5, font_weight="600", fill="#111827")]
        for number in range(self.ticks):
            share = number / (self.ticks - 1)
            at = self.y(share * self.top)
            found.append(line(self.x(0), at, self.x(1), at, GRID))
            found.append(words(self.x(0) - 5, at + 3.5, f"{share * self.top:.0%}", anchor="end", size=10, fill=CHANCE))
            found.append(words(self.x(share), self.height - 22, f"{share:.0%}", size=10, fill=CHANCE))
        found.append(words(self.x(0.5), self.height - 7, self.across, size=10.5, fill=INK))
        if diagonal:
            found.append(line(self.x(0), self.y(0), self.x(1), self.y(1), CHANCE, 1, stroke_dasharray="3 3"))
        found.append(words(self.x(0), 27, self.up, anchor="start", size=10, fill=CHANCE))
        return svg(self.width, self.height, f"{self.title}: {self.up} against {self.across}", found, parts)


def draw_series(frame: Frame, series: Sequence[Series]) -> list[Markup]:
    """Lines and dots in a frame; those drawn last, which cover others, are the first of `series`."""
    parts = []
    for one in reversed(series):
        points = [(frame.x(float(x)), frame.y(float(y))) for x, y in zip(one.x, one.y, strict=True)]
        joined = [point for point, kept in zip(points, _all(one), strict=True) if kept]
        if len(joined) > 1:
            path = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in joined)
            hover = tag("title", one.label)
            drawn = tag(
                "path", hover, d=path, fill="none", stroke=one.colour, stroke_width=1.6, stroke_linejoin="round"
            )
            parts.append(drawn)
        radii = one.radius or [2.5] * len(points)
        for (x, y), about, radius in zip(points, one.hover, radii, strict=False):
            title = tag("title", about)
            parts.append(
                tag(
                    "circle", title, cx=f"{x:.1f}", cy=f"{y:.1f}", r=f"{radius:.1f}", fill=one.colour, fill_opacity=".8"
                )
            )
    return parts


def _all(series: Series) -> np.ndarray:
    return np.ones(len(series.x), bool) if series.joined is None else series.joined


def draw_shares(
    frame: Frame, x: np.ndarray, shares: np.ndarray, colours: Sequence[str], names: Sequence[str]
) -> list[Markup]:
    """Stacked bands: `shares` `[points, bands]` over `x` `[points]`, the last band lowest."""
    parts = []
    below = np.zeros(len(x))
    for band in reversed(range(shares.shape[1])):
        above = below + shares[:, band]
        edge = [(frame.x(float(a)), frame.y(float(b))) for a, b in zip(x, above, strict=True)]
        edge += [(frame.x(float(a)), frame.y(float(b))) for a, b in zip(x[::-1], below[::-1], strict=True)]
        path = "M" + " L".join(f"{a:.1f} {b:.1f}" for a, b in edge) + " Z"
        parts.append(tag("path", tag("title", names[band]), d=path, fill=colours[band]))
        below = above
    return parts


def shade_table(counts: np.ndarray, names: Sequence[str], others: str, label: str, *, longest: int = 18) -> Markup:
    """How often each row was taken for each column, as shades of the row's share.

    Args:
        counts: int `[rows, columns]`; `names` are both rows and, first, columns; a last column is `others`.
        names: of the rows.
        others: what the column beyond them is called, if there is one.
        label: says to a screen reader what it shows.
        longest: letters of a name that are shown.
    """
    cell, left, top = 34.0, 150.0, 112.0
    columns = [*names, others][: counts.shape[1]]
    width, height = left + cell * len(columns) + 60, top + cell * len(names) + 8
    parts = []
    for column, name in enumerate(columns):
        x, y = left + cell * (column + 0.5) + 4, top - 6
        turned = f"rotate(-45 {x:.0f} {y:.0f})"
        parts.append(words(x, y, _cut(name, longest), anchor="start", size=11, fill=INK, transform=turned))
    totals = np.maximum(counts.sum(axis=1), 1)
    for row, name in enumerate(names):
        y = top + cell * row
        title = tag("title", f"{name}: {counts[row].sum():,} photos")
        parts.append(
            tag("g", title, words(left - 8, y + cell / 2 + 4, _cut(name, longest + 4), anchor="end", size=11, fill=INK))
        )
        for column, other in enumerate(columns):
            share = counts[row, column] / totals[row]
            colour = MODEL if row == column else "#b42318"
            hover = tag(
                "title", f"{name} taken for {other}: {counts[row, column]:,} of {counts[row].sum():,} ({share:.1%})"
            )
            box: dict[str, str | float] = {
                "x": f"{left + cell * column:.1f}",
                "y": f"{y:.1f}",
                "width": cell - 1.5,
                "height": cell - 1.5,
                "rx": 2,
            }
            inside = [tag("rect", fill="#f3f4f6", **box)]
            if counts[row, column]:
                inside.append(tag("rect", fill=colour, fill_opacity=f"{0.06 + 0.94 * share:.2f}", **box))
            if share >= 0.01:
                ink = "#fff" if share > 0.55 else INK
                inside.append(
                    words(
                        left + cell * (column + 0.5) - 0.75,
                        y + cell / 2 + 3.5,
                        f"{100 * share:.0f}",
                        size=10.5,
                        fill=ink,
                    )
                )
            parts.append(tag("g", hover, inside))
    # Not larger than drawn: letters keep their size, however few the clades.
    return tag("div", svg(width, height, label, parts), style=f"max-width:{width:.0f}px")


def _cut(name: str, longest: int) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
