"""Photos on the host: decode, crop and resize to uint8. Normalisation happens on the device.

Evaluation gives the very pixels of the reference (OpenCLIP's transform on Pillow 10): horizontal pass first, each
rounded to uint8, whatever Pillow is installed. Training is about speed: JPEG by `simplejpeg`, resizing by OpenCV,
both of which let other threads run. A file that cannot be used raises `ImageError`, whose `reason` is one of a few
fixed words to count by.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import threading
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

from bioclip_jax.errors import UsageError, UserError

MAX_PIXELS = 89_478_485
"""The largest image read by default, in pixels: Pillow's own limit (a quarter of a GiB as 24-bit RGB)."""
MAX_FILE_BYTES = 2**30
"""The largest file read: more than the largest image would need without any compression."""
_MOST_SCRATCH = 2**22  # pixels; 12 MB a thread
_THREAD = threading.local()
_MAX_SCANNED = 20 * MAX_PIXELS  # pixels times scans: a small progressive JPEG of many scans would take minutes

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
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")  # those within a scan stand for nothing or a restart
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
        if not isinstance(source, bytes) and Path(source).stat().st_size > MAX_FILE_BYTES:
            raise ImageError("too large", what, f"a file of more than {MAX_FILE_BYTES:,} bytes")
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


def decode(data: bytes | np.ndarray, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The pixels of an encoded image, uint8 [height, width, 3], RGB; the same as Pillow's `convert("RGB")` of it.

    Transparency is dropped, not composited; 16-bit grey is clipped at 255, as the reference does. What is pixels
    already is looked at and returned. Raises `ImageError`.
    """
    if isinstance(data, np.ndarray):
        if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or not data.size:
            raise ImageError("corrupt", detail=f"pixels are {data.dtype} {data.shape}, not uint8 [height, width, 3]")
        return data
    if jpeg_shape(data, max_pixels) is not None:
        # Where libjpeg warns, Pillow tells truncated photos from odd ones. Without `strict` it would fill up with grey.
        with contextlib.suppress(ValueError):
            return simplejpeg.decode_jpeg(data)
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


CROP_DRAWS = 22
"""Random numbers that a crop takes: ten pairs of area and aspect, and its place."""


def random_resized_crop_box(
    draws: Sequence[float],
    height: int,
    width: int,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """A box (top, left, height, width) with torchvision's `RandomResizedCrop` distribution.

    The area is uniform in `scale` (share of the image), the aspect ratio width / height log-uniform in `ratio`. If
    none of ten draws fits into the image, the largest centred box within `ratio` is taken, which is the whole image
    for a square one.

    Args:
      draws: `CROP_DRAWS` random numbers in [0, 1).
      height: of the image, in pixels, as is `width`.
      width: of the image.
      scale: least and greatest area.
      ratio: least and greatest width / height.
    """
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for area_draw, aspect_draw in zip(draws[0:20:2], draws[1:20:2], strict=True):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_draw)
        aspect = math.exp(low + (high - low) * aspect_draw)
        box_width, box_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(draws[20] * (height - box_height + 1))
            left = int(draws[21] * (width - box_width + 1))
            return top, left, box_height, box_width
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = round(width / ratio[0])
    elif width / height > ratio[1]:
        box_width = round(height * ratio[1])
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def training_image(
    image: bytes | np.ndarray,
    draws: Sequence[float],
    out: np.ndarray,
    scale: tuple[float, float] = (0.9, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> None:
    """Decodes, crops at random and resizes in one go, into `out`: uint8 [size, size, 3], RGB.

    A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that leaves the crop at least twice as large as `out`:
    libjpeg scales in the frequency domain, which is quicker and almost as good as averaging. It moves the crop by at
    most a quarter of a pixel of `out`.

    Args:
      image: encoded, or pixels: uint8 [height, width, 3], RGB.
      draws: `CROP_DRAWS` random numbers in [0, 1); the crop is a function of these and of the image's size.
      out: where the pixels go, contiguous.
      scale: of `random_resized_crop_box`, as is `ratio`.
      ratio: least and greatest width / height.

    Raises:
      ImageError: it cannot be used.
    """
    size = out.shape[0]
    shape = jpeg_shape(image) if isinstance(image, bytes) else None
    if shape is None or isinstance(image, np.ndarray):
        pixels = decode(image)
        box = random_resized_crop_box(draws, pixels.shape[0], pixels.shape[1], scale, ratio)
    else:
        height, width = shape
        box = random_resized_crop_box(draws, height, width, scale, ratio)
        least = math.ceil(2 * height * size / box[2]), math.ceil(2 * width * size / box[3])
        pixels = _decode_scaled(image, height * width, *least)
        if pixels.shape[:2] != shape:
            box = _scaled_box(box, shape, pixels.shape[:2])
    resized_crop(pixels, box, size, out)


def resized_crop(image: np.ndarray, box: Box, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """The part `box` of `image` (uint8 [height, width, 3]) as uint8 [size, size, 3], for training; in `out`, if given.

    OpenCV's cubic filter does not widen when it shrinks, so an axis that shrinks by more than 1.15 is averaged by
    area instead: from there on that is the closer to Pillow's antialiased bicubic (on photos 2 to 3 grey levels root
    mean square; cubic alone reaches 8 at 2:1).
    """
    top, left, height, width = box
    part = image[top : top + height, left : left + width]
    narrow, low = (size if length > 1.15 * size else length for length in (width, height))
    if (low, narrow) != (height, width):
        part = cv2.resize(part, (narrow, low), interpolation=cv2.INTER_AREA)
    out = np.empty((size, size, 3), np.uint8) if out is None else out
    if (low, narrow) != (size, size):
        cv2.resize(part, (size, size), dst=out, interpolation=cv2.INTER_CUBIC)
    else:
        out[...] = part
    return out


def jpeg_shape(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int] | None:
    """(height, width) of a JPEG that `simplejpeg` decodes to the pixels that Pillow gives; else None."""
    if data.startswith(_JPEG_START):
        try:
            height, width, colour_space, _ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return None
        usable = 0 < height * width <= max_pixels and not _has_too_many_scans(data, height * width)
        if usable and colour_space in ("YCbCr", "Gray", "RGB"):
            return height, width
    return None


def _scans(data: bytes) -> int:
    """How many scans a JPEG has, up to its end; thumbnails inside it and what lies behind it do not count."""
    place, scans = 2, 0
    while (marker := _JPEG_MARKER.search(data, place)) and data[marker.end() - 1] != 0xD9:
        scans += data[marker.end() - 1] == 0xDA
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans


def _has_too_many_scans(data: bytes, pixels: int) -> bool:
    # A scan takes at least ten bytes, so that small files need not be searched.
    return pixels * len(data) > 10 * _MAX_SCANNED and pixels * _scans(data) > _MAX_SCANNED


def _decode_scaled(data: bytes, pixels: int, least_height: int, least_width: int) -> np.ndarray:
    """The pixels of a JPEG, at the smallest of 1, 1/2, 1/4, 1/8 of its size that is not below these.

    They may lie in memory that the next call in this thread uses again.
    """
    try:
        return simplejpeg.decode_jpeg(
            data, min_height=least_height, min_width=least_width, min_factor=2, buffer=_scratch(pixels)
        )
    except ValueError:  # see `decode`
        return decode(data)


def _scratch(pixels: int) -> np.ndarray | None:
    """Memory of this thread for a decoded photo; getting it anew each time would cost a third of the decoding."""
    if pixels > _MOST_SCRATCH:
        return None
    found: np.ndarray | None = getattr(_THREAD, "scratch", None)
    if found is None or found.size < 3 * pixels:
        found = _THREAD.scratch = np.empty(3 * pixels, np.uint8)
    return found


def _scaled_box(box: Box, before: tuple[int, int], after: tuple[int, ...]) -> Box:
    """The box at the scale of an image that was decoded smaller."""
    (height, width), (low, narrow) = before, after[:2]
    top, left = round(box[0] * low / height), round(box[1] * narrow / width)
    return (
        top,
        left,
        max(1, min(low - top, round(box[2] * low / height))),
        max(1, min(narrow - left, round(box[3] * narrow / width))),
    )


def _load(image: Image.Image, what: str, data: bytes, max_pixels: int) -> Image.Image:
    if 0 in image.size:
        raise ImageError("empty", what, f"{image.width} x {image.height} pixels")
    if image.width * image.height > max_pixels:
        raise ImageError("too large", what, f"{image.width} x {image.height} pixels; at most {max_pixels:,} are read")
    if image.format in ("JPEG", "MPO") and _has_too_many_scans(data, image.width * image.height):
        raise ImageError("too large", what, f"{image.width} x {image.height} pixels in {_scans(data)} scans")
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
