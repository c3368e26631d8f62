"""What one individual of a species looks like: trait values as proportions in (0, 1), forms, and resolved colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bioclip_jax.pipeline.synthetic.shapes import Colour, mix, shade

STAGES = ("juvenile", "adult")
SEXES = ("female", "male")
GAITS = 4
"""Number of body postures (phases of a gait, wing positions, waves) in which a species is drawn."""


@dataclass(frozen=True)
class Phenotype:
    """Proportions are in (0, 1), 0.5 typical; forms are numbers of variants; `grain` float [64] in [0, 1) is the
    species' own irregularity (where its spots sit).
    """

    size: float
    elongation: float
    depth: float
    head: float
    neck: float
    limb_length: float
    limb_width: float
    tail_length: float
    tail_width: float
    appendage: float
    ornament: float
    pattern_scale: float
    countershading: float
    limb_form: int
    head_form: int
    tail_form: int
    ornament_form: int
    pattern: int
    primary: Colour
    secondary: Colour
    accent: Colour
    juvenile: bool
    male: bool
    gait: int
    grain: np.ndarray


def _brightness(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _apart(colour: Colour, other: Colour, least: float) -> Colour:
    """`colour` moved lighter or darker until it differs by `least` in brightness from `other`."""
    difference = _brightness(colour) - _brightness(other)
    if abs(difference) >= least:
        return colour
    if _brightness(other) > 128:
        return shade(colour, max(0.2, (_brightness(other) - least) / max(_brightness(colour), 1.0)))
    return mix(colour, (250, 246, 236), min(1.0, (least - difference) / (250.0 - _brightness(colour) + 1.0)))


def resolve(
    continuous: dict[str, float],
    discrete: dict[str, int],
    palette: Sequence[Colour],
    *,
    juvenile: bool,
    male: bool,
    gait: int,
    grain: np.ndarray,
) -> Phenotype:
    """The phenotype of a species' traits in one life stage, sex and posture. Juveniles are stubby, big-headed, pale
    and faintly patterned; males have the larger ornament and the brighter colours, in every species alike.
    """
    unit = {name: 0.5 + 0.5 * float(np.tanh(0.75 * value)) for name, value in continuous.items()}
    primary = palette[discrete["primary"] % len(palette)]
    lightness = unit["lightness"] - 0.5
    primary = mix(primary, (255, 250, 240), 0.45 * lightness) if lightness > 0 else shade(primary, 1 + 0.8 * lightness)
    grey = round(_brightness(primary))
    primary = mix(primary, (grey, grey, grey), 0.35 * (1 - unit["saturation"]))
    warmth = round(36 * (unit["hue"] - 0.5))
    primary = (min(255, max(0, primary[0] + warmth)), primary[1], min(255, max(0, primary[2] - warmth)))
    secondary = _apart(palette[discrete["secondary"] % len(palette)], primary, 60 + 50 * unit["pattern_contrast"])
    accent = _apart(palette[discrete["accent"] % len(palette)], primary, 35)
    if not male:
        grey = round(_brightness(primary))
        primary = mix(primary, mix((126, 104, 80), (grey, grey, grey), 0.5), 0.25)
        accent = mix(accent, primary, 0.45)
    if juvenile:
        primary = mix(primary, (188, 176, 156), 0.22)
        secondary = mix(secondary, primary, 0.42)
    proportions = {
        name: unit[name] for name in ("size", "elongation", "depth", "neck", "limb_width", "tail_width", "appendage")
    }
    return Phenotype(
        **proportions,
        head=min(1.0, unit["head"] + 0.35) if juvenile else unit["head"],
        limb_length=unit["limb_length"] * (0.7 if juvenile else 1.0),
        tail_length=unit["tail_length"] * (0.6 if juvenile else 1.0),
        ornament=unit["ornament"] * (0.25 if juvenile else 1.0) * (1.0 if male else 0.55),
        pattern_scale=unit["pattern_scale"],
        countershading=unit["countershading"],
        limb_form=discrete["limb_form"],
        head_form=discrete["head_form"],
        tail_form=discrete["tail_form"],
        ornament_form=discrete["ornament_form"],
        pattern=discrete["pattern"],
        primary=primary,
        secondary=secondary,
        accent=accent,
        juvenile=juvenile,
        male=male,
        gait=gait,
        grain=grain,
    )
