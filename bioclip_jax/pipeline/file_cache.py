"""Local copies of remote files, for readers that want a file on a disk of this machine.

A copy belongs to the object as it was: its size and time of change are in its name, and a changed object gets another.
Threads and processes share a folder: one of them downloads, the others wait for it. A file in use holds a shared lock,
which the system releases however its process ends, and what is locked is never removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import storage
from bioclip_jax.pipeline.storage import FileStatus, is_remote
from bioclip_jax.pipeline.storage_clients import PATIENCE, Patience

_PART, _LOCK = ".part", ".lock"
_LOOK_SECONDS = 0.05  # between looks at a lock that another holds
_HIDDEN = "."  # begins the names that are not copies


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/bioclip_jax`, or `~/.cache/bioclip_jax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bioclip_jax"


def files_folder() -> Path:
    """Where copies go if no folder is given: apart from the indexes of tars, which no cache may remove."""
    return cache_folder() / "files"


class FileCache:
    """Copies of remote files in a local folder. Safe to use from many threads and processes; it can be pickled.

    Args:
      folder: where they lie; made if it is not there.
      limit_bytes: how much may lie there. Beyond that the least recently used files are removed, and only those in use
        may take more. No limit if not given.
      keep: this many of the files last returned by `local` count as in use; each costs a file descriptor.
      patience: how long to wait for the store.

    Raises:
      UsageError: the folder is remote, or a number makes no sense.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        limit_bytes: int | None = None,
        *,
        keep: int = 16,
        patience: Patience = PATIENCE,
    ):
        if isinstance(folder, str) and is_remote(folder):
            raise UsageError(f"cache folder {folder}: give a local folder")
        if keep < 1 or (limit_bytes is not None and limit_bytes < 1):
            raise UsageError(f"a cache of {limit_bytes} bytes that keeps {keep} files: both must be at least 1")
        self.folder = Path(folder).expanduser()
        self._limit, self._keep, self._patience = limit_bytes, keep, patience
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, FileStatus] = {}
        self._kept: OrderedDict[str, _Held] = OrderedDict()

    def local(self, path: str) -> Path:
        """A local file with the content of `path`, which is `path` itself where that is local.

        It stays until `keep` other files have been returned; who opens it before that can read it for as long as it is
        open. An object's version is looked up once: an object that changes later is not noticed by this `FileCache`.

        Raises:
          UserError: it cannot be downloaded, or not be stored.
        """
        if not is_remote(path):
            return Path(path)
        with self._lock:
            if (held := self._kept.get(path)) is not None:
                self._kept.move_to_end(path)
                return held.path
        held = self._held(path)
        with self._lock:
            self._kept[path] = held
            while len(self._kept) > self._keep:
                self._kept.popitem(last=False)
        return held.path

    @contextmanager
    def using(self, path: str) -> Iterator[Path]:
        """As `local`, for a file that stays until the end of the block."""
        if not is_remote(path):
            yield Path(path)
            return
        held = self._held(path)
        try:
            yield held.path
        finally:
            held.release()

    def _held(self, path: str) -> _Held:
        with self._lock:
            status = self._known.get(path)
        if status is None:
            status = storage.status(path, self._patience)
            with self._lock:
                self._known[path] = status
        target = self._place(status)
        try:
            while (held := _hold(target)) is None:
                self._download(status, target)
            os.utime(target)
        except OSError as error:
            raise UserError(f"cache {target} cannot be used: {error.strerror or error}") from error
        return held

    def _place(self, status: FileStatus) -> Path:
        scheme, bucket, key = storage.split(status.path)
        version = hashlib.blake2b(repr(tuple(status)).encode(), digest_size=6).hexdigest()
        folder, _, name = key.rpartition("/")
        return self.folder / scheme / bucket / folder / f"{version}-{name[-200:]}"

    def _download(self, status: FileStatus, target: Path) -> None:
        """Makes the copy, unless somebody else does so first."""
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{_HIDDEN}{target.name}{_PART}")
        with _exclusive(target.with_name(f"{_HIDDEN}{target.name}{_LOCK}")):
            if target.exists():
                return
            self._make_room(status.size)
            try:
                with part.open("wb") as file:
                    for block in storage.open_stream(status.path, patience=self._patience):
                        file.write(block)
                    if file.tell() != status.size:
                        raise UserError(f"{status.path} has changed while it was downloaded; start again")
                part.replace(target)
            finally:
                # What a killed process left is overwritten.
                part.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        if self._limit is None:
            return
        files, total = [], size
        for path in self.folder.rglob("*"):
            with contextlib.suppress(OSError):  # another process removes files, too
                status = path.stat()
                if path.is_file() and not path.name.endswith(_LOCK):
                    total += status.st_size
                    if not path.name.startswith(_HIDDEN):
                        files.append((status.st_mtime_ns, status.st_size, path))
        for _, freed, path in sorted(files):
            if total <= self._limit:
                return
            if _remove_unused(path):
                total -= freed

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_known", "_kept")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()


class _Held:
    """A file that no process removes for as long as this object is there."""

    def __init__(self, path: Path, descriptor: int):
        self.path, self._descriptor = path, descriptor

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    __del__ = release


def _hold(path: Path) -> _Held | None:
    """Holds a file with a shared lock; None if there is none."""
    while True:
        try:
            held = _Held(path, os.open(path, os.O_RDONLY))
        except FileNotFoundError:
            return None
        # Whoever removes it holds it for a moment, and longer nobody holds it alone.
        fcntl.flock(held._descriptor, fcntl.LOCK_SH)
        if _is_still(path, held._descriptor):
            return held
        held.release()


def _remove_unused(path: Path) -> bool:
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
            return True
        finally:
            os.close(descriptor)
    return False


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Waits until nobody else holds the lock file; it is removed at the end."""
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(_LOOK_SECONDS)
                continue
            if _is_still(path, file.fileno()):
                try:
                    yield
                finally:
                    path.unlink(missing_ok=True)
                return


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
