"""What is known of photos' files without reading them: it says whether features that were kept are still theirs."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

MISSING = "its file is missing"
UNREADABLE = "its file cannot be read"


class FileStamp(NamedTuple):
    """A file as its folder lists it."""

    file: str
    """Path below the benchmark's folder."""
    size: int
    """-1 where there is no such file or no right to read it."""
    modified: int
    """Nanoseconds since 1970; -1 where `size` is."""


def stamp_of(root: Path, file: str) -> FileStamp:
    """The stamp of a file below `root`; one whose name the system refuses, such as a very long one, is not there."""
    try:
        path = root / file
        status = path.stat()
        if stat.S_ISREG(status.st_mode) and os.access(path, os.R_OK):
            return FileStamp(file, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError):
        pass
    return FileStamp(file, -1, -1)


def chunks_of_files(stamps: Sequence[FileStamp], rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Cuts `rows` of `stamps` into chunks of about `size`, at most twice that.

    A hash of a file's name says whether a chunk ends with it. So a file more or less changes its own chunk alone, while
    chunks of a fixed length would all be others from there on.
    """
    chunks, start = [], 0
    for end, row in enumerate(rows, 1):
        name = hashlib.blake2b(stamps[row].file.encode(errors="surrogateescape"), digest_size=8).digest()
        if int.from_bytes(name, "big") % size == 0 or end - start == 2 * size or end == len(rows):
            chunks.append(rows[start:end])
            start = end
    return chunks
