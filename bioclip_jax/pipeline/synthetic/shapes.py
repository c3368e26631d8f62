"""Outlines of organisms as polygons: curves, ribbons, patches that carry a pattern, and the sketch that collects them.

Organism coordinates: the figure fills about [-1, 1] in both axes, x to the right (the way it faces), y down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Colour = tuple[int, int, int]
"""Red, green, blue, 0 to 255."""
Point = Sequence[float] | np.ndarray
"""x and y."""


def _catmull_rom(per: int) -> np.ndarray:
    """Weights of four neighbouring control points at `per` places of a segment, [per, 4] (Catmull and Rom 1974)."""
    s = np.arange(per) / per
    basis = (-s + 2 * s**2 - s**3, 2 - 5 * s**2 + 3 * s**3, s + 4 * s**2 - 3 * s**3, -(s**2) + s**3)
    return 0.5 * np.stack(basis, axis=1)


_WEIGHTS = {per: _catmull_rom(per) for per in range(1, 13)}


def closed_curve(control: Sequence | np.ndarray, per: int = 4) -> np.ndarray:
    """Smooth closed outline through the control points [k, 2], as a polygon [k * per, 2]."""
    points = np.asarray(control, np.float64)
    around = np.concatenate([points[-1:], points, points[:2]])
    windows = np.stack([around[i : i + len(points)] for i in range(4)], axis=1)
    return np.einsum("pw,kwc->kpc", _WEIGHTS[per], windows).reshape(-1, 2)


def open_curve(control: Sequence | np.ndarray, per: int = 4) -> np.ndarray:
    """Smooth open curve through the control points [k, 2] with both ends, [(k - 1) * per + 1, 2]."""
    points = np.asarray(control, np.float64)
    around = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    windows = np.stack([around[i : i + len(points) - 1] for i in range(4)], axis=1)
    return np.concatenate([np.einsum("pw,kwc->kpc", _WEIGHTS[per], windows).reshape(-1, 2), points[-1:]])


_CIRCLES = {
    count: np.stack([np.cos(a), np.sin(a)], axis=1)
    for count in (6, 8, 10, 14, 20, 28)
    for a in [np.arange(count) * (2 * math.pi / count)]
}


def ellipse(
    x: float, y: float, radius_x: float, radius_y: float | None = None, angle: float = 0.0, count: int = 20
) -> np.ndarray:
    """Ellipse as a polygon [count, 2]; `angle` in radians turns its x axis towards +y."""
    points = _CIRCLES[count] * (radius_x, radius_x if radius_y is None else radius_y)
    if angle:
        points = points @ turn(angle)
    return np.add(points, (x, y))


def ellipse_at(
    at: Point, radius_x: float, radius_y: float | None = None, angle: float = 0.0, count: int = 20
) -> np.ndarray:
    """`ellipse` about a point [2]."""
    return ellipse(float(at[0]), float(at[1]), radius_x, radius_y, angle, count)


def turn(angle: float) -> np.ndarray:
    """Matrix [2, 2] for row vectors (`points @ turn(a)`) that turns +x towards +y by `angle` radians."""
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, s], [-s, c]])


@dataclass(frozen=True)
class Patch:
    """A piece of skin between two edges [n, 2] of equal length; (u, v) in the unit square runs along and across it."""

    upper: np.ndarray
    lower: np.ndarray

    @property
    def outline(self) -> np.ndarray:
        """Polygon [2n, 2]."""
        return np.concatenate([self.upper, self.lower[::-1]])

    def at(self, u: np.ndarray | float, v: np.ndarray | float) -> np.ndarray:
        """Points [..., 2] at `u` along and `v` across (0 upper, 1 lower)."""
        place = np.clip(np.asarray(u, np.float64), 0.0, 1.0) * (len(self.upper) - 1)
        left = np.minimum(place.astype(np.int64), len(self.upper) - 2)
        part = (place - left)[..., None]
        across = np.asarray(v, np.float64)[..., None]
        upper = self.upper[left] * (1 - part) + self.upper[left + 1] * part
        lower = self.lower[left] * (1 - part) + self.lower[left + 1] * part
        return upper * (1 - across) + lower * across

    def moved(self, matrix: np.ndarray, offset: tuple[float, float] = (0.0, 0.0)) -> Patch:
        """The same patch after an affine map of row vectors."""
        return Patch(self.upper @ matrix + offset, self.lower @ matrix + offset)


def patch(upper: Sequence | np.ndarray, lower: Sequence | np.ndarray, per: int = 4) -> Patch:
    """Patch between smooth curves through equally many control points."""
    return Patch(open_curve(upper, per), open_curve(lower, per))


def ribbon(path: Sequence | np.ndarray, widths: Sequence | np.ndarray, per: int = 3) -> Patch:
    """Patch along a smooth path [k, 2] with full widths [k] (legs, tails, stems, snakes)."""
    control = np.asarray(path, np.float64)
    table = np.concatenate([control, np.asarray(widths, np.float64)[:, None]], axis=1)
    if per > 1:
        around = np.concatenate([2 * table[:1] - table[1:2], table, 2 * table[-1:] - table[-2:-1]])
        windows = np.stack([around[i : i + len(table) - 1] for i in range(4)], axis=1)
        table = np.concatenate([np.einsum("pw,kwc->kpc", _WEIGHTS[per], windows).reshape(-1, 3), table[-1:]])
    line = table[:, :2]
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    along /= np.sqrt((along**2).sum(axis=1, keepdims=True)) + 1e-9
    half = 0.5 * np.maximum(table[:, 2:], 0.0) * along[:, ::-1] * (1.0, -1.0)
    return Patch(line + half, line - half)


def disc(ring: np.ndarray) -> Patch:
    """Patch inside a closed outline of an even number of points, from its first point to the opposite one."""
    half = len(ring) // 2
    return Patch(ring[: half + 1], np.concatenate([ring[:1], ring[: half - 1 : -1]]))


def blade(x: float, y: float, angle: float, length: float, width: float, sharp: float = 0.5) -> np.ndarray:
    """Leaf, petal or feather from (x, y) along `angle`, widest at `sharp` of its length; polygon [8, 2]."""
    half = width / 2
    outline = np.array(
        [
            (0.0, 0.0),
            (0.35 * sharp, 0.62 * half / length),
            (sharp, half / length),
            (0.55 + 0.45 * sharp, 0.55 * half / length),
            (1.0, 0.0),
            (0.55 + 0.45 * sharp, -0.55 * half / length),
            (sharp, -half / length),
            (0.35 * sharp, -0.62 * half / length),
        ]
    )
    return (outline * length) @ turn(angle) + (x, y)


def blade_at(at: Point, angle: float, length: float, width: float, sharp: float = 0.5) -> np.ndarray:
    """`blade` from a point [2]."""
    return blade(float(at[0]), float(at[1]), angle, length, width, sharp)


@dataclass(frozen=True)
class Figure:
    """A finished drawing: all points [n, 2] float32 and, in painting order, (RGBA premultiplied, slices of points)."""

    points: np.ndarray
    fills: tuple[tuple[tuple[int, int, int, int], tuple[tuple[int, int], ...]], ...]


class Sketch:
    """Collects filled polygons in painting order."""

    def __init__(self) -> None:
        self._points: list[np.ndarray] = []
        self._count = 0
        self._fills: list[tuple[tuple[int, int, int, int], tuple[tuple[int, int], ...]]] = []

    def fill(self, colour: Colour, *polygons: np.ndarray, opacity: float = 1.0) -> None:
        """Paint polygons [k, 2] in one colour. Those of one call must not overlap (even-odd rule)."""
        slices = []
        for polygon in polygons:
            self._points.append(polygon)
            slices.append((self._count, self._count + len(polygon)))
            self._count += len(polygon)
        red, green, blue = (int(c * opacity) for c in colour)
        self._fills.append(((red, green, blue, int(255 * opacity)), tuple(slices)))

    def finish(self, matrix: np.ndarray | None = None) -> Figure:
        """The figure about the middle of its bounding box, whose longer side becomes 2, or up to 2.7 for slender
        figures, which would look small; `matrix` [2, 2] is applied first.
        """
        points = np.concatenate(self._points)
        if matrix is not None:
            points = points @ matrix
        low, high = points.min(axis=0), points.max(axis=0)
        extent = max(float((high - low).max()), 1e-6)
        slender = float((high - low).min()) / extent
        points = (points - (low + high) / 2) * (2.0 / (extent * (0.75 + 0.25 * slender)))
        return Figure(points.astype(np.float32), tuple(self._fills))


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Blend with `share` in [0, 1] of the second colour."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (< 1) or lighter (> 1) colour."""
    red, green, blue = (min(255, max(0, round(c * factor))) for c in colour)
    return red, green, blue
