"""Fish and reptile."""

from __future__ import annotations

import math

import numpy as np

from bioclip_jax.pipeline.synthetic.patterns import countershade, mark
from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.plans.parts import eye_at, limb
from bioclip_jax.pipeline.synthetic.shapes import (
    Figure,
    Sketch,
    blade_at,
    closed_curve,
    ellipse_at,
    mix,
    patch,
    ribbon,
    shade,
    turn,
)


def fish(look: Phenotype) -> Figure:
    """Side view; fins, tail, depth and markings vary."""
    s = Sketch()
    deep = 0.16 + 0.26 * look.depth
    long = 0.50 + 0.18 * look.elongation
    x = np.array([-0.98, -0.72, -0.30, 0.20, 0.66, 0.92, 1.02]) * long
    top = -np.array([0.16, 0.24, 0.72, 1.0, 0.72, 0.30, 0.05]) * deep
    low = np.array([0.16, 0.22, 0.66, 0.92, 0.62, 0.26, 0.10]) * deep
    sway = (0.0, 0.05, -0.05, 0.02)[look.gait] * np.minimum(x, 0.0)
    body = patch(np.stack([x, top + sway], 1), np.stack([x, low + sway], 1))
    fin = mix(look.primary, look.accent, 0.55)
    rear = (x[0] + 0.04, sway[0])
    _fish_tail(s, look, rear, deep, fin)
    height = 0.10 + 0.26 * look.appendage
    crest = body.at(np.linspace(0.72, 0.22, 7), 0.06)
    rise = {
        0: np.array([0, 0.7, 1.0, 0.75, 0.5, 0.3, 0]),
        1: np.array([0, 0.9, 0.8, 0.75, 0.7, 0.65, 0]),
        2: np.array([0, 1.0, 0.35, 0.95, 0.3, 0.8, 0]),
        3: np.array([0, 0.9, 0.1, 0.0, 0.8, 0.5, 0]),
    }[look.limb_form]
    sweep = np.stack([-0.45 * rise * height, -rise * height], 1)
    s.fill(fin, np.concatenate([crest, (crest + sweep)[::-1]]))
    if look.ornament_form == 1:
        s.fill(
            look.accent,
            limb(
                [
                    tuple(crest[1]),
                    (crest[1][0] - 0.15, crest[1][1] - height - 0.2 * look.ornament),
                    (crest[1][0] - 0.55, crest[1][1] - height - 0.35 * look.ornament),
                ],
                0.05,
                0.3,
                3,
            ),
        )
    belly = body.at(np.array([0.66, 0.36]), 0.94)
    s.fill(fin, blade_at(belly[0], 2.0, 0.14 + 0.2 * look.limb_length, 0.14, 0.6))
    s.fill(fin, blade_at(belly[1], 2.3, 0.12 + 0.18 * look.limb_length, 0.16, 0.6))
    s.fill(look.primary, body.outline)
    countershade(s, body, look, 0.62)
    mark(s, body, look, 0.5)
    flap = body.at(np.array([0.66]), 0.58)[0]
    gill = body.at(np.array([0.745, 0.715, 0.72, 0.75, 0.73, 0.73]), np.array([0.12, 0.35, 0.62, 0.88, 0.62, 0.35]))
    s.fill(shade(look.primary, 0.55), gill)
    s.fill(shade(fin, 1.12), blade_at(flap, 2.75 + 0.25 * (look.gait - 1), 0.18 + 0.16 * look.limb_length, 0.15, 0.65))
    mouth = body.at(np.array([0.985, 0.915, 0.92, 1.0]), np.array([0.55, 0.70, 0.76, 0.72]))
    s.fill(shade(look.primary, 0.35), mouth)
    if look.ornament_form == 2:
        for angle in (1.1, 1.7):
            s.fill(shade(look.primary, 0.6), blade_at(mouth[1], angle, 0.10 + 0.2 * look.ornament, 0.035))
    eye_at(s, body.at(np.array([0.86]), 0.32)[0], 0.024 + 0.018 * look.head, mix(look.accent, (250, 240, 200), 0.6))
    return s.finish()


def _fish_tail(s: Sketch, look: Phenotype, root: tuple[float, float], deep: float, colour: tuple) -> None:
    span = (0.18 + 0.34 * look.tail_width) * (0.8 + 0.6 * deep)
    length = (0.18 + 0.34 * look.tail_length) * (1.0, 0.72, 0.86, 1.0)[look.gait]
    x, y = root
    outlines = {
        0: [(x, y - 0.05), (x - length, y - span), (x - 0.62 * length, y), (x - length, y + span), (x, y + 0.05)],
        1: [(x, y - 0.05), (x - 0.6 * length, y - span), (x - length, y), (x - 0.6 * length, y + span), (x, y + 0.05)],
        2: [
            (x, y - 0.04),
            (x - 1.1 * length, y - 1.35 * span),
            (x - 0.3 * length, y),
            (x - 1.1 * length, y + 1.35 * span),
            (x, y + 0.04),
        ],
        3: [(x, y - 0.05), (x - length, y - 0.8 * span), (x - length, y + 0.8 * span), (x, y + 0.05)],
    }
    outline = np.array(outlines[look.tail_form])
    s.fill(colour, closed_curve(outline, 4) if look.tail_form == 1 else outline)
    s.fill(shade(colour, 0.75), (outline - (x, y)) * (0.55, 0.5) + (x, y))


def reptile(look: Phenotype) -> Figure:
    """Seen from above, winding; with or without legs, slender or stout."""
    s = Sketch()
    legless = look.limb_form in (0, 3)
    u = np.linspace(0, 1, 16)
    waves = (1.5 if legless else 0.75) + 0.5 * look.elongation
    swing = (0.30 if legless else 0.13) * (0.6 + 0.4 * u[::-1])
    y = swing * np.sin(2 * math.pi * waves * u + 0.5 * math.pi * look.gait) * np.minimum(1, 6 * (1 - u) + 0.35)
    x = -1.0 + 1.75 * u
    stout = 0.13 + 0.10 * look.depth if legless else 0.17 + 0.14 * look.depth
    tail = 0.45 if legless else 0.30 + 0.25 * look.tail_length
    width = stout * np.minimum(1.0, (u / tail + 0.06)) * np.where(u > 0.90, 0.75, 1.0)
    body = ribbon(np.stack([x, y], 1), width, 4)
    if not legless:
        reach = 0.16 + 0.20 * look.limb_length
        colour = shade(look.primary, 0.85)
        for place, back in ((0.80, 0.6), (tail + 0.05, -0.7)):
            for side in (-1, 1):
                hip = body.at(place, 0.5)
                phase = side * (0.25, -0.25, 0.1, -0.1)[look.gait]
                knee = (hip[0] + 0.35 * reach * back + phase * reach, hip[1] + side * (0.5 * stout + 0.4 * reach))
                foot = (knee[0] + 0.35 * reach, knee[1] + side * 0.5 * reach)
                s.fill(colour, limb([tuple(hip), knee, foot], 0.09 + 0.05 * look.limb_width, 0.55, 2))
                for spread in (-0.6, 0.0, 0.6):
                    s.fill(colour, blade_at(foot, side * 1.0 + spread, 0.11, 0.035))
    head = body.at(0.985, 0.5)
    ahead = body.at(1.0, 0.5) - body.at(0.96, 0.5)
    angle = math.atan2(ahead[1], ahead[0])
    long = 0.13 + 0.05 * look.head
    shape = np.array([(-0.8, -0.5), (0.0, -0.85), (0.8, -0.5), (1.25, 0.0), (0.8, 0.5), (0.0, 0.85), (-0.8, 0.5)])
    broad = 0.52 + 0.24 * look.head_form / 3
    outline = closed_curve(shape * (long, long * broad), 3) @ turn(angle) + head
    tip = np.array([1.2 * long, 0.0]) @ turn(angle) + head
    if legless:
        for fork in (-0.25, 0.25):
            s.fill((176, 40, 48), blade_at(tip, angle + fork, 0.13, 0.02))
    s.fill(look.primary, body.outline)
    mark(s, body, look, 0.16)
    s.fill(mix(look.primary, look.secondary, 0.25), outline)
    if look.ornament_form == 1:
        s.fill(
            look.accent, ellipse_at((np.array([-0.7 * long, 0.0]) @ turn(angle) + head), 0.04, 0.6 * stout, angle, 10)
        )
    for side in (-1, 1):
        eye_at(s, np.array([0.35 * long, side * 0.62 * long * broad]) @ turn(angle) + head, 0.026, look.accent)
    return s.finish()
