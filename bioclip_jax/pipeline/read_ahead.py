"""Reads of files that are made larger than asked for, because what lies beside will be asked for soon.

Where blocks of neighbouring records are read together, a request for each would be many times too many. Here a file is
read in aligned chunks, which stay in memory up to a limit over all files; the one longest unused goes first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from concurrent.futures import Future
from typing import Protocol

from bioclip_jax.errors import UsageError


class ReadableFile(Protocol):
    """A file to be read anywhere in it, from many threads."""

    @property
    def path(self) -> str:
        """For messages."""

    @property
    def size(self) -> int:
        """In bytes."""

    def version(self) -> Hashable:
        """What is different when the file is another, though its path is the same."""

    def pread(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer only where the file ends."""


class ReadAhead:
    """Chunks of files. Safe to use from many threads; a chunk that several want at once is read once.

    Args:
      chunk_bytes: that are read at a time.
      limit_bytes: of chunks that are kept, and at least one is.

    Raises:
      UsageError: a chunk has no bytes.
    """

    def __init__(self, chunk_bytes: int, limit_bytes: int):
        if chunk_bytes < 1:
            raise UsageError(f"read_ahead {chunk_bytes}: at least a byte must be read at a time")
        self._chunk_bytes, self._most = chunk_bytes, max(1, limit_bytes // chunk_bytes)
        self._lock = threading.Lock()
        self._chunks: OrderedDict[Hashable, Future[bytes]] = OrderedDict()

    def pread(self, file: ReadableFile, offset: int, length: int) -> bytes:
        """What `file.pread` gives, from chunks; raises what that raises."""
        end = min(offset + length, file.size)
        if end <= offset:
            return b""
        size = self._chunk_bytes
        pieces = []
        for number in range(offset // size, (end - 1) // size + 1):
            chunk, start = self._chunk(file, number), number * size
            pieces.append(chunk[max(0, offset - start) : end - start])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _chunk(self, file: ReadableFile, number: int) -> bytes:
        key = file.path, file.version(), number
        with self._lock:
            future = self._chunks.get(key)
            mine = future is None
            if future is None:
                future = self._chunks[key] = Future()
                while len(self._chunks) > self._most:
                    self._chunks.popitem(last=False)
            else:
                self._chunks.move_to_end(key)
        if mine:
            try:
                future.set_result(file.pread(number * self._chunk_bytes, self._chunk_bytes))
            except BaseException as error:
                with self._lock:
                    if self._chunks.get(key) is future:
                        del self._chunks[key]
                future.set_exception(error)
        return future.result()


class ReadAheadFile:
    """A file that is read through `ahead`."""

    def __init__(self, file: ReadableFile, ahead: ReadAhead):
        self._file, self._ahead, self.path, self.size = file, ahead, file.path, file.size

    def version(self) -> Hashable:
        """That of the file."""
        return self._file.version()

    def pread(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer only where the file ends."""
        return self._ahead.pread(self._file, offset, length)
