"""Parts that several body plans share: eyes, jointed limbs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bioclip_jax.pipeline.synthetic.shapes import Colour, Sketch, ellipse, ribbon

BLACK: Colour = (18, 16, 18)


def eye(sketch: Sketch, x: float, y: float, radius: float, ring: Colour | None = None) -> None:
    """A dark eye with a catchlight, in a ring of the given colour."""
    if ring is not None:
        sketch.fill(ring, ellipse(x, y, radius * 1.45, count=14))
    sketch.fill(BLACK, ellipse(x, y, radius, count=14))
    sketch.fill((250, 250, 250), ellipse(x - 0.3 * radius, y - 0.35 * radius, 0.36 * radius, count=8))


def eye_at(sketch: Sketch, at: np.ndarray, radius: float, ring: Colour | None = None) -> None:
    """`eye` at a point [2]."""
    eye(sketch, float(at[0]), float(at[1]), radius, ring)


def limb(points: Sequence[tuple[float, float]], width: float, taper: float = 0.5, per: int = 2) -> np.ndarray:
    """Outline of a limb through joints, narrowing from `width` to `taper * width`."""
    return ribbon(points, np.linspace(width, taper * width, len(points)), per).outline
