"""One record as a `tf.train.Example`, and one shard as an ArrayRecord file that appears whole or not at all.

The directory is one that TFDS opens without TensorFlow (`tfds.builder_from_directory(DIR).as_data_source("train")`,
which decodes the images); our own reader takes the encoded bytes. Files are 'group_size:1,uncompressed': every record
can be read by itself, and JPEG does not compress. The same records give the same bytes.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.manifest import ShardFile
from bioclip_jax.pipeline.record import OPTIONAL_NUMBER_FIELDS, OPTIONAL_TEXT_FIELDS, REQUIRED_TEXT_FIELDS, Record

WRITER_OPTIONS = "group_size:1,uncompressed"
TEXT_FIELDS = REQUIRED_TEXT_FIELDS + OPTIONAL_TEXT_FIELDS
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")


def encode_example(record: Record) -> bytes:
    """Serialises a record with every field of the schema ('' and NaN where it has none); other fields are left out.

    Raises:
      UnicodeEncodeError: a text holds half of a surrogate pair.
    """
    example = tf_example_pb2.Example()
    feature = example.features.feature
    feature["image"].bytes_list.value.append(record["image"])
    for name in TEXT_FIELDS:
        feature[name].bytes_list.value.append(record.get(name, "").encode())
    for name in OPTIONAL_NUMBER_FIELDS:
        feature[name].float_list.value.append(record.get(name, math.nan))
    return example.SerializeToString(deterministic=True)


def decode_example(data: bytes) -> Record:
    """The inverse of `encode_example`: every field of the schema; what the schema does not know is ignored.

    Raises:
      google.protobuf.message.DecodeError: not a `tf.train.Example`.
    """
    feature = tf_example_pb2.Example.FromString(data).features.feature  # asking by name is twice as fast as iterating
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


def write_tfds_metadata(directory: Path, name: str, splits: Mapping[str, Sequence[ShardFile]]) -> None:
    """Writes `dataset_info.json` and `features.json`, without TensorFlow."""
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
        description="Photographs of organisms and their place in the tree of life.",
    )
