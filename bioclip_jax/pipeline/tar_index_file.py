"""The file of an index, `shard-00000.tar.index`: it belongs to one tar as it was, and appears whole or not at all.

A head of 64 bytes, then 24 bytes a sample (`tar_samples.SAMPLE`), then what is unusual in the tar as JSON. To open a
set of tars only heads and notes are read; the samples are memory-mapped when one is asked for.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.file_cache import cache_folder
from bioclip_jax.pipeline.storage import FileStatus, is_remote, split
from bioclip_jax.pipeline.storage_clients import PATIENCE, Patience
from bioclip_jax.pipeline.tar_files import StrPath, open_tar_file, tar_status
from bioclip_jax.pipeline.tar_headers import shown
from bioclip_jax.pipeline.tar_samples import SAMPLE

SUFFIX = ".index"
_MAGIC = b"BJTARIX1"
_HEAD = struct.Struct("<8sQQqQ16sII")  # magic, samples, tar's bytes and mtime, members, fingerprint, notes' bytes, CRC
EXAMPLES = 5


class IndexNotWritten(UserError):
    """There is no place for an index; other indexes will not find one either."""


@dataclass
class Note:
    """How often something was found in a tar, and the first few names."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: bytes) -> None:
        """Counts one more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(shown(name))


@dataclass(frozen=True)
class TarSummary:
    """What an index says of its tar as a whole.

    Attributes:
      path: of the tar.
      samples: that it holds, usable or not.
      members: plain files in it.
      size: of the tar, in bytes.
      mtime_ns: when it was last changed.
      fingerprint: hash of its size and of both its ends, and a copy has the same; of a remote tar, of its size and of
        what the store calls its version.
      damage: where and how it breaks; '' for a whole tar.
      notes: what is unusual in it, by kind.
    """

    path: str
    samples: int
    members: int
    size: int
    mtime_ns: int
    fingerprint: bytes
    damage: str
    notes: Mapping[str, Note]


def index_path(tar: StrPath, index_folder: StrPath | None = None) -> Path:
    """Where the index of a tar lies: beside it, or in `index_folder`, there in a folder called as the tar's own.

    For a tar in an object store: in `index_folder`, or else `$XDG_CACHE_HOME/bioclip_jax/indexes` (`~/.cache` if that
    is not set), there at `SCHEME/BUCKET/KEY`.

    Raises:
      UsageError: `index_folder` is itself in an object store, or the tar's path is wrong.
    """
    if isinstance(index_folder, str) and is_remote(index_folder):
        raise UsageError(f"index_folder {index_folder}: indexes are mapped into memory, so give a local folder")
    if isinstance(tar, str) and is_remote(tar):
        parts = split(tar)
        folder = cache_folder() / "indexes" if index_folder is None else Path(index_folder)
        return folder.joinpath(*parts[:2], f"{parts[2]}{SUFFIX}")
    tar = Path(tar)
    folder = tar.parent if index_folder is None else Path(index_folder) / tar.absolute().parent.name
    return folder / f"{tar.name}{SUFFIX}"


def write_index(path: Path, summary: TarSummary, samples: np.ndarray) -> None:
    """Writes an index whole or not at all.

    Raises:
      IndexNotWritten: the folder is read-only or the disk full, for example.
    """
    notes = {kind: [note.count, note.examples] for kind, note in summary.notes.items()}
    tail = json.dumps({"damage": summary.damage, "notes": notes}).encode()
    fields = (summary.samples, summary.size, summary.mtime_ns, summary.members, summary.fingerprint, len(tail))
    head = _HEAD.pack(_MAGIC, *fields, 0)[:-4]
    with replacing(path) as descriptor, open(descriptor, "wb") as file:  # noqa: PTH123 it has no path
        file.write(head + zlib.crc32(head + tail).to_bytes(4, "little") + samples.tobytes() + tail)


@contextmanager
def replacing(path: Path) -> Iterator[int]:
    """A descriptor of a temporary file that gets the name `path` at the end; nothing is left if that is not reached."""
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name is random, for other processes may be making the same index. Nothing waits for the disk: an index
        # that a crash of the system cuts short is recognised, and made again.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        os.fchmod(descriptor, 0o644)
        yield descriptor
        Path(temporary).replace(path)
    except OSError as error:
        reason = error.strerror or error
        hint = (
            "; name another folder for the indexes" if isinstance(error, PermissionError) or error.errno == 30 else ""
        )
        raise IndexNotWritten(f"index {path} cannot be written: {reason}{hint}") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def read_summary(
    tar: StrPath, path: Path, now: FileStatus | None = None, patience: Patience = PATIENCE
) -> TarSummary | None:
    """What the index at `path` says of its tar; None if there is none, it is damaged, or it is another tar's.

    A tar of the same size and time of change is taken for the same; after copying, the bytes at its ends decide, and of
    a remote tar what the store calls its version.

    Args:
      tar: its path.
      path: of the index.
      now: the tar's status, asked for if not given.
      patience: how long to wait for a store.

    Raises:
      UserError: the tar itself cannot be read.
    """
    try:
        with path.open("rb", buffering=0) as file:
            head = file.read(_HEAD.size)
            magic, samples, size, mtime_ns, members, fingerprint, tail_bytes, crc = _HEAD.unpack(head)
            tail_start = _HEAD.size + samples * SAMPLE.itemsize
            if magic != _MAGIC or os.fstat(file.fileno()).st_size != tail_start + tail_bytes:
                return None
            tail = os.pread(file.fileno(), tail_bytes, tail_start)
        if zlib.crc32(head[:-4] + tail) != crc:
            return None
        content = json.loads(tail)
        notes = {str(kind): Note(int(count), list(names)) for kind, (count, names) in content["notes"].items()}
        damage = str(content["damage"])
    except (OSError, OverflowError, struct.error, ValueError, KeyError, TypeError, AttributeError):
        return None
    now = now or tar_status(tar, patience)
    if now.size != size:
        return None
    if now.mtime_ns != mtime_ns and open_tar_file(tar, now, patience).fingerprint() != fingerprint:
        return None
    return TarSummary(os.fspath(tar), samples, members, size, now.mtime_ns, fingerprint, damage, notes)


def map_samples(path: Path, samples: int) -> np.ndarray:
    """The samples of an index, memory-mapped: read-only `SAMPLE` [samples].

    Raises:
      UserError: the index is gone, or it is not the one of so many samples.
    """
    try:
        with path.open("rb", buffering=0) as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if _HEAD.unpack_from(mapped)[:2] != (_MAGIC, samples):
            raise ValueError("it was replaced by another")
        return np.frombuffer(mapped, SAMPLE, samples, _HEAD.size)
    except (OSError, ValueError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"index {path} cannot be read ({reason}); start again, and it will be made again") from error
