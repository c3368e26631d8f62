"""Tars as files, local or in an object store: what they are read by, and what tells one from another."""

from __future__ import annotations

import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import storage
from bioclip_jax.pipeline.storage import FileStatus, RemoteFile, is_remote
from bioclip_jax.pipeline.storage_clients import PATIENCE, Patience
from bioclip_jax.pipeline.tar_headers import reader_of

StrPath = str | os.PathLike[str]
_ENDS = 1 << 16  # bytes at either end of a local tar that its fingerprint covers
_STREAM_CHUNK = 8 << 20  # bytes a request where a remote tar is read from one end to the other
_STREAM_KEPT = 3  # chunks: the walk goes back by less than one


class LocalTar:
    """A local tar that is open until the last user of this object is gone. Safe to use from many threads.

    Attributes:
      path: of the tar.
      size: in bytes, when it was opened.
      mtime_ns: when it was last changed, then.

    Raises:
      UserError: it is gone, or cannot be opened.
      UsageError: it is a directory or a pipe.
    """

    def __init__(self, tar: StrPath):
        self._descriptor, self.path = -1, os.fspath(tar)
        tar_status(tar)  # opening a pipe would wait for ever
        with _named(tar):
            self._descriptor = os.open(tar, os.O_RDONLY)
        now = self.status()
        self.size, self.mtime_ns = now.size, now.mtime_ns

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def version(self) -> Hashable:
        """Size and time of change when it was opened."""
        return self.size, self.mtime_ns

    def status(self) -> FileStatus:
        """As it is now."""
        now = os.fstat(self._descriptor)
        return FileStatus(self.path, now.st_size, now.st_mtime_ns)

    def pread(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer only where the file ends; raises `UserError`."""
        try:
            data = os.pread(self._descriptor, length, offset)
            while len(data) < length and (more := os.pread(self._descriptor, length - len(data), offset + len(data))):
                data += more
        except OSError as error:
            raise UserError(f"tar {self.path} cannot be read at byte {offset:,}: {error.strerror or error}") from error
        return data

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fills a buffer from `offset` on, and returns how many bytes there were; raises `UserError`."""
        with _named(self.path):
            return reader_of(self._descriptor)(view, offset)

    def fingerprint(self) -> bytes:
        """16 bytes that tell a tar from others of its size: a hash of both its ends. A copy has the same."""
        digest = hashlib.blake2b(self.size.to_bytes(8, "little"), digest_size=16)
        digest.update(self.pread(0, _ENDS))
        digest.update(self.pread(max(0, self.size - _ENDS), _ENDS))
        return digest.digest()


class RemoteTar(RemoteFile):
    """A tar in an object store, of which each read is a request; it holds no descriptor.

    Args:
      tar: its path.
      now: its status.
      fingerprint: which version is meant; that of the first read if not given.
      patience: how long to wait for the store.
    """

    def __init__(self, tar: str, now: FileStatus, fingerprint: bytes | None = None, patience: Patience = PATIENCE):
        super().__init__(tar, now.size, fingerprint=fingerprint, patience=patience)
        self.mtime_ns = now.mtime_ns
        self._chunks: OrderedDict[int, Callable[[], bytes]] = OrderedDict()

    def version(self) -> Hashable:
        """Its fingerprint."""
        return self.fingerprint()

    def status(self) -> FileStatus:
        """As it was: that what was read is one version has been seen in each answer."""
        return FileStatus(self.path, self.size, self.mtime_ns)

    def read_into(self, view: memoryview, offset: int) -> int:
        """Fills a buffer from `offset` on, and returns how many bytes there were; raises `UserError`.

        For one thread that goes through the tar from its beginning to its end: the tar is read in large chunks, each
        once, the next one while this one is used.
        """
        done = 0
        while done < len(view) and offset + done < self.size:
            number, within = divmod(offset + done, _STREAM_CHUNK)
            piece = self._chunk(number)[within : within + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
        return done

    def _chunk(self, number: int) -> bytes:
        for wanted in (number, number + 1):
            if wanted not in self._chunks:
                self._chunks[wanted] = self.start(wanted * _STREAM_CHUNK, _STREAM_CHUNK)
        data = self._chunks[number]()
        self._chunks[number] = lambda: data
        while len(self._chunks) > _STREAM_KEPT:
            self._chunks.popitem(last=False)
        return data


TarFile = LocalTar | RemoteTar


def tar_status(tar: StrPath, patience: Patience = PATIENCE) -> FileStatus:
    """Size and time of change of a tar; raises `UserError` if it is not there, `UsageError` for a directory."""
    if isinstance(tar, str) and is_remote(tar):
        return storage.status(tar, patience)
    with _named(tar):
        status = Path(tar).stat()
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"tar {tar} is not a file")
    return FileStatus(os.fspath(tar), status.st_size, status.st_mtime_ns)


def open_tar_file(tar: StrPath, now: FileStatus | None = None, patience: Patience = PATIENCE) -> TarFile:
    """A tar as it is now.

    Args:
      tar: its path.
      now: the status of a remote one, asked for if not given.
      patience: how long to wait for a store.

    Raises:
      UserError: it is not there, or cannot be read.
    """
    if isinstance(tar, str) and is_remote(tar):
        return RemoteTar(tar, now or tar_status(tar, patience), patience=patience)
    return LocalTar(tar)


@contextmanager
def _named(tar: StrPath) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"tar {tar}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"tar {tar} cannot be read: {getattr(error, 'strerror', None) or error}") from error
