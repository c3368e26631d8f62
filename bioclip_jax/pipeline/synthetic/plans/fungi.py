"""Gilled mushroom and bracket fungus."""

from __future__ import annotations

import math

import numpy as np

from bioclip_jax.pipeline.synthetic.patterns import mark
from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.shapes import (
    Figure,
    Patch,
    Sketch,
    closed_curve,
    ellipse,
    mix,
    open_curve,
    ribbon,
    shade,
)


def _cap(form: int, wide: float, high: float, x: float, y: float) -> Patch:
    """The cap as a patch from its left rim (u = 0) over the top to the right rim."""
    top = {
        0: [(-1.0, 0.0), (-0.88, -0.55), (-0.45, -0.93), (0.0, -1.0)],
        1: [(-1.0, 0.0), (-0.62, -0.42), (-0.28, -1.0), (0.0, -1.35)],
        2: [(-1.0, -0.18), (-0.80, -0.42), (-0.40, -0.50), (0.0, -0.50)],
        3: [(-0.80, 0.25), (-0.86, -0.40), (-0.50, -1.15), (0.0, -1.35)],
    }[form]
    curve = open_curve([*top, *[(-px, py) for px, py in top[-2::-1]]], 5)
    upper = curve * (wide, high) + (x, y)
    rim = np.linspace(-1, 1, len(upper))
    bow = {0: 0.16, 1: 0.12, 2: 0.05, 3: 0.30}[form]
    lower = np.stack(
        [rim * upper[-1, 0] + (1 - np.abs(rim)) * 0 + x * (1 - rim), upper[0, 1] + bow * high * (1 - rim**2)], 1
    )
    lower[:, 0] = x + rim * (upper[-1, 0] - x)
    return Patch(upper, lower)


def _mushroom(s: Sketch, look: Phenotype, x: float, foot: float, scale: float) -> None:
    high = scale * (0.75 + 0.65 * look.neck)
    thick = scale * (0.14 + 0.20 * look.limb_width)
    lean = (0.0, 0.08, -0.08, 0.04)[look.gait] * scale
    flesh = mix(look.accent, (236, 222, 194), 0.6)
    head = (x + lean, foot - high)
    bulb = 1.25 + 0.6 * (look.tail_form == 1)
    stem = ribbon([(x, foot), (x - 0.2 * lean, foot - 0.3 * high), head], [thick * bulb, thick, 0.85 * thick], 4)
    s.fill(flesh, stem.outline)
    s.fill(shade(flesh, 0.8), stem.at(np.array([0, 0.5, 1, 1, 0.5, 0]), np.array([0.0, 0.0, 0.0, 0.22, 0.25, 0.2])))
    if look.tail_form == 1:
        s.fill(shade(flesh, 0.88), ellipse(x, foot - 0.03, thick * 0.85, thick * 0.5, count=14))
    wide = scale * (0.38 + 0.30 * look.depth) * (0.62 if look.juvenile else 1.0)
    tall = scale * (0.26 + 0.24 * look.elongation) * (1.25 if look.juvenile else 1.0)
    cap = _cap(0 if look.juvenile and look.limb_form == 2 else look.limb_form, wide, tall, *head)
    rim_y = cap.upper[0, 1]
    half = cap.upper[-1, 0] - head[0]
    belly = 0.30 * tall if not look.juvenile else 0.15 * tall
    under = ellipse(head[0], rim_y, half, belly, count=20)
    s.fill(mix(shade(flesh, 0.72), look.secondary, 0.2), under)
    fan = np.linspace(-0.9, 0.9, 9)
    gill = [
        np.array(
            [
                (head[0] + 0.2 * f * half, rim_y),
                (head[0] + f * half - 0.02, rim_y + belly * math.sqrt(1 - f * f)),
                (head[0] + f * half + 0.02, rim_y + belly * math.sqrt(1 - f * f) * 0.98),
            ]
        )
        for f in fan
    ]
    s.fill(shade(flesh, 0.5), *gill)
    s.fill(look.primary, cap.outline)
    mark(s, cap, look, 0.42, turned=True)
    gloss = cap.at(np.array([0.25, 0.34, 0.44, 0.34]), np.array([0.30, 0.14, 0.16, 0.26]))
    s.fill(mix(look.primary, (255, 255, 255), 0.5), gloss)
    if look.ornament_form in (1, 2):
        at = stem.at(0.68, 0.5)
        size = 0.5 + 0.5 * look.ornament
        ring = closed_curve(
            [(-0.5, -0.12), (0.5, -0.12), (0.62 + 0.4 * size, 0.2), (0.0, 0.36), (-0.62 - 0.4 * size, 0.2)], 3
        )
        s.fill(shade(flesh, 0.7), ring * thick + at + (0.0, 0.03))
        s.fill(shade(flesh, 1.06), ring * thick + at)


def mushroom(look: Phenotype) -> Figure:
    """Cap with gills on a stem, alone or in a troop; cap shape, ring, bulb and scales vary."""
    s = Sketch()
    troop = look.head_form
    if troop >= 2:
        _mushroom(s, look, -0.62, 1.0, 0.55)
    if troop in (1, 3):
        _mushroom(s, look, 0.60, 1.02, 0.48)
    _mushroom(s, look, 0.0, 1.0, 1.0)
    return s.finish()


def bracket(look: Phenotype) -> Figure:
    """Shelves growing from a dead trunk, zoned in bands."""
    s = Sketch()
    bark = mix((92, 74, 58), look.accent, 0.15)
    trunk = ribbon([(-0.5, 1.0), (-0.48, 0.75), (-0.44, 0.1), (-0.46, -0.95)], [1.0, 0.62, 0.52, 0.48], 4)
    crown = np.array([(-0.70, -0.94), (-0.62, -1.12), (-0.52, -1.0), (-0.42, -1.2), (-0.30, -1.02), (-0.22, -0.92)])
    s.fill(shade(bark, 0.8), crown)
    s.fill(bark, trunk.outline)
    u = np.linspace(0.02, 0.98, 7)
    for v in (0.16, 0.38, 0.62, 0.86):
        wave = 0.03 * np.sin(9 * u + 20 * v)
        cleft = trunk.at(np.concatenate([u, u[::-1]]), np.concatenate([v + wave, (v + 0.05 + wave)[::-1]]))
        s.fill(shade(bark, 0.62), cleft)
    shelves = 2 + look.limb_form
    for k in range(shelves):
        y = -0.70 + 1.35 * (k + 0.35) / shelves
        wide = (0.55 + 0.40 * look.limb_length) * (0.8 + 0.4 * look.grain[k]) * (0.6 if look.juvenile else 1.0)
        _shelf(s, look, (-0.34 + 0.05 * math.sin(2.2 * k + look.gait), y), wide, k, shelves)
    return s.finish()


def _shelf(s: Sketch, look: Phenotype, at: tuple[float, float], wide: float, k: int, shelves: int) -> None:
    """One bracket seen from a little above: pore layer, rim and concentric zones."""
    x, y = at
    thick = (0.18 + 0.16 * look.depth) * (1.3 / shelves + 0.45)
    angle = np.linspace(-math.pi / 2, math.pi / 2, 14)
    lobes = 1 + 0.07 * np.sin(angle * (3 + look.head_form) + k + look.gait) * look.appendage
    shape = np.stack([np.cos(angle) * lobes, np.sin(angle)], 1)
    top = shape * (wide, 0.62 * thick) + at
    under = np.concatenate([(shape * (wide, 0.62 * thick))[4:] + at, [(x - 0.02, y + 1.5 * thick)]])
    s.fill(shade(mix(look.primary, (226, 206, 170), 0.55), 0.66), np.add(under, (0.0, 0.10 * thick)))
    s.fill(mix(look.primary, (250, 240, 214), 0.35 + 0.4 * look.ornament), np.add(top, (0.0, 0.07 * thick)))
    zones = 3 + round(3 * (1 - look.pattern_scale))
    tones = (look.primary, look.secondary if look.pattern else shade(look.primary, 0.8), shade(look.primary, 0.7))
    for zone in range(zones):
        s.fill(tones[zone % 3], (top - at) * (0.93 - 0.93 * zone / zones) + at)
