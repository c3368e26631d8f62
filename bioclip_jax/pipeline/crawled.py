"""Images that were crawled already, by place: Parquet files of raw pixels, or plain image files.

Parquet is what distributed-downloader writes (Imageomics): one row per image, `image` as raw BGR bytes of
`resized_size` [height, width]. Such a file cannot be read at any row by itself, for rows are compressed together, so
images are best read in order. Names found in data never become paths.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet

from bioclip_jax.errors import UserError
from bioclip_jax.images import MAX_PIXELS
from bioclip_jax.pipeline.photo_table import read_image
from bioclip_jax.pipeline.record import BadRecord

IMAGE_COLUMNS = ("uuid", "image", "resized_size")
"""What makes a Parquet file one of images."""
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CACHE_BYTES = 1 << 30
_ROWS = 32  # of a block: up to 50 MB of pixels where the longer side has 720
_CURSORS = 2  # each holds a page, which may be a thousand images
_BUFFER = 1 << 20  # else the whole column of a row group would be read at once
_UUID = re.compile(r"[0-9a-f]{32}")


class Crawled(NamedTuple):
    """An image and its key.

    Attributes:
      image: uint8 [height, width, 3], RGB; or the bytes of an image file.
      original_size: (height, width) before the crawler made it smaller, where it says so.
    """

    key: str
    image: np.ndarray | bytes
    original_size: tuple[int, int] | None


class Images(Protocol):
    """Images by place. `read` may raise `BadRecord`."""

    def read(self, file: int, row: int) -> Crawled:
        """The image at `row` of file number `file`."""


@dataclass(frozen=True)
class CrawlFile:
    """A Parquet file of images as it was indexed; `name` is relative to the folder of the crawl."""

    name: str
    size: int
    mtime_ns: int
    rows: int


def canonical_key(text: str) -> str:
    """A uuid in lower case with its dashes, however it was written; any other key as it is, without white space."""
    key = text.strip()
    digits = key.replace("-", "").lower()
    if not _UUID.fullmatch(digits):
        return key
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class ImageFiles:
    """Image files below a folder, each called by its key; one `file` whose rows are the image files.

    Args:
      root: the folder.
      names: of the files, relative to it.
    """

    def __init__(self, root: Path, names: pa.Array):
        self._root, self._names = root, names

    def read(self, file: int, row: int) -> Crawled:
        """The bytes of an image file; raises `BadRecord` if it cannot be read."""
        name = self._names[row].as_py()
        key = key_of_file(name)
        return Crawled(key, read_image(self._root, name, key), None)


def find_files(root: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The files below a folder with one of these endings, by name, relative to it; hidden ones are left out.

    Raises:
      UserError: a folder in it cannot be read, or a name is not UTF-8.
    """

    def failed(error: OSError) -> None:
        raise UserError(f"folder {error.filename} cannot be read: {error.strerror}") from error

    found = []
    for folder, folders, names in os.walk(root, onerror=failed):
        folders[:] = [name for name in folders if not name.startswith(".")]
        here = Path(folder).relative_to(root)
        found += [str(here / n) for n in names if n.lower().endswith(suffixes) and not n.startswith(".")]
    for name in found:
        if not name.isascii() and name.encode(errors="replace").decode() != name:
            raise UserError(f"folder {root} holds a file whose name is not UTF-8: {name!a}; rename it")
    return sorted(found)


def key_of_file(name: str) -> str:
    """The key that an image file is called by."""
    return canonical_key(Path(name).stem)


class ParquetImages:
    """The images of Parquet files; safe to use from many threads, and can be pickled.

    Blocks of a few rows are kept, the last ones used, up to `cache_bytes`. A block that lies further on in a row group
    is reached by decoding what lies before it, so that reading in order decodes everything once.

    Args:
      root: the folder of the crawl.
      files: in it.
      cache_bytes: of decoded blocks that are kept; one block is kept in any case.
    """

    def __init__(self, root: Path, files: Sequence[CrawlFile], cache_bytes: int = CACHE_BYTES):
        self._root, self._files, self._cache_bytes = root, tuple(files), cache_bytes
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._blocks: OrderedDict[tuple[int, int, int], pa.RecordBatch] = OrderedDict()
        self._held = 0
        self._cursors: OrderedDict[tuple[int, int], _Cursor] = OrderedDict()
        self._damage: dict[tuple[int, int], tuple[int, str]] = {}
        self._row_groups: OrderedDict[int, list[int]] = OrderedDict()

    def read(self, file: int, row: int) -> Crawled:
        """The image at `row` of file number `file`, decoded.

        Raises:
          BadRecord: the row holds no whole image, or the file is damaged there.
          UserError: the file is gone or has changed.
        """
        with self._lock:
            ends = self._group_ends(file)
            group = int(np.searchsorted(ends, row, side="right"))
            block, place = divmod(row - (ends[group - 1] if group else 0), _ROWS)
            batch = self._block(file, group, block, row)
        key, image, size = (batch.column(name)[place] for name in IMAGE_COLUMNS)
        name = canonical_key(str(key.as_py() or "")) or f"{self._files[file].name} row {row}"
        original = batch.column("original_size")[place].as_py() if "original_size" in batch.schema.names else None
        return Crawled(name, pixels(name, image.as_buffer(), size.as_py()), _size(original))

    def _block(self, file: int, group: int, block: int, row: int) -> pa.RecordBatch:
        key = file, group, block
        if key in self._blocks:
            self._blocks.move_to_end(key)
            return self._blocks[key]
        first_bad, reason = self._damage.get((file, group), (block + 1, ""))
        if block >= first_bad:
            raise BadRecord(f"{self._files[file].name} row {row}", f"damaged Parquet file: {reason}")
        cursor = self._cursors.pop((file, group), None)
        if cursor is None or cursor.block > block:
            cursor = _Cursor(self._root / self._files[file].name, group)
        while cursor.block <= block:
            here = cursor.block
            try:
                batch = cursor.advance()
            except FileNotFoundError:
                raise UserError(f"{self._root / self._files[file].name}: no such file; it was there before") from None
            except (pa.ArrowException, OSError, StopIteration) as error:
                reason = next(iter(str(error).splitlines()), "it ends early")
                self._damage[file, group] = here, reason
                raise BadRecord(f"{self._files[file].name} row {row}", f"damaged Parquet file: {reason}") from None
            self._keep((file, group, here), batch)
        self._cursors[file, group] = cursor
        while len(self._cursors) > _CURSORS:
            self._cursors.popitem(last=False)
        return batch

    def _keep(self, key: tuple[int, int, int], batch: pa.RecordBatch) -> None:
        if key not in self._blocks:
            self._blocks[key] = batch
            self._held += batch.nbytes
        while self._held > self._cache_bytes and len(self._blocks) > 1:
            self._held -= self._blocks.popitem(last=False)[1].nbytes

    def _group_ends(self, file: int) -> list[int]:
        """The row behind each row group of a file."""
        if file not in self._row_groups:
            known = self._files[file]
            path = self._root / known.name
            try:
                status = path.stat()
                if (status.st_size, status.st_mtime_ns) != (known.size, known.mtime_ns):
                    raise UserError(f"{path} was changed after it was indexed; start again")
                metadata = pyarrow.parquet.read_metadata(path)
            except (pa.ArrowException, OSError) as error:
                reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "")
                raise UserError(f"{path} cannot be read: {reason}") from error
            counts = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            self._row_groups[file] = list(accumulate(counts))
            while len(self._row_groups) > 1024:
                self._row_groups.popitem(last=False)
        return self._row_groups[file]

    def __getstate__(self) -> dict[str, Any]:
        return {"_root": self._root, "_files": self._files, "_cache_bytes": self._cache_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()


class _Cursor:
    """Goes through the blocks of a row group; holds its file open until it is dropped."""

    def __init__(self, path: Path, group: int):
        self.block = 0
        self._batches = self._read(path, group)

    def advance(self) -> pa.RecordBatch:
        """The block that is next."""
        batch = next(self._batches)
        self.block += 1
        return batch

    @staticmethod
    def _read(path: Path, group: int) -> Iterator[pa.RecordBatch]:
        with pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as content:
            columns = [*IMAGE_COLUMNS, *({"original_size"} & set(content.schema_arrow.names))]
            left: pa.Table | None = None
            for batch in content.iter_batches(_ROWS, row_groups=[group], columns=columns, use_threads=False):
                # Batches end where a chunk of the file ends, blocks do not.
                table = pa.Table.from_batches([batch])
                left = table if left is None else pa.concat_tables([left, table])
                while left.num_rows >= _ROWS:
                    yield left.slice(0, _ROWS).combine_chunks().to_batches()[0]
                    left = left.slice(_ROWS)
            if left is not None and left.num_rows:
                yield left.combine_chunks().to_batches()[0]


def pixels(key: str, image: pa.Buffer | None, resized_size: Any) -> np.ndarray:
    """The pixels of a row, uint8 [height, width, 3], RGB.

    Raises:
      BadRecord: there is no image or size, or they do not fit each other.
    """
    size = _size(resized_size)
    if image is None or not image.size:
        raise BadRecord(key, "image is empty")
    if size is None:
        raise BadRecord(key, f"resized_size is not height and width: {resized_size!r:.80}")
    height, width = size
    if height * width > MAX_PIXELS:
        raise BadRecord(key, f"image is too large: {height} x {width} pixels")
    if image.size != height * width * 3:
        raise BadRecord(key, f"image does not fit its size: {image.size} bytes for {height} x {width} x 3")
    bgr = np.frombuffer(image, np.uint8).reshape(height, width, 3)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def _size(value: Any) -> tuple[int, int] | None:
    """(height, width) of a list of two positive whole numbers."""
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(n, int) and n > 0 for n in value):
        return None
    return value[0], value[1]
