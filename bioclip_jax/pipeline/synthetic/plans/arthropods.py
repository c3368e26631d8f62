"""Beetle, butterfly and spider."""

from __future__ import annotations

import math

import numpy as np

from bioclip_jax.pipeline.synthetic.patterns import mark
from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.plans.parts import BLACK, eye, limb
from bioclip_jax.pipeline.synthetic.shapes import (
    Colour,
    Figure,
    Patch,
    Sketch,
    blade,
    blade_at,
    closed_curve,
    ellipse,
    ellipse_at,
    mix,
    open_curve,
    patch,
    ribbon,
    shade,
    turn,
)

_MIRROR = np.array([[1.0, 0.0], [0.0, -1.0]])


def _beetle_legs(s: Sketch, look: Phenotype, broad: float) -> None:
    reach = 0.22 + 0.28 * look.limb_length
    width = 0.05 + 0.05 * look.limb_width
    colour = mix(shade(look.primary, 0.45), (46, 34, 28), 0.5)
    for k, (x, forward) in enumerate(((0.36, 0.75), (0.08, -0.15), (-0.18, -0.8))):
        for side in (-1, 1):
            step = 0.16 * side * (1, -1, 0.5, -0.5)[look.gait] * (-1) ** k
            knee = (x + (forward + step) * 0.55 * reach, side * (0.8 * broad + 0.75 * reach))
            foot = (knee[0] + (forward + step) * 0.75 * reach - 0.05, side * (0.8 * broad + 1.15 * reach))
            s.fill(colour, limb([(x, side * 0.5 * broad), knee, foot], width, 0.45, 1))
            s.fill(colour, blade_at(foot, math.atan2(side * 0.5, forward), 0.14, 0.03))


def beetle(look: Phenotype) -> Figure:
    """Seen from above; wing cases, pronotum, six legs, antennae and horns vary."""
    s = Sketch()
    broad = 0.26 + 0.16 * look.depth
    rear = -0.62 - 0.18 * look.elongation
    _beetle_legs(s, look, broad)
    dark = shade(mix(look.primary, look.accent, 0.5 if look.head_form % 2 else 0.0), 0.62)
    nose = 0.62 + 0.08 * look.head
    length = 0.25 + 0.55 * look.appendage
    for side in (-1, 1):
        path = [
            (nose - 0.05, side * 0.09),
            (nose + 0.35 * length, side * (0.12 + 0.40 * length)),
            (nose + 0.35 * length - 0.5 * length * (look.head_form == 2), side * (0.12 + 0.95 * length)),
        ]
        s.fill(dark, limb(path, 0.04, 0.7, 3))
        if look.head_form == 1:
            s.fill(dark, ellipse_at(path[-1], 0.07, 0.045, side * 0.6, 10))
        elif look.head_form == 3:
            for angle in (0.2, 0.8, 1.4):
                s.fill(dark, blade_at(path[-1], side * angle, 0.13, 0.04))
    horn = 0.12 + 0.40 * look.ornament
    if look.ornament_form == 1:
        s.fill(dark, limb([(nose - 0.1, 0.0), (nose + 0.6 * horn, 0.02), (nose + horn, 0.07)], 0.11, 0.25, 3))
    elif look.ornament_form == 2:
        for side in (-1, 1):
            jaw = [
                (nose - 0.06, side * 0.07),
                (nose + 0.55 * horn, side * (0.10 + 0.25 * horn)),
                (nose + horn, side * 0.03),
            ]
            s.fill(dark, limb(jaw, 0.09, 0.3, 3))
    s.fill(dark, ellipse(nose - 0.10, 0.0, 0.13 + 0.04 * look.head, 0.14 + 0.05 * look.head, count=14))
    for side in (-1, 1):
        s.fill(BLACK, ellipse(nose - 0.04, side * (0.12 + 0.05 * look.head), 0.045, 0.035, count=8))
    neck = 0.60 + 0.35 * look.neck
    thorax = closed_curve(
        [
            (0.22, -0.92 * broad),
            (0.44, -0.80 * broad * neck - 0.04),
            (nose - 0.12, -0.42 * broad),
            (nose - 0.10, 0.42 * broad),
            (0.44, 0.80 * broad * neck + 0.04),
            (0.22, 0.92 * broad),
        ],
        3,
    )
    s.fill(
        mix(look.primary, look.accent, 0.75) if look.pattern == 7 or look.head_form % 2 else shade(look.primary, 0.75),
        thorax,
    )
    x = np.array([rear, rear + 0.10, -0.35, 0.0, 0.20, 0.27])
    y = np.array([0.03, 0.45, 1.0, 1.02, 0.92, 0.55]) * broad
    right = patch(np.stack([x, y], 1), np.stack([x, 0 * y], 1), 3)
    left = Patch((right.upper @ _MIRROR), (right.lower @ _MIRROR))
    s.fill(shade(look.primary, 0.5), np.concatenate([left.upper, right.upper[::-1]]) * (1.03, 1.05))
    s.fill(look.primary, np.concatenate([left.upper, right.upper[::-1]]))
    for case in (left, right):
        mark(s, case, look, 0.38)
    seam = np.array([(rear, -0.012), (0.27, -0.014), (0.27, 0.014), (rear, 0.012)])
    s.fill(shade(look.primary, 0.3), seam)
    shine = mix(look.primary, (255, 255, 255), 0.45)
    u = np.array([0.42, 0.6, 0.85, 0.6])
    s.fill(shine, left.at(u, np.array([0.36, 0.28, 0.40, 0.42])))
    return s.finish(turn(-math.pi / 2))


def _wing(s: Sketch, look: Phenotype, flip: np.ndarray, root: tuple[float, float], edge: list, colour: Colour) -> Patch:
    """Paint one wing: margin, field, veins and a row of dots in the margin; returns the field from root to margin."""
    base = np.array(root)
    margin = look.secondary if look.tail_form % 2 else shade(look.primary, 0.35)
    curve = open_curve(edge, 4)
    s.fill(margin, np.concatenate([[base], curve]) @ flip)
    share = (0.97, 0.90, 0.80, 0.86)[look.tail_form]
    field = base + share * (curve - base)
    s.fill(colour, np.concatenate([[base], field]) @ flip)
    s.fill(shade(colour, 1.18), np.concatenate([[base], base + 0.55 * (curve[3:-3] - base)]) @ flip)
    if look.tail_form >= 2:
        dots = base + 0.91 * (curve[2:-2:3] - base)
        pale = mix(look.accent, (255, 250, 235), 0.5)
        s.fill(pale, *[ellipse_at(dot, 0.024, count=6) @ flip for dot in dots])
    return Patch((base + 0.12 * (field - base)) @ flip, field @ flip)


def _veins(s: Sketch, wing: Patch, colour: Colour) -> None:
    u = np.linspace(0.14, 0.9, 5)
    lines = [wing.at(np.array([a - 0.006, a - 0.014, a + 0.014, a + 0.006]), np.array([0.0, 1.0, 1.0, 0.0])) for a in u]
    s.fill(colour, *lines)


def butterfly(look: Phenotype) -> Figure:
    """Wings spread, seen from above; wing shape, margins, eyespots, tails and antennae vary."""
    s = Sketch()
    span = (0.74 + 0.20 * look.elongation) * (1.0, 0.88, 0.74, 0.95)[look.gait]
    tall, low = 0.56 + 0.16 * look.depth, 0.55 + 0.30 * look.tail_length
    tip = ((1.0, -0.82), (0.84, -1.0), (1.06, -0.50), (0.95, -0.95))[look.limb_form]
    waist = 0.66 if look.head_form == 2 else 0.88
    fore = [(0.03, -0.20), (0.42 * span, -0.72 * tall), (tip[0] * span, tip[1] * tall)]
    fore += [(waist * span, -0.36 * tall), (0.74 * span, 0.04), (0.30 * span, 0.10), (0.04, 0.05)]
    hind = [(0.04, -0.04), (0.40 * span, 0.0), (0.78 * span, 0.14 * tall), (0.76 * span, 0.62 * low)]
    hind += [(0.48 * span, 0.92 * low + 0.05), (0.18 * span, 0.72 * low), (0.04, 0.22)]
    second = mix(look.primary, look.accent, 0.8) if look.head_form >= 2 else shade(look.primary, 0.88)
    for sign in (1, -1):
        flip = np.array([[sign, 0.0], [0.0, 1.0]])
        if look.ornament_form in (1, 3):
            end = 0.15 + 0.40 * look.ornament
            x, y = 0.46 * span, 0.84 * low
            s.fill(
                shade(look.primary, 0.4),
                limb([(x, y), (x + 0.07, y + 0.5 * end), (x + 0.02, y + end)], 0.11, 0.6, 3) @ flip,
            )
        wing = _wing(s, look, flip, (0.03, 0.0), hind, second)
        _veins(s, wing, shade(second, 0.66))
        if look.ornament_form >= 2:
            spot, size = (0.50 * span, 0.50 * low), 0.07 + 0.05 * look.pattern_scale
            for scale, colour in ((1.0, shade(look.primary, 0.3)), (0.72, look.accent), (0.36, (24, 20, 26))):
                s.fill(colour, ellipse_at(spot, scale * size, count=14) @ flip)
        wing = _wing(s, look, flip, (0.03, -0.08), fore, look.primary)
        mark(s, Patch(wing.upper, wing.lower), look, 0.5, turned=True)
        _veins(s, wing, shade(look.primary, 0.62))
    thick = 0.09 + 0.06 * look.limb_width
    body = mix(shade(look.primary, 0.35), (40, 32, 30), 0.6)
    for side in (-1, 1):
        feeler = (side * (0.18 + 0.1 * look.appendage), -0.58 - 0.25 * look.appendage)
        s.fill(body, limb([(side * 0.02, -0.28), (side * 0.07, -0.46), feeler], 0.026, 0.8, 2))
        s.fill(body, ellipse_at(feeler, 0.032, count=8))
    trunk = [(0, -0.32), (0, -0.16), (0, 0.05), (0, 0.30), (0, 0.50)]
    s.fill(body, ribbon(trunk, [0.06, 1.45 * thick, 0.95 * thick, thick, 0.02]).outline)
    s.fill(mix(body, look.accent, 0.35), ellipse(0, -0.14, 0.42 * thick, 0.10, 0.0, 10))
    s.fill(shade(body, 0.7), ellipse(0, -0.30, 0.06, count=10))
    return s.finish()


def spider(look: Phenotype) -> Figure:
    """Seen from above; eight jointed legs, two-part body, markings on the abdomen."""
    s = Sketch()
    reach = 0.52 + 0.50 * look.limb_length
    width = 0.045 + 0.045 * look.limb_width
    colour = mix(look.primary, (60, 46, 36), 0.45)
    head, rear = 0.17 + 0.07 * look.head, 0.24 + 0.14 * look.depth
    banded = look.limb_form >= 2
    for k, angle in enumerate((0.45, 1.05, 1.75, 2.45)):
        for side in (-1, 1):
            wiggle = 0.12 * side * (1, -1, 0.5, -0.5)[look.gait] * (-1) ** k
            a = side * (angle + wiggle)
            knee_at = 0.52 * reach
            knee = (0.18 + knee_at * math.cos(a), knee_at * math.sin(a))
            b = a + side * (-0.30 if k < 2 else 0.30)
            foot = (knee[0] + 0.62 * reach * math.cos(b), knee[1] + 0.62 * reach * math.sin(b))
            leg = ribbon(
                [(0.18 + 0.05 * math.cos(a), 0.05 * math.sin(a)), knee, foot], [width * 1.3, width, 0.25 * width], 1
            )
            s.fill(colour, leg.outline)
            s.fill(shade(colour, 0.75), ellipse_at(knee, 0.62 * width, count=8))
            if banded:
                s.fill(
                    look.secondary,
                    leg.at(np.array([0.42, 0.52, 0.52, 0.42]), np.array([0, 0, 1, 1])),
                    leg.at(np.array([0.7, 0.78, 0.78, 0.7]), np.array([0, 0, 1, 1])),
                )
    for side in (-1, 1):
        palp = 0.10 + 0.16 * look.ornament
        s.fill(
            colour,
            limb([(0.30, side * 0.07), (0.38 + palp, side * 0.13), (0.36 + palp * 1.3, side * 0.05)], 0.07, 0.8, 2),
        )
    s.fill(shade(look.primary, 0.75), ellipse(0.22, 0.0, head * 1.15, head, count=20))
    s.fill(shade(look.primary, 0.55), blade(0.10, 0.0, 0.0, head * 1.3, 0.5 * head, 0.6))
    long = rear * (1.0 + 0.6 * look.elongation)
    x = np.array([-1.0, -0.85, -0.35, 0.3, 0.8, 1.0]) * long - 0.02 - 0.9 * long
    y = np.array([0.06, 0.55, 0.98, 0.95, 0.55, 0.15]) * rear
    if look.tail_form == 3:
        y = y * np.array([0.3, 0.8, 1.25, 0.8, 0.8, 1.0])
    body = patch(np.stack([x, -y], 1), np.stack([x, y], 1), 3)
    s.fill(shade(look.primary, 0.6), (body.outline - body.outline.mean(0)) * 1.06 + body.outline.mean(0))
    s.fill(look.primary, body.outline)
    mark(s, body, look, 0.75)
    for place in (0.55, 0.75):
        s.fill(
            mix(look.secondary, look.primary, 0.3),
            ellipse_at(body.at(place, 0.36), 0.03, count=8),
            ellipse_at(body.at(place, 0.64), 0.03, count=8),
        )
    for side in (-1, 1):
        eye(s, 0.20 + head, side * 0.35 * head, 0.035)
    return s.finish(turn(-math.pi / 2))
