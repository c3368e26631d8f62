"""What a build does to one record: look whether it is usable, and serialise it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.images import ImageError
from bioclip_jax.pipeline.build_images import ImageOptions, look, storable_image
from bioclip_jax.pipeline.record import OPTIONAL_NUMBER_FIELDS, BadRecord, Record, RecordSource
from bioclip_jax.pipeline.shards import TEXT_FIELDS, encode_example
from bioclip_jax.pipeline.tar_samples import key_hash
from bioclip_jax.text.taxonomy import RANKS, Taxon

_NAMES = (*RANKS, "scientific_name", "common_name")
COLLIDES = "collides with an evaluation image"
Result = TypeVar("Result")


class EvaluationImages(Protocol):
    """What is compared with, such as `collisions.Collisions`."""

    needs_pdq: bool

    def find(self, md5: bytes, pdq: bytes | None) -> str:
        """The evaluation image that collides with this one; '' if none does."""


@dataclass(frozen=True)
class Prepared:
    """A usable record: the bytes that a shard takes, and what its captions are made of."""

    example: bytes
    taxon: Taxon
    caption: str


class Seen(NamedTuple):
    """What the first pass of a build keeps of a usable record.

    Attributes:
      as_is: its image goes into the shard untouched.
      example_bytes: in the shard, if its image is not encoded again; without the image otherwise.
      md5: of the image, 16 bytes; `b""` if not asked for.
      key_hash: `tar_samples.key_hash`.
    """

    key: str
    taxon: Taxon
    as_is: bool
    example_bytes: int
    md5: bytes
    key_hash: int


@dataclass(frozen=True)
class Rejected:
    """A record that is left out: a short `reason`, the same for all records like it, and the `detail` of this one."""

    key: str
    reason: str
    detail: str


def prepare(
    source: RecordSource,
    index: int,
    options: ImageOptions | None = None,
    *,
    changes: Mapping[Taxon, Taxon] | None = None,
    as_is: bool = False,
) -> Prepared | Rejected:
    """Reads, checks and serialises one record.

    Args:
      source: of one split.
      index: from 0.
      options: what is done to its image.
      changes: taxa that are replaced by others.
      as_is: its image was looked at before, and goes into the shard untouched.

    Raises:
      UserError: the source itself failed, which is a fault of the recipe rather than of the record.
    """

    def use(record: Record, taxon: Taxon) -> Prepared:
        image = record["image"]
        if not (as_is and isinstance(image, bytes)):
            record["image"] = storable_image(image, options)
        if changes and (changed := changes.get(taxon)) is not None:
            taxon = changed
            record.update(zip(_NAMES, (*taxon.ranks, taxon.scientific_name, taxon.common_name), strict=True))
        return Prepared(encode_example(record), taxon, record["caption"])

    return _used(source, index, use)


def scan(
    source: RecordSource,
    index: int,
    options: ImageOptions,
    *,
    hashes: bool = False,
    evaluation: EvaluationImages | None = None,
) -> Seen | Rejected:
    """Reads and checks one record, for a build that has to know all records before it writes the first.

    Args:
      source: of one split.
      index: from 0.
      options: what will be done to its image.
      hashes: compute the MD5 of its image, and the hash of its key.
      evaluation: records that collide with one of these are rejected.

    Raises:
      UserError: as `prepare`.
    """
    needs_pdq = evaluation is not None and evaluation.needs_pdq

    def use(record: Record, taxon: Taxon) -> Seen | Rejected:
        image, key = record["image"], record["key"]
        as_is, pixels = look(image, options, pixels=needs_pdq)
        md5 = _md5(image) if hashes or evaluation is not None else b""
        if evaluation is not None:
            if needs_pdq and pixels is not None:
                from bioclip_jax.pipeline.pdq import pdq_hash

                found = evaluation.find(md5, pdq_hash(pixels))
            else:
                found = evaluation.find(md5, None)
            if found:
                return Rejected(key, COLLIDES, found)
        if not as_is:
            record["image"] = b""
        size = len(encode_example(record))
        return Seen(key, taxon, as_is, size, md5, key_hash(key.encode()) if hashes else 0)

    return _used(source, index, use)


def checked_record(record: Record) -> Record:
    """The fields of the schema, each of its type; '' and NaN where the record has none.

    Raises:
      BadRecord: no key, no image, neither a name at any rank nor a caption, or a value of the wrong type.
    """
    return _checked(record)[0]


def _used(source: RecordSource, index: int, use: Callable[[Record, Taxon], Result]) -> Result | Rejected:
    """What `use` makes of a record and its taxon, or why the record cannot be used."""
    try:
        record = source[index]
    except BadRecord as bad:
        return _rejected(bad.key, bad)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"record {index}: the source raised {type(error).__name__}: {error}") from error
    key = str(record.get("key", ""))
    try:
        return use(*_checked(record))
    except BadRecord as bad:
        return _rejected(key, bad)
    except ImageError as error:
        return Rejected(key, f"image {error.reason}", str(error))
    except UnicodeEncodeError as error:
        return Rejected(key.encode(errors="replace").decode(), "text is not Unicode", str(error.reason))


def _rejected(key: str, bad: BadRecord) -> Rejected:
    reason, _, detail = bad.reason.partition(": ")
    return Rejected(key, reason, detail)


def _checked(record: Record) -> tuple[Record, Taxon]:
    checked: Record = {name: _text(record, name) for name in TEXT_FIELDS}
    for name in OPTIONAL_NUMBER_FIELDS:
        checked[name] = _number(record, name)
    key, image = checked["key"], record.get("image")
    if not key:
        raise BadRecord("", "no key")
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            shape = " x ".join(map(str, image.shape))
            raise BadRecord(key, f"image is not uint8 [height, width, 3]: {image.dtype} {shape}")
    elif not isinstance(image, bytes):
        raise BadRecord(key, f"image is not bytes: {type(image).__name__}")
    checked["image"] = image
    names = [checked[name] for name in _NAMES]
    if not any(names) and not checked["caption"]:
        raise BadRecord(key, "no name at any rank")
    return checked, Taxon(*names)


def _md5(image: bytes | np.ndarray) -> bytes:
    if isinstance(image, np.ndarray):
        digest = hashlib.md5(repr(image.shape).encode(), usedforsecurity=False)
        digest.update(np.ascontiguousarray(image).data)
        return digest.digest()
    return hashlib.md5(image, usedforsecurity=False).digest()


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
