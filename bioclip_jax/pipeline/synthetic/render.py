"""From a figure and an individual's placement, light and surroundings to an encoded picture.

The figure is drawn at twice the size without anti-aliasing and averaged down, shaded as a solid body lit from one
side, laid over its habitat with a shadow, and the whole is then exposed: brightness, contrast and colour cast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import simplejpeg

from bioclip_jax.pipeline.synthetic.backgrounds import noise, paint_background
from bioclip_jax.pipeline.synthetic.shapes import Figure

JPEG_QUALITY = 95
_LIGHTING = 64  # width of the picture on which shade and shadow are worked out; both are smooth

_TEXTURE_DEPTHS = (0.04, 0.14, 0.22, 0.22)  # smooth, fine, coarse, hairy


@dataclass(frozen=True)
class Placement:
    """Where and how the individual stands: `x`, `y` its middle as a share of the picture, `scale` half its longest
    side as a share of the picture, `rotation` in degrees, `mirrored` when it faces left, `squash` (foreshortening of
    its length), `bend` (curvature of its axis).
    """

    x: float
    y: float
    scale: float
    rotation: float
    mirrored: bool
    squash: float
    bend: float


@dataclass(frozen=True)
class Light:
    """`brightness`: exposure factor; `contrast`: factor about middle grey; `cast`: gains of red, green and blue;
    `direction`: where the light comes from, degrees from the right towards the top.
    """

    brightness: float
    contrast: float
    cast: tuple[float, float, float]
    direction: float


def render(
    figure: Figure, view: str, habitat: int, placement: Placement, light: Light, texture: int, u: np.ndarray, size: int
) -> bytes:
    """JPEG of size x size pixels. `view` as in BodyPlan, `texture` the grain of the skin, `u` [64] uniforms for the
    surroundings.
    """
    background = paint_background(habitat, view, placement.y + 0.7 * placement.scale, u[:48], size)
    layer = _draw(figure, placement, size)
    body = cv2.cvtColor(layer, cv2.COLOR_RGBA2RGB)
    cover = cv2.extractChannel(layer, 3)
    lift, shadow = _relief(cover, view, light.direction, size)
    depth = _TEXTURE_DEPTHS[texture]
    grain = noise(4 if texture == 3 else 3, u[48:50], size, 0.7)
    relief = cv2.addWeighted(lift, 1.0, grain, depth, -128 * depth)
    body = cv2.multiply(body, cv2.cvtColor(relief, cv2.COLOR_GRAY2RGB), scale=1.0 / 128)
    remains = 255 - cover if shadow is None else cv2.multiply(255 - cover, shadow, scale=1.0 / 255)
    background = cv2.multiply(background, cv2.cvtColor(remains, cv2.COLOR_GRAY2RGB), scale=1.0 / 255)
    image = cv2.add(background, body)
    if u[50] < 0.12:
        _cover_partly(image, u[50:64])
    image = cv2.LUT(image, _exposure(light))
    return simplejpeg.encode_jpeg(image, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420")


def _draw(figure: Figure, placement: Placement, size: int) -> np.ndarray:
    """The figure alone, premultiplied RGBA uint8 [size, size, 4]."""
    wide = 2 * size
    layer = np.zeros((wide, wide, 4), np.uint8)
    points = figure.points
    x, y = points[:, 0] * placement.squash, points[:, 1] + placement.bend * (points[:, 0] ** 2 - 0.3)
    if placement.mirrored:
        x = -x
    angle = math.radians(placement.rotation)
    step = 16.0 * wide * placement.scale
    c, s = step * math.cos(angle), step * math.sin(angle)
    placed = np.empty((len(x), 2), np.float32)
    placed[:, 0] = c * x - s * y + 16.0 * wide * placement.x
    placed[:, 1] = s * x + c * y + 16.0 * wide * placement.y
    pixels = np.rint(placed).astype(np.int32)
    for colour, slices in figure.fills:
        cv2.fillPoly(layer, [pixels[start:stop] for start, stop in slices], colour, cv2.LINE_8, 4)
    return cv2.resize(layer, (size, size), interpolation=cv2.INTER_AREA)


def _relief(cover: np.ndarray, view: str, direction: float, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Brightness of the body's surface (128 neutral) and of the ground under its shadow (255 neutral, None where it
    floats), both uint8 [size, size].
    """
    small = cv2.resize(cover, (_LIGHTING, _LIGHTING), interpolation=cv2.INTER_AREA)
    soft = cv2.blur(small, (7, 7))
    x, y = math.cos(math.radians(direction)), -math.sin(math.radians(direction))
    near = np.array([[1.0, 0.0, -2.0 * x], [0.0, 1.0, -2.0 * y]], np.float32)
    far = np.array([[1.0, 0.0, 2.0 * x], [0.0, 1.0, 2.0 * y]], np.float32)
    lit = cv2.warpAffine(soft, far, (_LIGHTING, _LIGHTING))
    dark = cv2.warpAffine(soft, near, (_LIGHTING, _LIGHTING))
    lift = cv2.addWeighted(dark, -0.62, lit, 0.62, 128.0)
    lift = cv2.resize(lift, (size, size))
    if view == "afloat":
        return lift, None
    if view == "above":
        move = np.array([[1.0, 0.0, -3.5 * x], [0.0, 1.0, -3.5 * y]], np.float32)
    else:
        base = float(np.flatnonzero(small.max(axis=1) > 60)[-1]) if small.max() > 60 else 60.0
        move = np.array([[1.0, 0.45 * x, -0.45 * x * base], [0.0, 0.22, base * 0.78 - 0.5]], np.float32)
    fall = cv2.warpAffine(soft, move, (_LIGHTING, _LIGHTING))
    return lift, cv2.resize(cv2.addWeighted(fall, -0.55, fall, 0.0, 255.0), (size, size))


def _exposure(light: Light) -> np.ndarray:
    """Table uint8 [1, 256, 3] of brightness, contrast and colour cast."""
    level = np.arange(256.0)[:, None]
    value = (level * light.brightness - 128.0) * light.contrast + 128.0
    return np.clip(value * np.array(light.cast), 0, 255).astype(np.uint8)[None]


def _cover_partly(image: np.ndarray, u: np.ndarray) -> None:
    """One to three blurred stalks or leaves in front of the subject."""
    size = image.shape[0]
    colour = (60 + 70 * u[1], 80 + 80 * u[2], 40 + 50 * u[3])
    for k in range(1 + int(3 * u[4])):
        x, lean, half = u[5 + k], 0.5 * (u[8 + k] - 0.5), 0.012 + 0.022 * u[11]
        outline = np.array([(x - half, 1.02), (x + lean, 0.15 + 0.5 * u[12]), (x + half, 1.02)])
        cv2.fillPoly(image, [np.rint(outline * (size * 16)).astype(np.int32)], colour, cv2.LINE_AA, 4)
