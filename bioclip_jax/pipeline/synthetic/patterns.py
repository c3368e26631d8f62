"""Markings on a patch of skin, shell, wing or leaf: the same eight kinds for every body plan."""

from __future__ import annotations

import numpy as np

from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.shapes import Patch, Sketch, closed_curve, mix, shade
from bioclip_jax.pipeline.synthetic.traits import PATTERNS


def _circle(count: int) -> np.ndarray:
    angle = np.arange(count) * (2 * np.pi / count)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


_DOT, _RING = _circle(8), _circle(14)


def mark(sketch: Sketch, skin: Patch, look: Phenotype, aspect: float = 0.5, turned: bool = False) -> None:
    """Paint the species' pattern on `skin`. `aspect` is its width over its length, so that spots are round;
    `turned` swaps bands and stripes (for skins whose long axis lies across the animal).
    """
    kind = PATTERNS[look.pattern]
    if turned:
        kind = {"bands": "stripes", "stripes": "bands"}.get(kind, kind)
    if kind == "bands":
        _bands(sketch, skin, look)
    elif kind == "stripes":
        _stripes(sketch, skin, look)
    elif kind == "spots":
        _spots(sketch, skin, look, aspect, 3 + round(4 * (1 - look.pattern_scale)), 0.36)
    elif kind == "ocelli":
        _ocelli(sketch, skin, look, aspect)
    elif kind == "blotches":
        _blotches(sketch, skin, look)
    elif kind == "speckles":
        _spots(sketch, skin, look, aspect, 8 + round(4 * (1 - look.pattern_scale)), 0.24)
    elif kind == "hood":
        edge = 0.62 - 0.18 * look.pattern_scale
        v = np.linspace(0, 1, 6)
        u = np.concatenate([np.linspace(edge, 1, 9), np.linspace(1, edge, 9), edge - 0.05 * np.sin(np.pi * v[1:-1])])
        v = np.concatenate([np.zeros(9), np.ones(9), 1 - v[1:-1]])
        sketch.fill(look.secondary, skin.at(u, v))


def _bands(sketch: Sketch, skin: Patch, look: Phenotype) -> None:
    count = 3 + round(5 * (1 - look.pattern_scale))
    v = np.linspace(0, 0.78 + 0.22 * look.grain[0], 5)
    centre = (np.arange(count) + 0.6)[:, None] / (count + 0.3) + 0.02 * np.sin(3 * v + 6 * look.grain[1])
    half = (0.10 + 0.14 * look.grain[2]) / count * 2 * (1.0 - 0.55 * v)
    u = np.concatenate([centre - half, (centre + half)[:, ::-1]], axis=1)
    sketch.fill(look.secondary, *skin.at(u, np.broadcast_to(np.concatenate([v, v[::-1]]), u.shape)))


def _stripes(sketch: Sketch, skin: Patch, look: Phenotype) -> None:
    count = 1 + round(2.6 * (1 - look.pattern_scale))
    u = np.linspace(0.03, 0.97, 17)
    centre = (np.arange(count) + 0.7)[:, None] / (count + 0.4)
    half = 0.20 / (count + 0.4) * (1.0 - np.abs(2 * u - 1) ** 3) + 0.02
    v = np.concatenate([centre - half, (centre + half)[:, ::-1]], axis=1)
    sketch.fill(look.secondary, *skin.at(np.broadcast_to(np.concatenate([u, u[::-1]]), v.shape), v))


def _grid(look: Phenotype, aspect: float, columns: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Centres of a staggered grid with round cells, and its number of rows."""
    rows = max(2, round(columns * aspect))
    row, column = np.divmod(np.arange(rows * columns), columns)
    jitter = look.grain[(np.arange(rows * columns) * 7) % 64] - 0.5
    u = (column + 0.5 + 0.5 * (row % 2) - 0.25 + 0.35 * jitter) / columns
    v = (row + 0.5 + 0.35 * look.grain[(np.arange(rows * columns) * 11 + 3) % 64] - 0.17) / rows
    return u, v, rows


def _spots(sketch: Sketch, skin: Patch, look: Phenotype, aspect: float, columns: int, radius: float) -> None:
    u, v, rows = _grid(look, aspect, columns)
    size = radius * (0.75 + 0.5 * look.grain[: len(u)] if len(u) <= 64 else np.ones(len(u)))
    uu = u[:, None] + _DOT[:, 0] * (size / columns)[:, None]
    vv = 0.06 + 0.88 * np.clip(v[:, None] + _DOT[:, 1] * (size / rows)[:, None], 0, 1)
    sketch.fill(look.secondary, *skin.at(uu, vv))


def _ocelli(sketch: Sketch, skin: Patch, look: Phenotype, aspect: float) -> None:
    count = 1 + round(2.4 * (1 - look.pattern_scale))
    u = (np.arange(count) + 0.65) / (count + 0.3)
    v = 0.5 + 0.14 * np.where(np.arange(count) % 2 == 0, 1, -1) * (count > 1)
    radius = min(0.30, 0.40 / count)
    for scale, colour in ((1.0, look.secondary), (0.66, look.accent), (0.32, shade(look.secondary, 0.3))):
        uu = u[:, None] + scale * radius * _RING[:, 0]
        vv = np.clip(v[:, None] + scale * radius / max(aspect, 0.3) * _RING[:, 1], 0.03, 0.97)
        sketch.fill(colour, *skin.at(uu, vv))


def _blotches(sketch: Sketch, skin: Patch, look: Phenotype) -> None:
    count = 2 + round(2.4 * (1 - look.pattern_scale))
    u = (np.arange(count) + 0.5) / count
    angle = np.arange(10) * (2 * np.pi / 10)
    for place in range(count):
        rough = 0.75 + 0.5 * look.grain[(np.arange(10) + 10 * place) % 64]
        uu = u[place] + 0.40 / count * rough * np.cos(angle)
        vv = 0.22 + 0.2 * look.grain[place] + 0.34 * rough * np.sin(angle)
        rim = closed_curve(np.stack([uu, vv], 1), 3)
        sketch.fill(look.secondary, skin.at(rim[:, 0], np.clip(rim[:, 1], 0.0, 1.0)))


def countershade(sketch: Sketch, skin: Patch, look: Phenotype, edge: float = 0.66) -> None:
    """Paler underside of the lower part of `skin`, stronger with the trait."""
    u = np.linspace(0.06, 0.94, 10)
    top = edge + 0.07 * np.cos(2 * np.pi * u)
    pale = mix(look.primary, (248, 240, 222), 0.25 + 0.55 * look.countershading)
    sketch.fill(pale, skin.at(np.concatenate([u, u[::-1]]), np.concatenate([top, np.full(10, 0.985)])))
