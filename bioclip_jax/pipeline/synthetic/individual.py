"""What differs between the individuals of a species, and how it is written into the record's truth.

Pose and light are drawn alike for every species, life stage and sex. Where an individual then stands in its picture
follows from its pose, but also from its body plan (who is seen from above lies in any direction), its size and its
stage; that is its placement.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np

from bioclip_jax.pipeline.synthetic.phenotype import SEXES, STAGES
from bioclip_jax.pipeline.synthetic.render import Light, Placement
from bioclip_jax.pipeline.synthetic.traits import HABITATS

_ROTATIONS = {"side": 8.0, "above": 45.0, "afloat": 20.0}  # largest rotation by view, degrees
_BENDS = {"side": 0.16, "above": 0.10, "afloat": 0.16}  # largest bend by view


@dataclass(frozen=True)
class Pose:
    """Standardised draws, independent of the species and of each other. `x`, `y`, `scale`, `rotation` and `bend` are
    uniform in [-v, v] and `squash` in [0, v], with v the `variation` of the source; `mirrored` is true half the time,
    `posture` uniform in 0 to GAITS - 1. `place` turns them into a placement.
    """

    x: float
    y: float
    scale: float
    rotation: float
    mirrored: bool
    squash: float
    bend: float
    posture: int


@dataclass(frozen=True)
class Individual:
    """One photographed individual: `habitat` a number into HABITATS, life stage, sex, pose, placement and light."""

    habitat: int
    juvenile: bool
    male: bool
    pose: Pose
    placement: Placement
    light: Light

    def described(self) -> str:
        """The inside of a JSON object: habitat, life_stage, sex, pose, placement and light."""
        pose, at, light = self.pose, self.placement, self.light
        return (
            f'"habitat": "{HABITATS[self.habitat]}", "life_stage": "{STAGES[not self.juvenile]}", '
            f'"sex": "{SEXES[self.male]}", "pose": {{"x": {pose.x:.4f}, "y": {pose.y:.4f}, '
            f'"scale": {pose.scale:.4f}, "rotation": {pose.rotation:.4f}, "mirrored": {json.dumps(pose.mirrored)}, '
            f'"squash": {pose.squash:.4f}, "bend": {pose.bend:.4f}, "posture": {pose.posture}}}, '
            f'"placement": {{"x": {at.x:.4f}, "y": {at.y:.4f}, "scale": {at.scale:.4f}, '
            f'"rotation": {at.rotation:.2f}, "squash": {at.squash:.4f}, "bend": {at.bend:.4f}}}, '
            f'"light": {{"brightness": {light.brightness:.4f}, "contrast": {light.contrast:.4f}, '
            f'"cast": [{light.cast[0]:.4f}, {light.cast[1]:.4f}, {light.cast[2]:.4f}], '
            f'"direction": {light.direction:.2f}}}'
        )


def draw_pose(u: np.ndarray, posture: int, variation: float) -> Pose:
    """Pose from uniforms float [7 or more] in [0, 1)."""
    spread = variation * (2.0 * u - 1.0)
    return Pose(
        x=float(spread[1]),
        y=float(spread[2]),
        scale=float(spread[0]),
        rotation=float(spread[3]),
        mirrored=bool(u[4] < 0.5),
        squash=float(variation * u[5]),
        bend=float(spread[6]),
        posture=posture,
    )


def place(pose: Pose, view: str, size: float, juvenile: bool) -> Placement:
    """Where a pose puts an individual whose body plan has this `view` and whose species has this trait `size`."""
    scale = (0.43 + 0.07 * pose.scale + 0.03 * float(np.tanh(0.5 * size))) * (0.84 if juvenile else 1.0)
    room = 0.45 - 0.70 * scale
    return Placement(
        x=0.5 + room * pose.x,
        y=0.5 + room * pose.y,
        scale=scale,
        rotation=_ROTATIONS[view] * pose.rotation,
        mirrored=pose.mirrored,
        squash=1.0 - 0.22 * pose.squash,
        bend=_BENDS[view] * pose.bend,
    )


def draw_light(u: np.ndarray, variation: float) -> Light:
    """Light from uniforms float [5 or more] in [0, 1), alike for every species."""
    spread = variation * (2.0 * u - 1.0)
    warm, green = 0.20 * spread[2], 0.08 * spread[3]
    return Light(
        brightness=1.0 + 0.30 * spread[0],
        contrast=1.0 + 0.20 * spread[1],
        cast=(1.0 + warm, 1.0 + green, 1.0 - warm),
        direction=90.0 + 50.0 * spread[4],
    )
