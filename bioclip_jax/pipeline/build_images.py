"""The image of a record as a shard holds it: its own bytes wherever they will do, else encoded again.

Bytes pass through untouched unless a size is asked for, or they are something that not every reader sees alike; pixels
without an encoding always become a JPEG.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from bioclip_jax.errors import UsageError
from bioclip_jax.images import MAX_PIXELS, ImageError, decode, jpeg_shape

_STORED_FORMATS = {"JPEG", "MPO", "PNG", "WEBP"}
_STORED_MODES = {"RGB", "L"}
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_TAIL = 2048  # bytes in which the end marker is looked for: some cameras write padding behind it
_JPEG_LONGEST = 65_500

Geometry = Literal["shorter_side", "squash"]
ImageCheck = Literal["decode", "header"]


@dataclass(frozen=True)
class ImageOptions:
    """What a build does to images.

    Attributes:
      resize: pixels; None leaves every size as it is.
      geometry: `shorter_side` shrinks images whose shorter side is longer than `resize` to it, and enlarges none;
        `squash` makes all `resize` x `resize`, aspect not kept, as the published tars of TreeOfLife are.
      quality: of the JPEGs that are written, 4:2:0.
      check: `decode` decodes every image; `header` looks only at the header and the end marker of a JPEG.
    """

    resize: int | None = None
    geometry: Geometry = "shorter_side"
    quality: int = 95
    check: ImageCheck = "decode"

    def __post_init__(self) -> None:
        if self.resize is not None and not 1 <= self.resize <= _JPEG_LONGEST:
            raise UsageError(f"--resize {self.resize}: must be 1 to {_JPEG_LONGEST:,} pixels")
        if self.resize is None and self.geometry != "shorter_side":
            raise UsageError(f"--geometry {self.geometry}: says how to --resize, which is not given")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"--quality {self.quality}: must be 1 to 100")
        for flag, value, known in (("geometry", self.geometry, Geometry), ("check", self.check, ImageCheck)):
            if value not in get_args(known):
                raise UsageError(f"--{flag} {value}: not one of {', '.join(get_args(known))}")

    def target(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that an image of this size gets."""
        if self.resize is None:
            return height, width
        if self.geometry == "squash":
            return self.resize, self.resize
        shorter = min(height, width)
        if shorter <= self.resize:
            return height, width
        return tuple(max(self.resize, round(side * self.resize / shorter)) for side in (height, width))  # type: ignore[return-value]


class Looked(NamedTuple):
    """What is known of an image.

    Attributes:
      as_is: its own bytes go into the shard.
      pixels: uint8 [height, width, 3], RGB, where it had to be decoded.
    """

    as_is: bool
    pixels: np.ndarray | None


def look(image: bytes | np.ndarray, options: ImageOptions, *, pixels: bool = False) -> Looked:
    """Whether an image can be used, and as it is.

    Args:
      image: encoded, or uint8 [height, width, 3], RGB.
      options: of the build.
      pixels: decode it in any case.

    Raises:
      ImageError: it cannot be used.
    """
    if isinstance(image, np.ndarray):
        _check_pixels(image)
        return Looked(False, image)
    if options.check == "header" and not pixels:
        size = jpeg_shape(image)
        if size is not None:
            if _JPEG_END not in image[-_TAIL:]:
                raise ImageError("truncated")
            return Looked(options.target(*size) == size, None)
    decoded = decode(image)
    height, width = decoded.shape[:2]
    if options.target(height, width) != (height, width):
        return Looked(False, decoded)
    header_will_do = options.check == "header" and jpeg_shape(image) is not None
    return Looked(header_will_do or _can_be_stored(image), decoded)


def storable_image(image: bytes | np.ndarray, options: ImageOptions | None = None) -> bytes:
    """The bytes that go into a shard: those given if they are a plain JPEG, PNG or WebP, in the size that is asked for.

    Anything else (CMYK, palettes, 16 bits, transparency, several frames, TIFF, BMP, ...) becomes a PNG of the very
    pixels that `images.decode` gives, so that every reader sees the same picture. What is resized, and pixels that had
    no encoding, become a JPEG.

    Args:
      image: encoded, or uint8 [height, width, 3], RGB.
      options: of the build; `ImageOptions()` if not given.

    Raises:
      ImageError: it cannot be used.
    """
    options = options or ImageOptions()
    shrunk = None if isinstance(image, np.ndarray) else _resized_jpeg(image, options)
    if shrunk is not None:
        return _encode(shrunk, options)
    as_is, pixels = look(image, options)
    if as_is and isinstance(image, bytes):
        return image
    if pixels is None:
        pixels = decode(image)
    height, width = pixels.shape[:2]
    target = options.target(height, width)
    if isinstance(image, np.ndarray) or target != (height, width):
        return _encode(resized(pixels, *target), options)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h, w, 3] as uint8 [height, width, 3].

    An axis that shrinks by more than 1.15 is averaged by area, any other is resampled by OpenCV's cubic filter; see
    `images.resized_crop`.
    """
    low, narrow = (new if old > 1.15 * new else old for old, new in zip(pixels.shape[:2], (height, width), strict=True))
    if (low, narrow) != pixels.shape[:2]:
        pixels = cv2.resize(pixels, (narrow, low), interpolation=cv2.INTER_AREA)
    if (low, narrow) != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    return pixels


def _check_pixels(pixels: np.ndarray) -> None:
    height, width = pixels.shape[:2]
    if not pixels.size:
        raise ImageError("empty", detail=f"{width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise ImageError("too large", detail=f"{width} x {height} pixels; at most {MAX_PIXELS:,} are read")


def _resized_jpeg(data: bytes, options: ImageOptions) -> np.ndarray | None:
    """The pixels of a JPEG in the size that they get, if that is another; None where it is not, or libjpeg warns."""
    size = jpeg_shape(data) if options.resize is not None else None
    if size is None or (target := options.target(*size)) == size:
        return None
    try:
        # Halved while it is decoded, as often as that leaves twice what is needed: see `images.training_image`.
        pixels = simplejpeg.decode_jpeg(data, min_height=2 * target[0], min_width=2 * target[1], min_factor=2)
    except ValueError:
        return None
    return resized(pixels, *target)


def _can_be_stored(data: bytes) -> bool:
    """Whether these bytes are a single picture that every reader sees alike."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # MPO is what phones write: a JPEG with a second picture behind it, which decoders of JPEG do not see.
            single = image.format == "MPO" or getattr(image, "n_frames", 1) == 1
            return single and image.format in _STORED_FORMATS and image.mode in _STORED_MODES
    except Exception:  # Pillow raises many kinds for odd metadata around good pixels
        return False


def _encode(pixels: np.ndarray, options: ImageOptions) -> bytes:
    height, width = pixels.shape[:2]
    if max(height, width) > _JPEG_LONGEST:
        raise ImageError("too large", detail=f"{width} x {height} pixels; a JPEG has at most {_JPEG_LONGEST:,} a side")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), options.quality, "RGB", "420", False)
