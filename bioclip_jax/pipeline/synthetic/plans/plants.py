"""Flowering herb, fern, conifer and cactus."""

from __future__ import annotations

import math

import numpy as np

from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.shapes import (
    Colour,
    Figure,
    Patch,
    Sketch,
    blade,
    blade_at,
    disc,
    ellipse,
    ellipse_at,
    mix,
    ribbon,
    shade,
)


def leaf_green(look: Phenotype) -> Colour:
    """Foliage from blue-green to yellow-green, dark to light."""
    green = mix((44, 104, 62), (128, 150, 52), look.countershading)
    return mix(shade(green, 0.7 + 0.6 * look.pattern_scale), look.primary, 0.08)


def flower(look: Phenotype) -> Figure:
    """A herb in bloom; number, shape and marking of the petals, leaves and stamens vary."""
    s = Sketch()
    green = leaf_green(look)
    sway = (0.0, 0.12, -0.12, 0.06)[look.gait]
    top = (sway, -0.35 - 0.1 * look.neck)
    stem = ribbon([(0.0, 1.0), (0.04 - 0.3 * sway, 0.55), (0.5 * sway, 0.1), top], [0.075, 0.07, 0.06, 0.05], 4)
    leaf_long, leaf_wide = 0.40 + 0.35 * look.limb_length, 0.10 + 0.22 * look.limb_width
    s.fill(shade(green, 0.85), stem.outline)
    for place, side in ((0.12, -1), (0.24, 1), (0.42, -1), (0.54, 1)):
        if place > 0.3 and look.limb_form % 2:
            continue
        at = stem.at(place, 0.5)
        angle = -math.pi / 2 + side * (0.95 + 0.3 * look.tail_width)
        length = leaf_long * (1.1 - place)
        if look.limb_form >= 2:
            for lobe in (-0.45, 0.0, 0.45):
                s.fill(green, blade_at(at, angle + lobe, length * (1.0 - 0.4 * abs(lobe)), 0.7 * leaf_wide, 0.6))
        else:
            s.fill(green, blade_at(at, angle, length, leaf_wide, 0.45))
        s.fill(shade(green, 0.68), blade_at(at, angle, 0.9 * length, 0.025))
    petals = (5, 6, 8, 13)[look.head_form] if look.tail_form != 3 else 4
    radius = (0.40 + 0.20 * look.size) * (0.62 if look.juvenile else 1.0)
    tilt = np.array([[1.0, 0.0], [0.0, 0.72 + 0.28 * look.grain[5]]])
    wide = (1.25 + 0.9 * look.depth) * math.pi * radius / petals * (0.6 if petals > 8 else 0.72)
    sharp = (0.72, 0.5, 0.86, 0.78)[look.tail_form]
    turnings = np.arange(petals) * (2 * math.pi / petals) - math.pi / 2 + 0.2 * look.gait
    for angle in turnings[::2]:
        s.fill(shade(green, 0.75), blade(0, 0, angle + math.pi / petals, 0.75 * radius, 0.14, 0.4) @ tilt + top)
    for layer, tone in ((slice(0, None, 2), 0.84), (slice(1, None, 2), 1.0)):
        for angle in turnings[layer]:
            outline = blade(0, 0, angle, radius, wide, sharp) @ tilt + top
            s.fill(shade(look.primary, tone * 0.72), (outline - top) * 1.03 + top)
            s.fill(shade(look.primary, tone), outline)
            if look.pattern in (1, 3, 6, 7):
                part = (0.0, 0.72, 0.0, 0.55, 0.0, 0.0, 0.62, 0.5)[look.pattern]
                base = part if look.pattern != 7 else 0.0
                away = np.array([math.cos(angle), math.sin(angle)]) * base * radius
                size = (0.5 * radius if look.pattern == 7 else 0.2 * radius, 0.22 * wide)
                s.fill(look.secondary, ellipse_at((away @ tilt + top), *size, angle, 10))
            elif look.pattern in (2, 4, 5):
                s.fill(look.secondary, blade(0, 0, angle, 0.8 * radius, 0.22 * wide, 0.4) @ tilt + top)
    disc = radius * (0.16 + 0.24 * look.appendage)
    heart = mix(look.accent, (232, 184, 48), 0.45)
    s.fill(shade(heart, 0.6), ellipse(0, 0, 1.1 * disc, count=14) @ tilt + top)
    s.fill(heart, ellipse(0, 0, 0.9 * disc, count=14) @ tilt + top)
    stamens = np.arange(7) * (2 * math.pi / 7) + 0.4
    reach = disc * (0.8 + 1.1 * look.ornament)
    s.fill(
        shade(heart, 1.25) if look.male else shade(heart, 0.5),
        *[ellipse_at((np.array([math.cos(a), math.sin(a)]) * reach @ tilt + top), 0.032, count=8) for a in stamens],
    )
    return s.finish()


def fern(look: Phenotype) -> Figure:
    """Arching fronds of paired leaflets from one base; young fronds are coiled."""
    s = Sketch()
    green = leaf_green(look)
    fronds = 3 + look.limb_form
    pairs = 8 + round(6 * (1 - look.limb_width))
    spread = 0.75 + 0.55 * look.tail_width
    order = sorted(range(fronds), key=lambda k: -abs(k - (fronds - 1) / 2))
    for rank, k in enumerate(order):
        lean = (2 * k / max(1, fronds - 1) - 1) * spread + 0.06 * math.sin(3 * k + 1.5 * look.gait)
        long = (1.35 + 0.25 * look.neck) * (1.0 - 0.12 * abs(lean))
        droop = 0.55 + 0.5 * look.elongation
        u = np.linspace(0, 1, 5)
        angle = lean * (0.45 + droop * u)
        path = np.stack([np.cumsum(np.sin(angle)), -np.cumsum(np.cos(angle))], 1) * long / 5 + (0.05 * lean, 1.0)
        stem = ribbon(path, [0.06, 0.05, 0.04, 0.03, 0.012], 3)
        tone = shade(green, 0.66 + 0.36 * rank / fronds)
        place = 0.16 + 0.82 * (np.arange(pairs) + 0.5) / pairs
        length = (0.12 + 0.17 * look.limb_length) * np.sin(math.pi * np.minimum(1.0, 0.18 + 0.86 * place)) ** 0.8 + 0.04
        width = 0.80 * long / pairs * (0.75, 0.95, 0.55, 0.85)[look.head_form]
        at, ahead = stem.at(place, 0.5), stem.at(np.minimum(1, place + 0.05), 0.5) - stem.at(place - 0.05, 0.5)
        heading = np.arctan2(ahead[:, 1], ahead[:, 0])
        sharp = (0.35, 0.6, 0.3, 0.75)[look.tail_form]
        for side in (-1, 1):
            leaflets = [
                blade_at(at[j], heading[j] + side * (1.15 - 0.25 * place[j]), length[j], width, sharp)
                for j in range(pairs)
            ]
            s.fill(shade(tone, 1.0 if side < 0 else 0.86), *leaflets)
            if look.pattern in (3, 4, 6) and not look.juvenile:
                s.fill(
                    shade(look.accent, 0.75),
                    *[ellipse_at(leaf.mean(0), 0.022 + 0.015 * look.ornament, count=6) for leaf in leaflets[1::2]],
                )
        s.fill(mix(shade(tone, 0.6), look.primary, 0.4), stem.outline)
    if look.juvenile or look.ornament_form == 2:
        a = np.linspace(0, 3.4 * math.pi, 12)
        coil = np.stack([np.cos(a), np.sin(a)], 1) * (0.15 * np.exp(-0.11 * a))[:, None] + (0.22, 0.36)
        s.fill(
            mix(green, (196, 190, 96), 0.5),
            ribbon(np.concatenate([[(0.05, 1.0), (0.20, 0.7)], coil]), np.linspace(0.085, 0.03, 14), 2).outline,
        )
    return s.finish()


def conifer(look: Phenotype) -> Figure:
    """A whole tree: tiers of drooping or rising branches, spire or crown, with cones."""
    s = Sketch()
    green = mix(leaf_green(look), (28, 70, 58), 0.45)
    tiers = 4 + round(4 * (1 - look.limb_width))
    wide = 0.34 + 0.34 * look.depth
    lean = (0.0, 0.03, -0.03, 0.015)[look.gait]
    bark = mix((92, 66, 46), look.accent, 0.2)
    trunk_top = 0.80 - 0.34 * look.neck
    s.fill(
        bark, ribbon([(0.0, 1.0), (0.01, 0.5), (lean, -0.9)], [0.12 + 0.08 * look.limb_length, 0.10, 0.02], 2).outline
    )
    umbrella = look.limb_form == 3
    for k in range(tiers):
        low = trunk_top - 1.5 * k / tiers if not umbrella else trunk_top - 0.5 - 0.85 * k / tiers
        share = (1 - k / tiers) if look.limb_form != 1 else 0.55 + 0.45 * (1 - k / tiers) * (k > 0)
        if umbrella:
            share = 0.8 + 0.3 * math.sin(math.pi * (k + 0.6) / tiers)
        half = wide * max(0.14, share) * (1.0 + 0.10 * (look.grain[k] - 0.5))
        rise = 1.5 / tiers * (1.5 if not umbrella else 0.75)
        droop = (0.10, 0.02, -0.10, 0.0)[look.head_form] * (0.5 + share)
        teeth = 5
        x = np.linspace(-half, half, 2 * teeth + 1)
        y = low + droop * np.abs(x / half) ** 1.5 + np.where(np.arange(2 * teeth + 1) % 2 == 0, 0.05, -0.02)
        shift = lean * (1 - low)
        edge = np.stack([x + shift, y], 1)
        crown = np.array(
            [(0.35 * half + shift, low - 0.45 * rise), (shift, low - rise), (-0.35 * half + shift, low - 0.45 * rise)]
        )
        tier = np.concatenate([edge, crown])
        s.fill(shade(green, 0.55), np.add(tier, (0.0, 0.02)))
        s.fill(shade(green, 0.82 + 0.3 * k / tiers), (tier - (shift, low - rise)) * (0.95, 0.90) + (shift, low - rise))
        light = np.array(
            [
                (-0.8 * half + shift, low + droop * 0.6),
                (-0.30 * half + shift, low - 0.5 * rise),
                (-0.25 * half + shift, low - 0.1 * rise),
            ]
        )
        s.fill(mix(green, (190, 206, 150), 0.28), light)
        if look.pattern not in (0, 2) and not look.juvenile and k < tiers - 1:
            cone = mix(look.secondary, (134, 92, 56), 0.45)
            size = 0.035 + 0.045 * look.ornament
            s.fill(
                cone,
                *[ellipse(shift + part * half, low + 0.02, 0.55 * size, size, 0, 8) for part in (-0.55, 0.1, 0.62)],
            )
    return s.finish()


def _column(path: list[tuple[float, float]], width: float) -> Patch:
    """A rounded succulent stem."""
    line = ribbon(path, [width] * len(path), 4)
    n = len(line.upper)
    round_ = np.sqrt(np.maximum(0.02, 1 - np.maximum(0, (np.linspace(0, 1, n) - 0.86) / 0.14) ** 2))[:, None]
    middle = (line.upper + line.lower) / 2
    return Patch(middle + (line.upper - middle) * round_, middle + (line.lower - middle) * round_)


def cactus(look: Phenotype) -> Figure:
    """A ribbed column, a barrel or flat pads, with spines and flowers."""
    s = Sketch()
    green = mix(leaf_green(look), (96, 140, 104), 0.4)
    stout = 0.26 + 0.24 * look.depth
    lean = (0.0, 0.05, -0.05, 0.02)[look.gait]
    stems: list[Patch] = []
    if look.limb_form == 1:
        stems.append(_column([(0.0, 0.9), (0.0, 0.4), (lean, -0.1 - 0.2 * look.neck)], 0.95 + 0.2 * look.depth))
    elif look.limb_form == 2:
        size = 0.30 + 0.08 * look.depth
        for x, y, angle in (
            (0.0, 0.62, -1.57),
            (-0.28, 0.14, -2.1),
            (0.27, 0.08, -1.1),
            (-0.52 + lean, -0.36, -1.8),
            (0.42 + lean, -0.44, -1.4),
        ):
            pad = ellipse(x, y, 1.15 * size, 0.82 * size, angle, 20)
            stems.append(disc(pad))
    else:
        for side, height in ((-1, 0.30), (1, 0.05)):
            if look.juvenile or (look.limb_form == 3 and side == 1):
                continue
            bend = 0.5 + 0.15 * look.limb_length
            rise = height - 0.75 - 0.25 * look.limb_length
            stems.append(
                _column(
                    [
                        (0.0, height),
                        (side * 0.8 * bend, height - 0.02),
                        (side * bend, height - 0.25),
                        (side * bend, rise),
                    ],
                    0.62 * stout,
                )
            )
        stems.append(_column([(0.0, 1.0), (0.0, 0.3), (lean, -0.4), (lean, -1.0)], stout))
    flower_colour, size = look.primary, 0.06 + 0.12 * look.ornament
    for stem in stems:
        rim = stem.outline
        s.fill(shade(green, 0.55), (rim - rim.mean(0)) * (1.05, 1.02) + rim.mean(0))
        s.fill(green, rim)
        ribs = 2 + look.head_form
        if look.limb_form != 2:
            u = np.linspace(0.03, 0.97, 7)
            for rib in range(1, ribs + 1):
                v = rib / (ribs + 1)
                s.fill(
                    shade(green, 0.72 if rib % 2 else 1.2),
                    stem.at(np.concatenate([u, u[::-1]]), np.concatenate([u * 0 + v - 0.05, u * 0 + v + 0.05])),
                )
        along, across = np.meshgrid(np.linspace(0.1, 0.9, 6), (np.arange(3) + 0.5) / 3)
        spots = stem.at(along.ravel(), across.ravel())
        spine = mix((240, 228, 190), look.secondary, 0.4)
        s.fill(
            spine,
            *[
                blade_at(at, -1.2 + 2.4 * look.grain[k], 0.06 + 0.1 * look.appendage, 0.022)
                for k, at in enumerate(spots)
            ],
        )
        if not look.juvenile:
            tip = stem.at(0.985, 0.5) if look.limb_form != 2 else stem.upper[5]
            for angle in (-2.4, -1.95, -1.57, -1.2, -0.75):
                s.fill(
                    shade(flower_colour, 0.8 + 0.2 * math.cos(angle * 4)),
                    blade_at(tip, angle, 1.6 * size, 0.8 * size, 0.6),
                )
            s.fill(look.accent, ellipse(tip[0], tip[1] - 0.4 * size, 0.3 * size, count=8))
    return s.finish()
