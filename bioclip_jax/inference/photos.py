"""The photos that somebody has: files in folders, by pattern, or listed in a table; and their features, batch by batch.

A photo that cannot be read stays in the list, with the reason; what is no photo, or no line of a table, is counted.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.encoder import ImageEncoder, require_finite
from bioclip_jax.evaluation.methods import well_formed
from bioclip_jax.images import ImageError
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.photo_table import cell, read_image
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.tables import find_columns, read_table, text_column

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".jp2", ".j2k", ".ppm", ".pgm", ".pbm"),
)
"""A file in a folder is a photo if its name ends so, in capitals or not."""
TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")
THREADS = min(16, os.cpu_count() or 4)


@dataclass
class Photos:
    """Photos in order, as files."""

    keys: list[str] = field(default_factory=list)
    """What each is called in results: its path below the folder, as given, or the key of a table."""
    files: list[tuple[Path | None, str]] = field(default_factory=list)
    """The path of each; of a table's row its folder, and a name that must not lead out of it."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""

    def __len__(self) -> int:
        return len(self.keys)

    def add(self, key: str, folder: Path | None, name: str) -> None:
        """One more; a key that is no UTF-8 is made so."""
        self.keys.append(well_formed(key))
        self.files.append((folder, name))

    def distinct(self) -> Photos:
        """Each file once, where it stands first."""
        first = dict(zip(reversed(self.files), reversed(self.keys), strict=True))
        if len(first) == len(self):
            return self
        repeats = f"{len(self) - len(first):,} photos are named more than once and count once"
        kept = dict.fromkeys(self.files)
        return Photos([first[file] for file in kept], list(kept), [*self.notes, repeats])

    def source(self, row: int) -> bytes | str:
        """A photo's path or bytes; raises `BadRecord` where a table's row names no file that may be read."""
        folder, name = self.files[row]
        return name if folder is None else read_image(folder, name, self.keys[row])

    def digest(self) -> str:
        """Stands for these photos in this order: keys, paths, sizes and times of change."""
        known = hashlib.sha256()
        for key, (folder, name) in zip(self.keys, self.files, strict=True):
            try:
                path = folder / name if folder else name
                status = os.stat(path)  # noqa: PTH116 a Path for each costs more
                found = [status.st_size, status.st_mtime_ns] if os.access(path, os.R_OK) else []
            except (OSError, ValueError):  # ValueError: a zero byte
                found = []
            known.update(json.dumps([key, name, found]).encode())
        return known.hexdigest()


class Encoded(NamedTuple):
    """Some consecutive photos."""

    keys: list[str]
    features: np.ndarray
    """float32 `[usable, d]`, L2-normalised: of those that could be read."""
    errors: list[str]
    """One per photo: '' if it could be read, else why not."""


def open_photos(given: Sequence[str], *, images: Path | None = None, columns: Sequence[str] = ()) -> Photos:
    """The photos that a person names.

    Args:
        given: folders (searched to the bottom), patterns such as `trip/**/*.jpg`, photos, and tables (CSV or Parquet)
            with a column for the files.
        images: the folder that file names in tables are relative to; the table's own folder if not given.
        columns: which column of a table holds which field, as field=COLUMN.

    Raises:
        UsageError: one of `given` does not exist, or a table has no column for the files.
        UserError: there are no photos.
    """
    photos, tables = Photos(), 0
    for name in given:
        path = Path(os.path.expanduser(name))  # noqa: PTH111 knows unknown users
        if re.match(r"[a-z][a-z0-9+.-]*://", name):
            raise UsageError(f"photos {name}: only files on disk are read; fetch them first")
        if path.is_dir():
            _add_folder(photos, path, alone=len(given) == 1)
        elif path.is_file() and path.suffix.lower() in TABLE_SUFFIXES:
            tables += 1
            _add_table(photos, path, images, columns)
        elif path.is_file():
            photos.add(path.as_posix(), None, str(path))
        elif glob.has_magic(name):
            # Links to folders above would give a file many times.
            found = sorted(glob.iglob(str(path), recursive=True), key=len)  # noqa: PTH207 Path's takes no absolute one
            once = {os.path.realpath(match): match for match in reversed(found)}
            for file in map(Path, sorted(once.values())):
                if file.is_file():
                    photos.add(file.as_posix(), None, str(file))
        else:
            raise UsageError(f"photos {name}: no such file or folder")
    if len(given) > 1:
        photos = photos.distinct()
    if (images is not None or columns) and not tables:
        raise UsageError("--images and --columns are for a table of photos; none was given")
    if not photos:
        endings = " ".join(SUFFIXES[:6])
        raise UserError(f"no photos in {', '.join(given) or 'nothing'}; names of photos end in {endings} and the like")
    return photos


def _add_folder(photos: Photos, folder: Path, *, alone: bool) -> None:
    """All photos below `folder`, links to folders followed once, hidden files left out."""
    seen: set[tuple[int, int]] = set()
    others = 0
    for place, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(place)  # noqa: PTH116
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(place, name)
            if name.startswith("."):
                continue
            if path.suffix.lower() not in SUFFIXES:
                others += 1
                continue
            below = path.relative_to(folder).as_posix()
            key = below if alone else path.as_posix()
            if path.is_file():
                photos.add(key, None, str(path))
            else:  # a link to nothing, or a pipe
                photos.add(key, folder, below)
    if others:
        photos.notes.append(f"{others:,} files in {folder} are no photos by the ending of their names")


def some_column(names: Sequence[str]) -> str:
    """A column for a field that `find_columns` insists on and nobody reads: the first with a name of its own."""
    return next((name for name in names if name and names.count(name) == 1), names[0])


def _add_table(photos: Photos, path: Path, images: Path | None, columns: Sequence[str]) -> None:
    """The files that a table lists, one row each; lines that cannot be parsed have none, and are counted in a note."""
    if wrong := [pair for pair in columns if "=" not in pair]:
        raise UsageError(f"--columns {wrong[0]}: write field=COLUMN, such as filepath={wrong[0]}")
    folder = (Path(images).expanduser() if images is not None else path.parent).resolve()
    if not folder.is_dir():
        raise UsageError(f"--images {images}: no such directory")
    table, ragged = read_table(path)
    names = table.column_names
    # The names of the organisms are not asked for.
    mapping = {"common_name": some_column(names), **dict(pair.split("=", 1) for pair in columns)}
    chosen = find_columns(names, mapping, path)
    files = text_column(table, chosen["filepath"])
    keys = text_column(table, chosen["key"]) if "key" in chosen else files
    for row in range(table.num_rows):
        file = cell(files, row)
        below = file.removeprefix(f"{folder.as_posix().rstrip('/')}/")
        photos.add(cell(keys, row) or file or f"row {row + 1}", folder, below)
    if ragged:
        photos.notes.append(f"{len(ragged):,} lines of {path} have more or fewer cells than its header")


def encode_photos(
    encoder: ImageEncoder, photos: Photos, *, start: int = 0, end: int | None = None, batch_size: int = 64
) -> Iterator[Encoded]:
    """Features of the photos `start` to `end`, in order and in batches; the next ones are read meanwhile.

    Raises:
        UserError: a feature is not finite.
    """
    rows = range(len(photos))[start:end]
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            pixels = ordered_map(pool, partial(_pixels, encoder, photos), rows, 2 * batch_size)
            for first in rows[::batch_size]:
                keys = photos.keys[first : min(first + batch_size, rows.stop)]
                found = [next(pixels) for _ in keys]
                good = [row for row, photo in enumerate(found) if not isinstance(photo, str)]
                features = np.zeros((0, 0), np.float32)
                if good:
                    features = np.asarray(encoder.encode_image(np.stack([found[row] for row in good])), np.float32)
                    require_finite(features, [keys[row] for row in good], encoder.name)
                yield Encoded(keys, features, [photo if isinstance(photo, str) else "" for photo in found])
        finally:
            pool.shutdown(cancel_futures=True)


def reasons(unreadable: Counter[str]) -> str:
    """Counts of reasons, the most frequent first, no more than three."""
    common = [f"{count:,} {reason}" for reason, count in unreadable.most_common(3)]
    return ", ".join([*common, "..."] if len(unreadable) > len(common) else common)


def _pixels(encoder: ImageEncoder, photos: Photos, row: int) -> np.ndarray | str:
    """A photo as the model is to see it, or the reason why it cannot be used."""
    try:
        return encoder.preprocess(photos.source(row))
    except (BadRecord, ImageError) as error:
        return error.reason
