"""Which images a crawl holds and where: the keys of each Parquet file, read once and kept in one file.

The index is an Arrow file, memory-mapped: for each Parquet file its name, size and time of change, and 8 bytes for each
of its rows. A file that is new or has changed is looked at again, and no other.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.crawled import (
    CACHE_BYTES,
    IMAGE_COLUMNS,
    IMAGE_SUFFIXES,
    CrawlFile,
    ImageFiles,
    Images,
    ParquetImages,
    canonical_key,
    find_files,
    key_of_file,
)
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.tables import text_column
from bioclip_jax.pipeline.tar_index_file import replacing
from bioclip_jax.pipeline.tar_samples import key_hash

INDEX = "crawl.index"
_SCHEMA = pa.schema(
    {"name": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "hashes": pa.large_list(pa.uint64())}
)
_THREADS = 16
_SECONDS_BETWEEN_SAVES = 60.0
_EXAMPLES = 3


@dataclass(frozen=True)
class Crawl:
    """The images of a crawl.

    Attributes:
      images: to be read by file and row.
      hashes: for each file uint64 [rows], `key_hash` of the canonical key of each image.
      notes: what was left out, in words.
    """

    images: Images
    hashes: Sequence[np.ndarray]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Entry:
    """What the index says of a Parquet file; `hashes` is None where it holds no images."""

    size: int
    mtime_ns: int
    hashes: np.ndarray | None


def open_images(
    root: Path,
    index_folder: Path | None = None,
    *,
    allow_damaged: bool = False,
    cache_bytes: int = CACHE_BYTES,
    console: Console | None = None,
) -> Crawl:
    """Looks at the images of a crawl: Parquet files of them, in any folders, or else plain files called by their key.

    Args:
      root: the folder of the crawl.
      index_folder: where the index of Parquet files lies; in `root` if not given.
      allow_damaged: leave out Parquet files that cannot be read, instead of refusing them.
      cache_bytes: see `ParquetImages`.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: there is no such folder.
      UserError: it holds no images, some files are damaged, or the index cannot be written.
    """
    if not root.is_dir():
        raise UsageError(f"folder of images {root}: " + ("is a file" if root.exists() else "no such directory"))
    notes: list[str] = []
    if tables := find_files(root, (".parquet",)):
        path = root / INDEX if index_folder is None else index_folder / f"{root.resolve().name}.{INDEX}"
        entries, damaged = _update(root, tables, path, console)
        if damaged and not allow_damaged:
            first = "; ".join(damaged[:_EXAMPLES])
            raise UserError(
                f"{len(damaged):,} of {len(tables):,} Parquet files cannot be read: {first}; fetch them again, or "
                "allow damaged files to leave them out"
            )
        if damaged:
            notes.append(f"{len(damaged):,} damaged files left out ({'; '.join(damaged[:_EXAMPLES])})")
        files = {name: entry for name, entry in entries.items() if entry.hashes is not None}
        if files:
            hashes = [entry.hashes for entry in files.values() if entry.hashes is not None]
            kept = [CrawlFile(n, e.size, e.mtime_ns, len(h)) for (n, e), h in zip(files.items(), hashes, strict=True)]
            return Crawl(ParquetImages(root, kept, cache_bytes), hashes, tuple(notes))
    names = find_files(root, IMAGE_SUFFIXES)
    if not names:
        columns = ", ".join(IMAGE_COLUMNS)
        raise UserError(f"folder {root} holds neither Parquet files with columns {columns} nor image files")
    keys = np.fromiter((key_hash(key_of_file(name).encode()) for name in names), np.uint64, len(names))
    return Crawl(ImageFiles(root, pa.array(names, pa.large_string())), [keys], tuple(notes))


def _update(root: Path, names: list[str], path: Path, console: Console | None) -> tuple[dict[str, _Entry], list[str]]:
    """What is known of each file by name, the index brought up to date; and what cannot be read, in words."""
    before, known, todo = _read_index(path), dict[str, _Entry](), list[str]()
    damaged: list[str] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, status in zip(names, pool.map(lambda name: _status(root / name), names), strict=True):
            entry = before.get(name)
            if entry is not None and (entry.size, entry.mtime_ns) == status:
                known[name] = entry
            else:
                todo.append(name)
        if not todo and before.keys() == known.keys():
            return known, damaged
        look: Callable[[int], _Entry | str] = lambda place: _look(root / todo[place])  # noqa: E731
        saved = time.monotonic()
        with RecordProgress(len(names), "indexing", console, unit="files") as progress:
            progress.skip(len(known))
            try:
                for place, found in enumerate(ordered_map(pool, look, range(len(todo)), 4 * _THREADS)):
                    if isinstance(found, _Entry):
                        known[todo[place]] = found
                    else:
                        damaged.append(f"{root / todo[place]} ({found})")
                    progress.advance(note=f"{len(damaged):,} damaged" if damaged else "")
                    if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                        _write_index(path, known)
                        saved = time.monotonic()
            finally:  # what was looked at need not be again, also after Ctrl-C
                _write_index(path, known)
    return {name: known[name] for name in names if name in known}, damaged


def _look(path: Path) -> _Entry | str:
    """What a Parquet file holds; a reason if it cannot be read."""
    if path.exists() and not path.is_file():
        return "it is not a file"  # opening a pipe would wait for ever
    try:
        size, mtime_ns = _status(path)
        with pyarrow.parquet.ParquetFile(path) as content:
            if not set(IMAGE_COLUMNS) <= set(content.schema_arrow.names):
                return _Entry(size, mtime_ns, None)
            schema = content.schema_arrow
            if not (
                pa.types.is_binary(schema.field("image").type) or pa.types.is_large_binary(schema.field("image").type)
            ):
                return f"column 'image' holds {schema.field('image').type}, not bytes"
            keys = text_column(content.read(columns=["uuid"]), "uuid")
    except (pa.ArrowException, OSError, UserError) as error:
        return next(iter(str(getattr(error, "strerror", None) or error).splitlines()), type(error).__name__)
    hashes = np.fromiter((key_hash(canonical_key(key).encode()) for key in keys.to_pylist()), np.uint64, len(keys))
    return _Entry(size, mtime_ns, hashes)


def _status(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1  # reading it will say why
    return status.st_size, status.st_mtime_ns


def _write_index(path: Path, entries: Mapping[str, _Entry]) -> None:
    with (
        replacing(path) as descriptor,
        os.fdopen(descriptor, "wb") as file,
        pa.ipc.new_file(file, _SCHEMA) as writer,
    ):
        for name, entry in entries.items():
            if entry.hashes is None:
                hashes = pa.array([None], _SCHEMA.field("hashes").type)
            else:
                hashes = pa.LargeListArray.from_arrays([0, len(entry.hashes)], pa.array(entry.hashes))
            columns = [pa.array([name]), pa.array([entry.size]), pa.array([entry.mtime_ns]), hashes]
            writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))


def _read_index(path: Path) -> dict[str, _Entry]:
    """What an index says; nothing if there is none or it is damaged."""
    try:
        return dict(_entries(pa.ipc.open_file(pa.memory_map(str(path)))))
    except (OSError, pa.ArrowException, ValueError, KeyError):
        return {}


def _entries(reader: pa.RecordBatchFileReader) -> Iterator[tuple[str, _Entry]]:
    if reader.schema != _SCHEMA:
        return
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        name, size, mtime_ns, hashes = (column[0] for column in batch.columns)
        values = hashes.values.to_numpy() if hashes.is_valid else None
        yield name.as_py(), _Entry(size.as_py(), mtime_ns.as_py(), values)
