"""Habitats: a colour ramp laid over noise, with grass, trunks, stones or corals scattered; different each time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from bioclip_jax.pipeline.synthetic.counter import Draws
from bioclip_jax.pipeline.synthetic.traits import HABITATS

_BANK = 256


@dataclass(frozen=True)
class Habitat:
    """Ramps of hex colours from dark to light for the ground (or water) and what is behind it; `horizon`: range of the
    share of the picture above the line, (0, 0) for none; `scatter`: what stands or lies about.
    """

    ground: str
    behind: str
    horizon: tuple[float, float]
    scatter: str
    scatter_ramp: str


_FROM_ABOVE = {"forest": "leaf_litter", "reef": "seabed"}
"""What lies under those who live there and are seen from above."""

_HABITATS = {
    "forest": Habitat(
        "1c2416 34401f 4f5a2c 6d7040",
        "16241a 2c4228 4f6e3c 93ab6a",
        (0.45, 0.75),
        "trunks",
        "241c16 4e4234",
    ),
    "meadow": Habitat(
        "34551f 4f7a2c 73993c a8b860",
        "5f8c3c 8cb070 b8d0c8 cfe0ea",
        (0.2, 0.5),
        "grass",
        "3c661f 9cba4c",
    ),
    "freshwater": Habitat("10302f 1d5450 3f8076 86b49c", "", (0, 0), "weeds", "1f4a26 6c8c3c"),
    "reef": Habitat("0c3a66 1a6496 3a94bc 8cccd8", "", (0, 0), "corals", "c0607c d8b06c"),
    "seabed": Habitat("3c6480 6c94a0 a8b8a8 d8d0b0", "", (0, 0), "stones", "7c7468 d8a890"),
    "desert": Habitat(
        "9a6c3c c09050 dcb474 f0d8a4",
        "7fa8cc a8c8dc d4dcd4 f0e4c4",
        (0.15, 0.5),
        "stones",
        "8c6844 c8a470",
    ),
    "snow": Habitat(
        "9cb0c8 c4d4e4 e2eaf2 fbfcff",
        "7488a0 9cb0c4 c4d2de e0e8f0",
        (0.15, 0.5),
        "stones",
        "a8b8cc eef2f8",
    ),
    "leaf_litter": Habitat("2c1c12 4e3420 744e2c a07848", "", (0, 0), "leaves", "4c2c16 b8843c"),
    "rock": Habitat(
        "3e3c3a 625f5b 8a857c b4aca0",
        "5c6a74 8496a0 b0bcc0 d8dcd8",
        (0.0, 0.4),
        "stones",
        "4a4644 a29a8e",
    ),
    "canopy": Habitat("2c4c1c 4c742c 88ac58 d4e8c0", "", (0, 0), "leaves", "2c5418 88b040"),
    "marsh": Habitat(
        "2c3826 4c5c3c 74866a a8b8a8",
        "6c7c58 94a078 bcc4ac dce0d8",
        (0.25, 0.55),
        "reeds",
        "4c5a24 a8a058",
    ),
}


def _hex(text: str) -> np.ndarray:
    return np.array([[int(h[i : i + 2], 16) for i in (0, 2, 4)] for h in text.split()], np.float64)


@lru_cache(maxsize=1)
def _noise_bank() -> tuple[np.ndarray, ...]:
    """Seamless fractal textures uint8 [512, 512] about 128: clouds, mottling, streaks, and the finer grain and hair."""
    draws = Draws(0, "textures")
    bank = []
    for slope, stretch in ((2.0, 1.0), (1.45, 1.0), (1.7, 5.0), (0.5, 1.0), (0.8, 4.0)):
        row, column = np.fft.fftfreq(_BANK)[:, None] * stretch, np.fft.rfftfreq(_BANK)[None]
        radius = np.hypot(row, column) + 1.0 / _BANK
        spectrum = np.fft.rfft2(draws.normal(_BANK, _BANK)) * radius**-slope
        spectrum[0, 0] = 0.0
        field = np.fft.irfft2(spectrum, s=(_BANK, _BANK))
        field = np.clip(128 + 45 * field / field.std(), 0, 255).astype(np.uint8)
        bank.append(np.tile(field, (2, 2)))
    return tuple(bank)


@lru_cache(maxsize=8)
def _fade(size: int) -> np.ndarray:
    """Ramp uint8 [size, size], 255 at the top to 0 at the bottom."""
    return np.repeat(np.linspace(255, 0, size).astype(np.uint8)[:, None], size, axis=1)


def noise(which: int, u: np.ndarray, size: int, zoom: float) -> np.ndarray:
    """A crop uint8 [size, size] of one texture; `u` [2] places it, `zoom` is its share of the texture's width."""
    span = max(8, int(zoom * _BANK))
    top, left = int(u[0] * _BANK), int(u[1] * _BANK)
    return cv2.resize(
        _noise_bank()[which][top : top + span, left : left + span], (size, size), interpolation=cv2.INTER_CUBIC
    )


def _ramp(stops: str, u: np.ndarray) -> np.ndarray:
    """Colour table uint8 [256, 1, 3] through the stops, shifted in hue and depth by `u` [4]."""
    table = _RAMPS[stops]
    shift = (u[:3] - 0.5) * 46.0 + (u[3] - 0.5) * 64.0
    return np.clip(table + shift, 0, 255).astype(np.uint8)[:, None]


_SCATTER_RAMPS = {habitat.scatter_ramp: _hex(habitat.scatter_ramp) for habitat in _HABITATS.values()}
_RAMPS = {
    stops: np.stack([np.interp(np.arange(256), np.linspace(25, 230, 4), _hex(stops)[:, c]) for c in range(3)], axis=1)
    for habitat in _HABITATS.values()
    for stops in (habitat.ground, habitat.behind)
    if stops
}


def paint_background(habitat: int, view: str, floor: float, u: np.ndarray, size: int) -> np.ndarray:
    """Background uint8 [size, size, 3] (RGB) of a habitat (number into HABITATS) for a subject seen in `view` (as in
    BodyPlan) that stands at height `floor` (share of the picture); `u` [48] uniforms.
    """
    name = HABITATS[habitat]
    above = view == "above"
    kind = _HABITATS[_FROM_ABOVE.get(name, name) if above else name]
    texture = noise(int(u[0] * 3), u[1:3], size, 0.15 + 0.45 * u[3])
    slope = 0.15 + 0.35 * u[4]
    field = cv2.addWeighted(texture, 0.5, _fade(size), slope, 18 - 90 * (slope - 0.15))
    low, high = kind.horizon
    line = 0 if above else int(size * min(low + (high - low) * u[5], floor))
    image = cv2.applyColorMap(field, _ramp(kind.ground, u[6:10]))
    if line > 0:
        soft = cv2.addWeighted(field[:line], 0.5, _fade(size)[:line], 0.35, 0.0)
        image[:line] = cv2.applyColorMap(soft, _ramp(kind.behind, u[9:13]))
    _SCATTER[kind.scatter](image, kind.scatter_ramp, max(line, 0), u[14:48])
    blur = 1 + 2 * int(size * (0.01 + 0.03 * u[13]))
    return cv2.stackBlur(image, (blur, blur))


def _paint(image: np.ndarray, stops: str, shares: np.ndarray, polygons: np.ndarray, darken: float = 1.0) -> None:
    """Fill `polygons` [n, k, 2] (in units of the picture) in colours between the two stops."""
    points = np.rint(polygons * (image.shape[0] * 16)).astype(np.int32)
    ramp = _SCATTER_RAMPS[stops] * darken
    colours = ramp[0] + (ramp[1] - ramp[0]) * shares[:, None]
    for polygon, colour in zip(points, colours.tolist(), strict=True):
        cv2.fillPoly(image, [polygon], colour, cv2.LINE_AA, 4)


def _stalks(image: np.ndarray, ramp: str, u: np.ndarray, base: float, high: float, wide: float) -> None:
    """Nine tapering stalks: grass, reeds or weeds."""
    x, tip = u[:9], base - high * (0.4 + 0.6 * u[9:18])
    lean = (u[18:27] - 0.5) * 0.35 * high
    outline = np.stack(
        [
            np.stack([x - wide, np.full(9, base)], 1),
            np.stack([x + 0.3 * lean - 0.7 * wide, (base + tip) / 2], 1),
            np.stack([x + lean, tip], 1),
            np.stack([x + 0.3 * lean + 0.7 * wide, (base + tip) / 2], 1),
            np.stack([x + wide, np.full(9, base)], 1),
        ],
        axis=1,
    )
    _paint(image, ramp, u[9:18], outline)


def _grass(image: np.ndarray, ramp: str, line: int, u: np.ndarray) -> None:
    _stalks(image, ramp, u, 1.02, 0.35 + 0.35 * u[27], 0.014)


def _reeds(image: np.ndarray, ramp: str, line: int, u: np.ndarray) -> None:
    _stalks(image, ramp, u, 0.75 + 0.3 * u[28], 0.55 + 0.45 * u[27], 0.013)


def _weeds(image: np.ndarray, ramp: str, line: int, u: np.ndarray) -> None:
    _stalks(image, ramp, u[:27] * np.repeat([0.999, 1.0, 1.0], 9), 1.02, 0.3 + 0.6 * u[27], 0.022)


def _trunks(image: np.ndarray, ramp: str, line: int, u: np.ndarray) -> None:
    count = 2 + int(3 * u[0])
    x, half = u[1 : 1 + count], 0.02 + 0.07 * u[6 : 6 + count] ** 2
    foot = line / image.shape[0] + 0.22 * u[12 : 12 + count]
    zero = np.full(count, -0.02)
    outline = np.stack(
        [np.stack(p, 1) for p in ((x - half, foot), (x - 0.8 * half, zero), (x + 0.8 * half, zero), (x + half, foot))],
        axis=1,
    )
    _paint(image, ramp, u[18 : 18 + count], outline)


_TURN = np.arange(7) * (2 * np.pi / 7)
_LEAF = np.array([(0.0, 0.0), (0.35, 0.22), (0.7, 0.16), (1.0, 0.0), (0.7, -0.16), (0.35, -0.22)]) - (0.5, 0.0)


def _stones(image: np.ndarray, ramp: str, line: int, u: np.ndarray) -> None:
    count = 3 + int(4 * u[0])
    top = line / image.shape[0]
    centre = np.stack([u[1 : 1 + count], top + (1.02 - top) * u[8 : 8 + count]], 1)[:, None]
    size = (0.02 + 0.09 * u[15 : 15 + count] ** 2)[:, None, None]
    rough = 0.75 + 0.5 * u[(np.arange(count)[:, None] * 5 + np.arange(7)) % 34]
    shape = np.stack([np.cos(_TURN), 0.62 * np.sin(_TURN)], 1) * rough[..., None]
    _paint(image, ramp, u[22 : 22 + count], centre + (0.0, 0.012) + shape * size, 0.6)
    _paint(image, ramp, u[22 : 22 + count], centre + shape * size * 0.92)


def _leaves(image: np.ndarray, ramp: str, line: int, u: np.ndarray) -> None:
    count = 11
    angle, size = u[22:33] * 6.283, 0.10 + 0.22 * u[(np.arange(11) * 3) % 34] ** 2
    c, s = np.cos(angle) * size, np.sin(angle) * size
    matrix = np.stack([np.stack([c, s], 1), np.stack([-s, c], 1)], 1)
    shape = np.einsum("ki,nij->nkj", _LEAF, matrix)
    _paint(image, ramp, u[:count], np.stack([u[:11], u[11:22]], 1)[:, None] + shape)


def _corals(image: np.ndarray, ramp: str, line: int, u: np.ndarray) -> None:
    """Branching corals with rounded fingers, lit from the left."""
    unit = image.shape[0] * 16
    stops = np.clip(_SCATTER_RAMPS[ramp] + (u[15:18] - 0.5) * 110.0, 0, 255)
    fan = np.linspace(-0.9, 0.9, 4)[None] + (u[:4, None] - 0.5)
    size = 0.10 + 0.26 * u[5:9, None]
    base = np.stack([u[10:14], np.full(4, 1.02)], 1)[:, None]
    tips = base + np.stack([size * np.sin(fan), -size * np.cos(fan) * (0.8 + 0.4 * u[18:22])], 2)
    wide = 1 + (image.shape[0] * (0.018 + 0.035 * u[22:26])).astype(np.int64)
    ends, roots = np.rint(tips * unit).astype(int).tolist(), np.rint(base[:, 0] * unit).astype(int).tolist()
    for k in range(4):
        colour = stops[0] + (stops[1] - stops[0]) * u[26 + k]
        dark, light, width = (colour * 0.72).tolist(), colour.tolist(), int(wide[k])
        for x, y in ends[k]:
            cv2.line(image, roots[k], (x, y), dark, width, cv2.LINE_AA, 4)
            cv2.line(image, roots[k], (x - 4 * width, y), light, max(1, width // 2), cv2.LINE_AA, 4)


_SCATTER = {
    "grass": _grass,
    "reeds": _reeds,
    "weeds": _weeds,
    "trunks": _trunks,
    "stones": _stones,
    "leaves": _leaves,
    "corals": _corals,
}
