"""Bird."""

from __future__ import annotations

import math

import numpy as np

from bioclip_jax.pipeline.synthetic.patterns import countershade, mark
from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.plans.parts import eye, limb
from bioclip_jax.pipeline.synthetic.shapes import (
    Figure,
    Patch,
    Sketch,
    blade,
    blade_at,
    closed_curve,
    ellipse,
    ellipse_at,
    mix,
    patch,
    ribbon,
    shade,
    turn,
)


def bird(look: Phenotype) -> Figure:
    """Side view, standing; legs, neck, bill, tail, crest and wing bars vary."""
    s = Sketch()
    plump, tilt = 0.22 + 0.12 * look.depth, -0.35
    x = np.array([-0.52, -0.30, -0.05, 0.22, 0.44])
    upper = np.array([-0.03, -0.55, -0.95, -0.85, -0.25]) * plump
    lower = np.array([0.10, 0.70, 1.10, 1.05, 0.35]) * plump
    body = patch(np.stack([x, upper], 1), np.stack([x, lower], 1)).moved(turn(tilt))
    length = 0.14 + 0.42 * look.limb_length
    ground = 0.20 + 0.75 * plump + length
    leg_colour = mix(look.accent, (150, 110, 60), 0.4)
    step = (0.0, 0.10, -0.08, 0.04)[look.gait]
    width = 0.035 + 0.03 * look.limb_width
    for sign, colour in ((-1, shade(leg_colour, 0.65)), (1, leg_colour)):
        hip = (-0.02 + 0.05 * sign, 0.12)
        foot = (hip[0] + sign * step + 0.02, ground)
        knee = (hip[0] - 0.06, 0.55 * ground)
        sketch_leg = limb([hip, knee, foot], width * 1.3, 0.6)
        toes = [blade(foot[0], foot[1] - 0.01, angle, 0.15, width) for angle in (0.12, -0.25)]
        s.fill(colour, sketch_leg)
        s.fill(colour, toes[0])
        s.fill(colour, toes[1])
    _bird_tail(s, look)
    head_radius = 0.135 + 0.05 * look.head
    reach = 0.10 + 0.42 * look.neck * look.neck
    bob = (0.0, 0.03, -0.03, 0.0)[look.gait]
    head = (0.47 + 0.25 * reach + bob, -0.30 - 0.95 * reach + abs(bob))
    neck = ribbon(
        [(0.22, -0.02), (0.40, -0.16), (head[0] - 0.02, head[1] + 0.03)],
        [1.5 * plump, 1.5 * head_radius, 1.45 * head_radius],
    )
    s.fill(look.primary, body.outline)
    countershade(s, body, look, 0.60)
    s.fill(look.primary, neck.outline)
    _bird_head(s, look, head, head_radius)
    _bird_wing(s, look, plump, tilt)
    return s.finish()


def _bird_tail(s: Sketch, look: Phenotype) -> None:
    length = 0.22 + 0.55 * look.tail_length
    width = 0.10 + 0.12 * look.tail_width
    colour = shade(look.primary, 0.72)
    root, angle = (-0.40, 0.14), math.pi - 0.42
    if look.tail_form == 1:
        for spread in (-0.16, 0.16):
            s.fill(colour, blade_at(root, angle + spread, length * 1.15, 0.7 * width, 0.4))
    elif look.tail_form == 2:
        for spread in (-0.42, 0.0, 0.42):
            s.fill(colour, blade_at(root, angle + spread, length * 0.8, width, 0.75))
    else:
        s.fill(colour, blade_at(root, angle, length, width * (0.7 if look.tail_form == 3 else 1.4), 0.7))
    if look.tail_form != 1:
        tip = 0.8 if look.tail_form == 2 else 1.0
        end = (root[0] + 0.8 * tip * length * math.cos(angle), root[1] + 0.8 * tip * length * math.sin(angle))
        s.fill(look.secondary, ellipse_at(end, 0.14 * length, 0.36 * width, angle, 10))


def _bird_head(s: Sketch, look: Phenotype, head: tuple[float, float], radius: float) -> None:
    x, y = head
    bill = mix(look.accent, (60, 52, 44), 0.35)
    if look.head_form == 0:
        s.fill(
            bill,
            np.array(
                [(x + 0.7 * radius, y - 0.05), (x + 0.7 * radius + 0.17, y + 0.035), (x + 0.6 * radius, y + 0.10)]
            ),
        )
    elif look.head_form == 1:
        s.fill(
            bill,
            np.array([(x + 0.7 * radius, y - 0.03), (x + 0.7 * radius + 0.42, y + 0.07), (x + 0.6 * radius, y + 0.07)]),
        )
    elif look.head_form == 2:
        hook = [(x + 0.6 * radius, y - 0.07), (x + radius + 0.1, y - 0.05), (x + radius + 0.16, y + 0.14)]
        s.fill(bill, closed_curve([*hook, (x + 0.6 * radius, y + 0.08)], 3))
    else:
        flat = [(x + 0.6 * radius, y - 0.06), (x + radius + 0.2, y + 0.02), (x + radius + 0.26, y + 0.09)]
        s.fill(bill, closed_curve([*flat, (x + 0.5 * radius, y + 0.10)], 3))
    size = 0.10 + 0.34 * look.ornament
    if look.ornament_form == 1:
        for angle in (-2.2, -1.75, -2.65):
            s.fill(look.accent, blade(x - 0.02, y - 0.5 * radius, angle, size, 0.09, 0.5))
    elif look.ornament_form == 2:
        s.fill(
            look.accent,
            limb(
                [
                    (x, y - 0.8 * radius),
                    (x - 0.5 * size, y - radius - 0.7 * size),
                    (x - 1.5 * size, y - radius - 0.3 * size),
                ],
                0.07,
                0.3,
                3,
            ),
        )
    s.fill(look.primary, ellipse(x, y, radius, 0.95 * radius))
    hooded = look.pattern == 7
    if look.ornament_form == 3 or hooded:
        cap = closed_curve(
            [
                (x - radius, y - 0.05),
                (x - 0.4 * radius, y - 0.95 * radius),
                (x + 0.6 * radius, y - 0.75 * radius),
                (x + 0.95 * radius, y - 0.05 * radius),
                (x, y - 0.15 * radius),
            ],
            3,
        )
        s.fill(look.secondary if hooded else look.accent, cap)
    eye(s, x + 0.32 * radius, y - 0.18 * radius, 0.036, mix(look.accent, (255, 255, 240), 0.5))


def _bird_wing(s: Sketch, look: Phenotype, plump: float, tilt: float) -> None:
    length = 0.62 + 0.18 * look.appendage
    upper = [(0.26, -0.35 * plump), (0.05, -0.75 * plump), (-0.25, -0.45 * plump), (0.26 - length * 1.15, 0.28 * plump)]
    lower = [(0.26, 0.02), (0.10, 0.55 * plump), (-0.2, 0.62 * plump), (0.26 - length * 1.15, 0.36 * plump)]
    wing = patch(upper, lower).moved(turn(tilt))
    if look.gait == 3:
        root = wing.upper[0]
        wing = wing.moved(np.eye(2), (-root[0], -root[1])).moved(turn(1.0) * 1.12, (root[0], root[1]))
    edge = Patch(wing.upper, wing.lower).outline
    s.fill(shade(look.primary, 0.55), (edge - edge.mean(0)) * 1.05 + edge.mean(0))
    s.fill(shade(look.primary, 0.84), wing.outline)
    u = np.linspace(0.55, 0.97, 2)
    for v in (0.35, 0.62, 0.85):
        strip = np.concatenate([u, u[::-1]])
        s.fill(shade(look.primary, 0.5), wing.at(strip, np.array([v, v, v + 0.07, v + 0.1])))
    mark(s, wing, look, 0.45)
