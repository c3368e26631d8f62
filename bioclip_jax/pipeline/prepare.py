"""What a build does to one record: look whether it is usable, decode its image once, and serialise it."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

from PIL import Image

from bioclip_jax.errors import UserError
from bioclip_jax.images import ImageError, decode
from bioclip_jax.pipeline.record import OPTIONAL_NUMBER_FIELDS, BadRecord, Record, RecordSource
from bioclip_jax.pipeline.shards import TEXT_FIELDS, encode_example
from bioclip_jax.text.taxonomy import Taxon

_STORED_FORMATS = {"JPEG", "MPO", "PNG", "WEBP"}
_STORED_MODES = {"RGB", "L"}


@dataclass(frozen=True)
class Prepared:
    """A usable record: the bytes that a shard takes, and what its captions are made of."""

    example: bytes
    taxon: Taxon
    caption: str


@dataclass(frozen=True)
class Rejected:
    """A record that is left out: a short `reason`, the same for all records like it, and the `detail` of this one."""

    key: str
    reason: str
    detail: str


def prepare(source: RecordSource, index: int, image_size: int | None = None) -> Prepared | Rejected:
    """Reads, checks and serialises one record.

    Args:
      source: of one split.
      index: from 0.
      image_size: if given, an image whose shorter side has more pixels than this is shrunk to it (JPEG, quality 95).

    Raises:
      UserError: the source itself failed, which is a fault of the recipe rather than of the record.
    """
    try:
        record = source[index]
    except BadRecord as bad:
        reason, _, detail = bad.reason.partition(": ")
        return Rejected(bad.key, reason, detail)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"record {index}: the source raised {type(error).__name__}: {error}") from error
    key = str(record.get("key", ""))
    try:
        checked = checked_record(record)
        image = storable_image(checked["image"], image_size)
        example = encode_example({**checked, "image": image})
    except BadRecord as bad:
        reason, _, detail = bad.reason.partition(": ")
        return Rejected(key, reason, detail)
    except ImageError as error:
        return Rejected(key, f"image {error.reason}", str(error))
    except UnicodeEncodeError as error:
        return Rejected(key.encode(errors="replace").decode(), "text is not Unicode", str(error.reason))
    return Prepared(example, Taxon.from_record(checked), checked["caption"])


def checked_record(record: Record) -> Record:
    """The fields of the schema, each of its type; '' and NaN where the record has none.

    Raises:
      BadRecord: no key, no image, neither a name at any rank nor a caption, or a value of the wrong type.
    """
    checked: Record = {name: _text(record, name) for name in TEXT_FIELDS}
    checked |= {name: _number(record, name) for name in OPTIONAL_NUMBER_FIELDS}
    key = checked["key"]
    if not key:
        raise BadRecord("", "no key")
    image = record.get("image")
    if not isinstance(image, bytes):
        raise BadRecord(key, f"image is not bytes: {type(image).__name__}")
    if Taxon.from_record(checked) == Taxon() and not checked["caption"]:
        raise BadRecord(key, "no name at any rank")
    return {**checked, "image": image}


def storable_image(data: bytes, image_size: int | None = None) -> bytes:
    """The bytes to store for an image, after it has been decoded to see that this works.

    RGB and grey JPEG, PNG and WebP stay as they are, byte for byte. Anything else (other formats, CMYK, palette, alpha,
    16 bit, animations) becomes a PNG of the pixels that `images.decode` gives: every reader sees the same picture.

    Raises:
      ImageError: it cannot be decoded.
    """
    pixels = decode(data)
    height, width = pixels.shape[:2]
    buffer = io.BytesIO()
    if image_size is not None and min(height, width) > image_size:
        scale = image_size / min(height, width)
        size = (max(image_size, round(width * scale)), max(image_size, round(height * scale)))
        Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()
    if _can_be_stored(data):
        return data
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _can_be_stored(data: bytes) -> bool:
    """Whether these bytes are a single picture that every reader sees alike."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            # MPO is what phones write: a JPEG with a second picture behind it, which decoders of JPEG do not see.
            single = image.format == "MPO" or getattr(image, "n_frames", 1) == 1
            return single and image.format in _STORED_FORMATS and image.mode in _STORED_MODES
    except Exception:  # Pillow raises many kinds for odd metadata around good pixels
        return False


def _text(record: Record, name: str) -> str:
    value: Any = record.get(name, "")
    if not isinstance(value, str):
        raise BadRecord(str(record.get("key", "")), f"{name} is not text: {value!r:.80}")
    return value


def _number(record: Record, name: str) -> float:
    value: Any = record.get(name, math.nan)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadRecord(str(record.get("key", "")), f"{name} is not a number: {value!r:.80}") from None
