"""One record as a `tf.train.Example`, and one shard as an ArrayRecord file that appears whole or not at all.

The directory is one that TFDS opens without TensorFlow (`tfds.builder_from_directory(DIR).as_data_source("train")`,
which decodes the images); our own reader takes the encoded bytes. Files are 'group_size:1,uncompressed': every record
can be read by itself, and JPEG does not compress. The same records give the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.manifest import ShardFile
from bioclip_jax.pipeline.record import OPTIONAL_NUMBER_FIELDS, OPTIONAL_TEXT_FIELDS, REQUIRED_TEXT_FIELDS, Record

WRITER_OPTIONS = "group_size:1,uncompressed"
TEXT_FIELDS = REQUIRED_TEXT_FIELDS + OPTIONAL_TEXT_FIELDS
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
# protobuf sorts the keys of a map; where one begins with the other, the longer comes first.
_WIRE_ORDER = tuple(sorted(("image", *TEXT_FIELDS, *OPTIONAL_NUMBER_FIELDS), key=lambda name: name.encode() + b"\xff"))


def encode_example(record: Record) -> bytes:
    """Serialises a record with every field of the schema ('' and NaN where it has none); other fields are left out.

    The bytes are those of protobuf's own deterministic serialisation of the `tf.train.Example`, at a third of its time.

    Raises:
      UnicodeEncodeError: a text holds half of a surrogate pair.
    """
    parts = [b""]
    for name in _WIRE_ORDER:
        if name == "image":
            value = record["image"]
            parts.append(_head.__wrapped__(name, len(value)))
        elif name in OPTIONAL_NUMBER_FIELDS:
            parts.append(_number_head(name))
            value = _float32(record.get(name, math.nan))
        else:
            value = record.get(name, "").encode()
            parts.append(_head(name, len(value)))
        parts.append(value)
    parts[0] = b"\n" + _varint(sum(map(len, parts)))
    return b"".join(parts)


def decode_example(data: bytes) -> Record:
    """The inverse of `encode_example`: every field of the schema; what the schema does not know is ignored.

    Raises:
      ValueError: not a `tf.train.Example`.
    """
    feature = parse_example(data).features.feature  # asking by name is twice as fast as iterating
    record: Record = {}
    for name in TEXT_FIELDS:
        texts = feature[name].bytes_list.value
        record[name] = texts[0].decode("utf-8", "replace") if texts else ""
    for name in OPTIONAL_NUMBER_FIELDS:
        numbers = feature[name].float_list.value
        record[name] = numbers[0] if numbers else math.nan
    images = feature["image"].bytes_list.value
    record["image"] = images[0] if images else b""
    return record


def parse_example(data: bytes) -> tf_example_pb2.Example:
    """A `tf.train.Example` from its bytes; raises `ValueError` where it is none."""
    try:
        return tf_example_pb2.Example.FromString(data)
    except Exception as error:  # protobuf's own class of errors is not worth a dependency
        raise ValueError(str(error)) from error


def shard_name(name: str, split: str, index: int, count: int) -> str:
    """The file name that TFDS expects, such as 'organisms-train.array_record-00000-of-00003'."""
    return f"{name}-{split}.array_record-{index:05d}-of-{count:05d}"


def check_name(what: str, name: str) -> None:
    """Raises `UsageError` unless TFDS takes this as the name of a dataset or split."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{what} {name!r} must be a letter followed by letters, digits and underscores")
    if what == "split" and name == "all":
        raise UsageError("split 'all' is reserved (it stands for every split together); choose another name")


class ShardWriter:
    """Writes one shard under a temporary name; `finish` moves it to its own. Left without `finish`, it leaves nothing.

    Args:
      path: where the shard will be.
      temporary: where it is written, on the same file system.

    Raises:
      UserError: the file cannot be written, a full disk for example.
    """

    def __init__(self, path: Path, temporary: Path):
        self._path, self._temporary = path, temporary
        self._records = 0
        try:
            self._writer = ArrayRecordWriter(str(temporary), WRITER_OPTIONS)
        except RuntimeError as error:
            raise self._failure(error) from error

    def write(self, example: bytes) -> None:
        """Appends one serialised record."""
        try:
            self._writer.write(example)
        except RuntimeError as error:
            raise self._failure(error) from error
        self._records += 1

    def finish(self) -> ShardFile:
        """Closes the file, makes sure that it is on disk, and gives it its name."""
        try:
            self._writer.close()
            with self._temporary.open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
            self._temporary.replace(self._path)
        except (RuntimeError, OSError) as error:
            raise self._failure(error) from error
        return ShardFile(self._path.name, self._records, size, digest)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            try:
                if self._writer.is_open():
                    self._writer.close()
            except RuntimeError:
                pass  # what went wrong is already on its way up
            self._temporary.unlink(missing_ok=True)

    def _failure(self, error: Exception) -> UserError:
        reason = str(error).split(";", 1)[0].removeprefix("write() failed: ")
        return UserError(f"shard {self._path} could not be written: {reason}; finished shards are kept")


def write_tfds_metadata(
    directory: Path, name: str, splits: Mapping[str, Sequence[ShardFile]], about: About | None = None
) -> None:
    """Writes `dataset_info.json` and `features.json`, without TensorFlow; and `LICENSE`, if `about` names one."""
    about = about or About()
    text = {field: tfds.features.Text() for field in TEXT_FIELDS}
    numbers = {field: tfds.features.Scalar(np.float32) for field in OPTIONAL_NUMBER_FIELDS}
    features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(None, None, 3)), **text, **numbers})
    template = tfds.core.ShardedFileTemplate(data_dir=directory, dataset_name=name, filetype_suffix="array_record")
    infos = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[file.records for file in files],
            num_bytes=sum(file.bytes for file in files),
            filename_template=template.replace(split=split),
        )
        for split, files in splits.items()
    ]
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        split_infos=infos,
        check_data=False,
        # TFDS wants three numbers; what a publisher calls a version stands in the description.
        version=about.version if tfds.core.Version.is_valid(about.version) else "1.0.0",
        description=_description(about),
        homepage=about.homepage or None,
        citation=about.citation or None,
        license=about.license or None,
    )


def _description(about: About) -> str:
    description = about.description or "Photographs of organisms and their place in the tree of life."
    version = about.version if not tfds.core.Version.is_valid(about.version) else ""
    return f"{description}\n\nVersion {version}" if version else description


def _varint(number: int) -> bytes:
    """Protobuf's variable-length integer: seven bits a byte, the lowest first."""
    parts = []
    while number >= 128:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes((*parts, number))


def _field(tag: bytes, payload: bytes, more: int = 0) -> bytes:
    """A length-delimited field whose payload goes on for `more` bytes that are written by others."""
    return tag + _varint(len(payload) + more) + payload


@functools.lru_cache(maxsize=1 << 14)
def _head(name: str, size: int) -> bytes:
    """What stands before the `size` bytes of a value: `Features.feature[name].bytes_list.value[0]`."""
    feature = _field(b"\x12", _field(b"\n", _field(b"\n", b"", size), size), size)
    return _field(b"\n", _field(b"\n", name.encode()) + feature, size)


@functools.lru_cache
def _number_head(name: str) -> bytes:
    """What stands before the four bytes of `Features.feature[name].float_list.value[0]`."""
    feature = _field(b"\x12", _field(b"\x12", _field(b"\n", b"", 4), 4), 4)
    return _field(b"\n", _field(b"\n", name.encode()) + feature, 4)


def _float32(value: float) -> bytes:
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", math.copysign(math.inf, value))
