"""Snail, starfish and jellyfish."""

from __future__ import annotations

import math

import numpy as np

from bioclip_jax.pipeline.synthetic.patterns import mark
from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.plans.parts import BLACK, limb
from bioclip_jax.pipeline.synthetic.shapes import (
    Figure,
    Patch,
    Sketch,
    blade,
    closed_curve,
    disc,
    ellipse,
    ellipse_at,
    mix,
    open_curve,
    ribbon,
    shade,
    turn,
)


def snail(look: Phenotype) -> Figure:
    """Side view, creeping; shell round, flat, high or pointed."""
    s = Sketch()
    flesh = mix(look.accent, (150, 132, 110), 0.6)
    stretch = 0.75 + 0.25 * look.elongation + (0.0, 0.06, -0.06, 0.03)[look.gait]
    foot = Patch(
        open_curve([(-stretch, 0.36), (-0.4, 0.22), (0.2, 0.16), (0.55 * stretch, 0.08), (0.82 * stretch, -0.10)]),
        open_curve([(-stretch, 0.38), (-0.4, 0.42), (0.2, 0.42), (0.72 * stretch, 0.38), (0.98 * stretch, 0.06)]),
    )
    head = (0.90 * stretch, -0.04)
    reach = 0.12 + 0.22 * look.limb_length
    for angle, part, tone in ((-1.15, 1.0, 0.7), (-0.75, 1.0, 1.0), (0.1, 0.45, 0.9)):
        tip = (head[0] + part * reach * math.cos(angle), head[1] + part * reach * math.sin(angle))
        s.fill(shade(flesh, tone), limb([head, tip], 0.055, 0.6, 1))
        if part == 1.0:
            s.fill(BLACK, ellipse_at(tip, 0.035, count=8))
    s.fill(flesh, foot.outline)
    s.fill(shade(flesh, 0.65), foot.at(np.array([0.02, 0.5, 1.0, 0.5]), np.array([0.7, 0.78, 0.9, 0.98])))
    if look.limb_form in (0, 2):
        _coiled_shell(s, look, (-0.16, -0.14))
    else:
        _tall_shell(s, look, 1.0 if look.limb_form == 1 else 1.45)
    return s.finish()


def _coiled_shell(s: Sketch, look: Phenotype, centre: tuple[float, float]) -> None:
    """A flat coil: the last whorl as a patterned ring, the inner ones as a spiral."""
    radius = 0.42 + 0.10 * look.depth
    around = np.linspace(0.5, 0.5 + 2 * math.pi, 30)
    circle = np.stack([np.cos(around), np.sin(around)], 1)
    swell = radius * (1.0 - 0.10 * np.linspace(0, 1, 30))[:, None]
    outer = circle * swell + centre
    inner = circle * swell * (0.50 + 0.12 * look.head) + centre
    s.fill(shade(look.primary, 0.45), (outer - centre) * 1.045 + centre)
    s.fill(look.primary, outer)
    mark(s, Patch(outer, inner), look, 0.18)
    s.fill(shade(look.primary, 0.86), inner)
    turns = 1.6 + 1.2 * look.head
    angle = np.linspace(0.0, 2 * math.pi * turns, 30)
    size = radius * 0.60 * np.exp(-0.20 * angle)
    line = np.stack([np.cos(angle + 0.5), np.sin(angle + 0.5)], 1) * size[:, None] + centre
    s.fill(shade(look.primary, 0.42), ribbon(line, 0.10 * size + 0.012, 1).outline)
    s.fill(
        mix(look.primary, (255, 255, 255), 0.45),
        blade(centre[0] - 0.72 * radius, centre[1] - 0.2 * radius, -0.95, 0.5 * radius, 0.07),
    )


def _tall_shell(s: Sketch, look: Phenotype, tall: float) -> None:
    """A turret: whorls of shrinking width along an axis that leans back."""
    whorls = 4 + round(2 * look.head)
    step = np.array([-0.62, -0.55]) * (0.28 * tall)
    centre = np.array([-0.02, 0.0])
    radius = 0.36 + 0.08 * look.depth
    rings = []
    for _ in range(whorls):
        rings.append((centre, radius))
        centre, radius = centre + step * (radius / 0.4), 0.74 * radius
    for centre, radius in rings[::-1]:
        lean = math.atan2(step[1], step[0])
        s.fill(shade(look.primary, 0.42), ellipse_at(centre, 0.86 * radius, 1.05 * radius, lean, 20))
        ring = ellipse_at((centre + 0.10 * step), 0.78 * radius, 0.98 * radius, lean, 20)
        s.fill(look.primary, ring)
        mark(s, disc(ring), look, 0.8, turned=True)
    s.fill(shade(look.primary, 0.35), ellipse(0.13, 0.16, 0.16, 0.10, 0.7, 14))


def starfish(look: Phenotype) -> Figure:
    """Seen from above; five or more arms, slender or broad, with rows of tubercles."""
    s = Sketch()
    arms = (5, 6, 8, 11)[look.limb_form]
    waist = 0.20 + 0.28 * look.depth
    start = 0.3 * look.gait
    angle = np.arange(arms) * (2 * math.pi / arms) + start
    bend = 0.16 * np.sin(np.arange(arms) * 2.3 + 1.6 * look.gait)
    thick = (0.10 + 0.14 * look.limb_width) * (5 / arms) ** 0.6
    points, paths = [], []
    for a, b in zip(angle, bend, strict=True):
        tip = a + b
        side = np.array([-math.sin(tip), math.cos(tip)])
        out = np.array([math.cos(tip), math.sin(tip)])
        mid = 0.55 * np.array([math.cos(a + 0.4 * b), math.sin(a + 0.4 * b)])
        gap = a - math.pi / arms
        points += [
            waist * np.array([math.cos(gap), math.sin(gap)]),
            mid - side * thick,
            out * 0.94 - side * thick * 0.45,
        ]
        points += [out, out * 0.94 + side * thick * 0.45, mid + side * thick]
        paths.append((mid * 0.4, mid, out * 0.93))
    outline = closed_curve(points, 3)
    s.fill(shade(look.primary, 0.6), outline * 1.035)
    s.fill(look.primary, outline)
    tone = mix(look.primary, (255, 244, 220), 0.3)
    s.fill(tone, *[ribbon(path, [0.9 * thick, 0.8 * thick, 0.1 * thick], 2).outline for path in paths])
    if look.pattern == 1:
        for path in paths:
            along = math.atan2(path[1][1], path[1][0])
            for part in (1.05, 1.4):
                s.fill(look.secondary, ellipse_at(path[1] * part, 0.05, 0.85 * thick, along, 10))
    elif look.pattern in (2, 7):
        s.fill(look.secondary, *[ribbon(path[1:], [0.7 * thick, 0.3 * thick], 1).outline for path in paths])
    dots = [np.array(path[0]) * (1 - f) + np.array(path[2]) * f for path in paths for f in (0.15, 0.42, 0.66, 0.86)]
    knob = look.secondary if look.pattern in (3, 4, 6) else mix(look.primary, (255, 250, 230), 0.55)
    size = 0.026 + (0.035 * look.pattern_scale if look.pattern in (3, 4) else 0.01)
    s.fill(knob, *[ellipse_at(dot, size, count=8) for dot in dots])
    s.fill(look.secondary if look.pattern in (5, 7) else tone, ellipse(0, 0, 0.62 * waist, count=14))
    s.fill(look.accent, ellipse(0.25 * waist, -0.2 * waist, 0.05 + 0.05 * look.ornament, count=10))
    return s.finish()


def jellyfish(look: Phenotype) -> Figure:
    """A translucent bell with tentacles and oral arms."""
    s = Sketch()
    squeeze = (1.0, 0.88, 1.1, 0.95)[look.gait]
    wide, high = (0.52 + 0.16 * look.tail_width) * squeeze, (0.42 + 0.34 * look.depth) / squeeze
    count = 5 + 2 * look.limb_form
    long = 0.45 + 0.75 * look.limb_length
    drift = 0.4 * math.sin(1.7 * look.gait)
    colour = mix(look.primary, (240, 240, 255), 0.15)
    for k in range(count):
        place = (k + 0.5) / count * 2 - 1
        x = 0.86 * place * wide
        length = long * (0.75 + 0.5 * look.grain[k])
        wave = 0.10 * math.sin(2.1 * k + 1.6 * look.gait)
        path = [
            (x, 0.0),
            (x + wave, 0.3 * length),
            (x - wave + 0.3 * drift * length, 0.65 * length),
            (x + 0.6 * drift * length, length),
        ]
        s.fill(mix(colour, look.accent, 0.5), limb(path, 0.045 + 0.03 * look.limb_width, 0.4, 3), opacity=0.72)
    for k, x in enumerate((-0.22, 0.02, 0.24)):
        length = (0.35 + 0.5 * look.appendage) * (1.0, 1.15, 0.9)[k]
        path = [
            (x * wide, 0.0),
            (x * wide + 0.09, 0.4 * length),
            (x * wide - 0.06, 0.7 * length),
            (x * wide + 0.3 * drift, length),
        ]
        s.fill(
            mix(look.secondary, (250, 240, 240), 0.35), ribbon(path, [0.12, 0.20, 0.15, 0.03], 3).outline, opacity=0.85
        )
    dome = [(-wide, 0.0), (-0.94 * wide, -0.45 * high), (-0.55 * wide, -0.92 * high), (0.0, -1.04 * high)]
    upper = open_curve([*dome, (0.55 * wide, -0.92 * high), (0.94 * wide, -0.45 * high), (wide, 0.0)], 4)
    scallop = np.linspace(-1, 1, len(upper))
    lower = np.stack(
        [scallop * wide, 0.06 + 0.05 * np.abs(np.sin(scallop * math.pi * count / 2)) - 0.04 * scallop**2], 1
    )
    bell = Patch(upper, lower)
    s.fill(colour, bell.outline, opacity=0.86)
    s.fill(
        mix(colour, (255, 255, 255), 0.35), ellipse(0.0, -0.42 * high, 0.62 * wide, 0.42 * high, count=20), opacity=0.9
    )
    if look.head_form == 1:
        for x in (-0.26, 0.26):
            s.fill(look.accent, ellipse(x * wide, -0.45 * high, 0.16 * wide, 0.18 * high, 0, 14))
    elif look.head_form == 2:
        s.fill(look.accent, ellipse(0, -0.4 * high, 0.3 * wide, 0.2 * high, 0, 14))
    mark(s, bell, look, 0.6)
    shine = blade(-0.6 * wide, -0.3 * high, -0.95, 0.5 * high, 0.09, 0.5)
    s.fill(mix(colour, (255, 255, 255), 0.75), shine)
    rim = np.concatenate([lower, np.add(lower[::-1], (0.0, 0.045))])
    s.fill(mix(look.secondary, colour, 0.4), rim)
    return s.finish(turn(0.25 * math.sin(2.0 * look.gait)))
