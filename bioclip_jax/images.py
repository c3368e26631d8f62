"""Photos on the host: decode, crop and resize to uint8. Normalisation happens on the device.

Evaluation gives the very pixels of the reference (OpenCLIP's transform on Pillow 10): horizontal pass first, each
rounded to uint8, whatever Pillow is installed. Training is about speed: JPEG by `simplejpeg`, resizing by OpenCV,
both of which let other threads run. A file that cannot be used raises `ImageError`, whose `reason` is one of a few
fixed words to count by.
"""

from __future__ import annotations

import io
import math
import os
import warnings
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from bioclip_jax.errors import UsageError, UserError

MAX_PIXELS = 89_478_485
"""The largest image read by default, in pixels: Pillow's own limit (a quarter of a GiB as 24-bit RGB)."""

ImageSource = str | os.PathLike[str] | bytes | Image.Image
"""A path, the bytes of a file, or an opened Pillow image."""

Reason = Literal["no such file", "unreadable", "empty", "not an image", "truncated", "corrupt", "too large"]
Geometry = Literal["center_crop", "squash"]
Interpolation = Literal["bicubic", "bilinear"]
Box = tuple[int, int, int, int]
"""(top, left, height, width), in pixels."""

# What photos come in. Pillow would also run PostScript, which no photo needs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "PPM")
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_JPEG_START = b"\xff\xd8"
_PNG_START = b"\x89PNG\r\n\x1a\n"

# `max_pixels` takes the place of Pillow's warning; its error, at twice its limit, remains.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_ADVICE: dict[Reason, str] = {
    "no such file": "check the path",
    "empty": "the file has no bytes",
    "not an image": f"the formats read are {', '.join(_FORMATS)}",
    "truncated": "the file ends early; fetch it again",
    "corrupt": "it cannot be decoded",
}


class ImageError(UserError):
    """An image cannot be used. `reason` is one of the fixed words of `Reason`."""

    def __init__(self, reason: Reason, what: str = "image", detail: str = ""):
        detail = detail or _ADVICE.get(reason, "")
        super().__init__(" ".join(f"{what}: {reason} ({detail})".split()))
        self.reason: Reason = reason
        self._arguments = (reason, what, detail)

    def __reduce__(self) -> tuple[type[ImageError], tuple[Reason, str, str]]:
        return ImageError, self._arguments


def open_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The image in its own mode, fully decoded; of an animation, the first frame.

    EXIF orientation is ignored, as the reference does. Raises `ImageError` for anything that is not a whole image of at
    least one and at most `max_pixels` pixels.
    """
    if isinstance(source, Image.Image):
        return _load(source, str(getattr(source, "filename", "") or "image"), b"", max_pixels)
    what = "image" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except FileNotFoundError:
        raise ImageError("no such file", what) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        raise ImageError("unreadable", what, str(error)) from None
    if not data:
        raise ImageError("empty", what)
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too large", what, f"more than {max_pixels:,} pixels, the most that are read") from None
    except UnidentifiedImageError:
        if data.startswith(_PNG_START) and bytes(4) in (data[16:20], data[20:24]):
            raise ImageError("empty", what, "a width or height of 0 pixels") from None
        if _is_cut_off(data):
            raise ImageError("truncated", what) from None
        known_start = data.startswith((_JPEG_START, _PNG_START))
        raise ImageError("corrupt" if known_start else "not an image", what) from None
    except Exception as error:  # a damaged header makes decoders raise anything
        raise _damaged(error, what, data) from None
    return _load(image, what, data, max_pixels)


def decode(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of an encoded image, uint8 [height, width, 3], RGB; the same as Pillow's `convert("RGB")` of it.

    Transparency is dropped, not composited; 16-bit grey is clipped at 255, as the reference does. Raises `ImageError`.
    """
    if data.startswith(_JPEG_START):
        try:
            height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data)
            if 0 < height * width <= max_pixels and colour_space in ("YCbCr", "Gray", "RGB"):
                return simplejpeg.decode_jpeg(data)
        except ValueError:
            # libjpeg warned. Without `strict` it would fill up a truncated photo with grey; Pillow below tells
            # truncated ones from odd ones.
            pass
    return np.array(_to_rgb(open_image(data, max_pixels=max_pixels)))


def evaluation_image(
    source: ImageSource, size: int, geometry: Geometry = "center_crop", interpolation: Interpolation = "bicubic"
) -> np.ndarray:
    """The image as evaluation sees it: uint8 [size, size, 3], RGB. Raises `ImageError`.

    `center_crop`: the shorter side is resized to `size`, then the centre is cut out (OpenCLIP's evaluation
    transform). The reference converts only RGBA and palette images to RGB before it resizes, all others after; so
    does this. `squash`: `squash` below, rounded to uint8.
    """
    if interpolation not in _RESAMPLING:
        raise UsageError(f"interpolation {interpolation!r}: not one of {', '.join(_RESAMPLING)}")
    if geometry == "squash":
        return np.clip(np.rint(255 * squash(source, size, interpolation)), 0, 255).astype(np.uint8)
    if geometry != "center_crop":
        raise UsageError(f"geometry {geometry!r}: not one of center_crop, squash")
    image = open_image(source)
    if image.mode in ("RGBA", "P", "PA"):
        image = _to_rgb(image)
    width, height, top, left = centre_crop_geometry(image.width, image.height, size)
    if max(width * image.height, size * height) > MAX_PIXELS:
        raise ImageError("too large", detail=f"{image.width} x {image.height} becomes {width} x {height}")
    mode = image.mode
    # Pillow resizes bilevel images by nearest neighbour whatever it is asked, and grey with alpha with the alpha
    # multiplied in.
    resampling = Image.Resampling.NEAREST if mode == "1" else _RESAMPLING[interpolation]
    if mode == "LA":
        image = image.convert("La")
    image = image.resize((width, image.height), resampling).crop((left, 0, left + size, image.height))
    image = image.resize((size, height), resampling).crop((0, top, size, top + size))
    return np.array(image.convert(mode).convert("RGB"))


def squash(source: ImageSource, size: int, interpolation: Interpolation = "bilinear") -> np.ndarray:
    """Height and width both resized to `size`, whatever the aspect ratio: float32 [size, size, 3], RGB.

    In 0..1, but for rounding and bicubic's overshoot. Computed in floating point after conversion to RGB, as pybioclip
    does (bilinear, antialiased). Raises `ImageError`.
    """
    image = _to_rgb(open_image(source))
    if size * max(image.size) > MAX_PIXELS:
        raise ImageError("too large", detail=f"{image.width} x {image.height} squashed to {size}")
    pixels = np.asarray(image, np.float32) / np.float32(255)
    squashed = np.empty((size, size, 3), np.float32)
    for channel in range(3):
        plane = Image.fromarray(pixels[..., channel]).resize((size, image.height), _RESAMPLING[interpolation])
        squashed[..., channel] = np.asarray(plane.resize((size, size), _RESAMPLING[interpolation]))
    return squashed


def centre_crop_geometry(width: int, height: int, size: int) -> tuple[int, int, int, int]:
    """(resized width, resized height, top, left) when the shorter side becomes `size` and the centre is cut out.

    torchvision's rounding: the longer side down, the offset to the nearest even integer.
    """
    shorter, longer = min(width, height), max(width, height)
    longer = int(size * longer / shorter)
    width, height = (size, longer) if width <= height else (longer, size)
    return width, height, round((height - size) / 2), round((width - size) / 2)


def random_resized_crop_box(
    generator: np.random.Generator,
    height: int,
    width: int,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A box (top, left, height, width) with torchvision's `RandomResizedCrop` distribution.

    The area is uniform in `scale` (share of the image), the aspect ratio width / height log-uniform in `ratio`. If
    none of ten draws fits into the image, the largest centred box within `ratio` is taken, which is the whole image
    for a square one.
    """
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        aspect = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(generator.integers(height - box_height + 1))
            left = int(generator.integers(width - box_width + 1))
            return top, left, box_height, box_width
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def resized_crop(image: np.ndarray, box: Box, size: int) -> np.ndarray:
    """The part `box` of `image` (uint8 [height, width, 3]) as uint8 [size, size, 3], for training.

    OpenCV's cubic filter does not widen when it shrinks, so an axis that shrinks by more than 1.15 is averaged by
    area instead: from there on that is the closer to Pillow's antialiased bicubic (on photos 2 to 3 grey levels root
    mean square; cubic alone reaches 8 at 2:1).
    """
    top, left, height, width = box
    part = image[top : top + height, left : left + width]
    narrow, low = (size if length > 1.15 * size else length for length in (width, height))
    if (low, narrow) != (height, width):
        part = cv2.resize(part, (narrow, low), interpolation=cv2.INTER_AREA)
    if (low, narrow) != (size, size):
        part = cv2.resize(part, (size, size), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(part)


def _load(image: Image.Image, what: str, data: bytes, max_pixels: int) -> Image.Image:
    if 0 in image.size:
        raise ImageError("empty", what, f"{image.width} x {image.height} pixels")
    if image.width * image.height > max_pixels:
        raise ImageError("too large", what, f"{image.width} x {image.height} pixels; at most {max_pixels:,} are read")
    try:
        image.load()
    except Exception as error:  # so do damaged data
        raise _damaged(error, what, data) from None
    return image


def _damaged(error: Exception, what: str, data: bytes) -> ImageError:
    if _is_cut_off(data) or "truncated" in str(error).lower():
        return ImageError("truncated", what)
    return ImageError("corrupt", what, str(error) or type(error).__name__)


def _is_cut_off(data: bytes) -> bool:
    """Whether a file that could not be decoded lacks the end that its format has."""
    tail = data[-2048:]
    if data.startswith(_JPEG_START):
        return b"\xff\xd9" not in tail
    if data.startswith(_PNG_START):
        return b"IEND" not in tail
    if data.startswith(b"RIFF"):
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return data.startswith(b"GIF8") and not data.endswith(b";")


def _to_rgb(image: Image.Image) -> Image.Image:
    # By way of RGBA, a palette with transparent entries gives the same colours without a warning.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
