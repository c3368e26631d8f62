"""Four-footed mammal."""

from __future__ import annotations

import numpy as np

from bioclip_jax.pipeline.synthetic.patterns import countershade, mark
from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.plans.parts import eye, limb
from bioclip_jax.pipeline.synthetic.shapes import (
    Figure,
    Sketch,
    blade,
    ellipse,
    ellipse_at,
    mix,
    patch,
    ribbon,
    shade,
)


def mammal(look: Phenotype) -> Figure:
    """Four-footed, side view; legs, snout, ears, tail, horns and coat vary."""
    s = Sketch()
    deep = 0.17 + 0.12 * look.depth
    half = 0.46 + 0.14 * look.elongation
    x = np.array([-1.0, -0.78, -0.35, 0.2, 0.7, 1.0]) * half
    top = -np.array([0.35, 0.95, 0.90, 0.86, 1.05, 0.55]) * deep
    low = np.array([0.55, 0.80, 0.82, 1.0, 0.95, 0.35]) * deep
    body = patch(np.stack([x, top], 1), np.stack([x, low], 1))
    leg = 0.26 + 0.50 * look.limb_length
    width = 0.085 + 0.06 * look.limb_width
    swing = (0.0, 0.14, -0.12, 0.07)[look.gait]
    ground = 0.5 * deep + leg
    for near, colour in ((False, shade(look.primary, 0.6)), (True, shade(look.primary, 0.92))):
        sign = 1 if near else -1
        legs, feet = [], []
        for hip, bend in ((-0.78 * half, -0.07), (0.72 * half, 0.04)):
            start = hip + (0.0 if near else 0.10)
            knee = (start + sign * swing * 0.4 + bend, 0.4 * deep + 0.5 * leg)
            foot = (start + sign * swing * (1 if bend < 0 else -1), ground)
            legs.append(limb([(start, 0.25 * deep), knee, foot], width * 1.5, 0.42, 3))
            feet.append(ellipse(foot[0] + 0.02, ground, 0.42 * width, 0.24 * width, 0.0, 10))
        s.fill(colour, *legs)
        s.fill(shade(colour, 0.55), *feet)
    _mammal_tail(s, look, (-0.95 * half, -0.5 * deep))
    reach = 0.14 + 0.34 * look.neck
    lower_head = (0.0, 0.05, -0.04, 0.10)[look.gait]
    head = (0.90 * half + 0.55 * reach, -0.55 * deep - reach * 0.85 + lower_head)
    radius = 0.135 + 0.06 * look.head
    s.fill(
        look.primary,
        ribbon(
            [(0.62 * half, 0.0), (0.85 * half + 0.2 * reach, -0.4 * deep - 0.4 * reach), head],
            [2.0 * deep, 1.9 * radius, 1.6 * radius],
        ).outline,
    )
    s.fill(look.primary, body.outline)
    countershade(s, body, look, 0.72)
    mark(s, body, look, 0.5)
    if look.ornament_form == 3:
        mane = ribbon(
            [
                (0.55 * half, -0.9 * deep),
                (0.80 * half, -0.8 * deep - 0.5 * reach),
                (head[0] - 0.5 * radius, head[1] - 0.7 * radius),
            ],
            [0.16, 0.1 + 0.22 * look.ornament, 0.1],
            3,
        )
        s.fill(shade(look.secondary, 0.8), mane.outline)
    _mammal_head(s, look, head, radius)
    return s.finish()


def _mammal_tail(s: Sketch, look: Phenotype, root: tuple[float, float]) -> None:
    x, y = root
    length = 0.22 + 0.5 * look.tail_length
    colour = shade(look.primary, 0.85)
    if look.tail_form == 0:
        s.fill(colour, limb([(x + 0.06, y), (x - 0.12, y + 0.25 * length), (x - 0.14, y + length)], 0.06, 0.6, 3))
        s.fill(shade(look.secondary, 0.7), ellipse(x - 0.14, y + length, 0.05, 0.11, 0.0, 10))
    elif look.tail_form == 1:
        bushy = ribbon(
            [(x + 0.06, y), (x - 0.4 * length, y - 0.1), (x - length, y + 0.1 * length)],
            [0.08, 0.14 + 0.16 * look.tail_width, 0.04],
            4,
        )
        s.fill(colour, bushy.outline)
        s.fill(look.secondary, ellipse_at(bushy.at(0.88, 0.5), 0.08, 0.05, 0.0, 10))
    elif look.tail_form == 2:
        s.fill(colour, ellipse(x, y, 0.09, 0.07, 0.0, 10))
    else:
        s.fill(
            colour,
            limb(
                [
                    (x + 0.06, y),
                    (x - 0.4 * length, y + 0.12),
                    (x - 0.85 * length, y - 0.2),
                    (x - 0.7 * length, y - 0.75 * length),
                ],
                0.09,
                0.45,
                4,
            ),
        )


def _mammal_head(s: Sketch, look: Phenotype, head: tuple[float, float], radius: float) -> None:
    x, y = head
    size = 0.10 + 0.20 * look.appendage
    ear = shade(look.primary, 0.72)
    ears = {
        0: lambda dx: ellipse(x - 0.45 * radius + dx, y - 0.95 * radius, 0.55 * size, 0.6 * size, 0, 14),
        1: lambda dx: blade(x - 0.5 * radius + dx, y - 0.5 * radius, -1.9, size + 0.12, 0.6 * size + 0.04, 0.4),
        2: lambda dx: blade(x - 0.4 * radius + dx, y - 0.6 * radius, -1.85, 2.0 * size + 0.1, 0.4 * size + 0.03, 0.6),
        3: lambda dx: blade(x - 0.3 * radius + dx, y - 0.6 * radius, 2.35, 1.2 * size + 0.08, 0.6 * size + 0.03, 0.6),
    }[look.head_form]
    s.fill(shade(ear, 0.7), ears(0.5 * radius))
    if look.ornament_form in (1, 2):
        horn, bone = 0.08 + 0.5 * look.ornament, (206, 190, 154)
        base = (x - 0.05, y - 0.8 * radius)
        if look.ornament_form == 1:
            s.fill(
                bone,
                limb(
                    [
                        base,
                        (base[0] - 0.35 * horn, base[1] - 0.6 * horn),
                        (base[0] - 0.1 * horn, base[1] - 1.15 * horn),
                    ],
                    0.07,
                    0.25,
                    3,
                ),
            )
        else:
            s.fill(
                bone,
                limb(
                    [base, (base[0] - 0.2 * horn, base[1] - 0.6 * horn), (base[0] - 0.1 * horn, base[1] - 1.25 * horn)],
                    0.055,
                    0.4,
                    3,
                ),
            )
            s.fill(
                bone,
                limb(
                    [(base[0] - 0.17 * horn, base[1] - 0.5 * horn), (base[0] + 0.35 * horn, base[1] - 0.9 * horn)],
                    0.045,
                    0.5,
                    1,
                ),
            )
            s.fill(
                bone,
                limb(
                    [(base[0] - 0.15 * horn, base[1] - 0.8 * horn), (base[0] - 0.6 * horn, base[1] - 1.1 * horn)],
                    0.045,
                    0.5,
                    1,
                ),
            )
    snout = 0.5 + 0.8 * look.tail_width
    muzzle = ribbon(
        [
            (x - 0.2 * radius, y),
            (x + 0.8 * radius, y + 0.3 * radius),
            (x + (0.9 + 0.7 * snout) * radius, y + 0.55 * radius),
        ],
        [1.7 * radius, 1.25 * radius, 0.75 * radius],
    )
    s.fill(look.primary, ellipse(x - 0.05 * radius, y - 0.05 * radius, 0.98 * radius, 0.92 * radius))
    s.fill(look.primary, muzzle.outline)
    s.fill(
        mix(look.primary, (244, 234, 214), 0.2 + 0.4 * look.countershading),
        muzzle.at(np.array([0.45, 1.0, 1.0, 0.45]), np.array([0.62, 0.55, 1.0, 1.0])),
    )
    s.fill((34, 26, 26), ellipse_at(muzzle.at(0.98, 0.3), 0.035, 0.03, 0, 8))
    s.fill(ear, ears(0.0))
    s.fill(mix(ear, (216, 160, 140), 0.5), (ears(0.0) - ears(0.0).mean(0)) * 0.55 + ears(0.0).mean(0))
    eye(s, x + 0.30 * radius, y - 0.12 * radius, 0.034)
