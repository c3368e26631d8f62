"""Files where they lie: local paths, `gs://BUCKET/KEY` (Google Cloud Storage) and `s3://BUCKET/KEY` (S3 and its like).

Every function ends: a request has a time limit, is tried again with growing pauses where that may help, and fails as
one `UserError` with the path and the reason. What does not exist or is forbidden is not asked for again. Whatever is
read in several requests is of one version of the object, or an error. Credentials and endpoints: `storage_clients`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from pyarrow import fs

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.storage_clients import PATIENCE, Patience, filesystem, persistently, store, within

BLOCK_BYTES = 16 << 20
"""Bytes a request where a file is read from one end to the other."""
_IN_FLIGHT = 4
_LISTED = 32  # files of one folder: it pays to list the folder rather than ask for each
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class FileStatus(NamedTuple):
    """What changes when a file changes."""

    path: str
    size: int
    """In bytes."""
    mtime_ns: int


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether this lies in an object store; raises `UsageError` for a scheme that is not known."""
    match = _SCHEME.match(path) if isinstance(path, str) else None
    if match and match[1] not in ("gs", "s3"):
        raise UsageError(f"{path}: {match[1]}:// is not known; give a local path, gs://BUCKET/KEY or s3://BUCKET/KEY")
    return match is not None


def split(path: str) -> tuple[str, str, str]:
    """`gs://bucket/a/b` -> (gs, bucket, a/b).

    Raises:
      UsageError: this is not such a path, or parts of it are empty, `.` or `..`.
    """
    if not is_remote(path):
        raise UsageError(f"{path} is not in an object store; give gs://BUCKET/KEY or s3://BUCKET/KEY")
    scheme, _, rest = path.partition("://")
    bucket, _, key = rest.rstrip("/").partition("/")
    if not bucket or "\0" in rest or (key and {"", ".", ".."} & set(key.split("/"))) or bucket in (".", ".."):
        raise UsageError(f"{path}: give {scheme}://BUCKET/KEY, without parts that are empty, '.' or '..'")
    return scheme, bucket, key


def join(folder: str, *names: str) -> str:
    """`names` below a folder, local or remote."""
    if is_remote(folder):
        return "/".join((folder.rstrip("/"), *names))
    return str(Path(folder, *names))


def status(path: str, patience: Patience = PATIENCE) -> FileStatus:
    """Size and time of change of a file.

    Raises:
      UserError: it is not there, or cannot be asked for.
    """
    if not is_remote(path):
        with _local(path):
            found = Path(path).stat()
        return FileStatus(path, found.st_size, found.st_mtime_ns)
    info = _info(path, patience)
    if info.type != fs.FileType.File:
        raise UserError(f"{path}: no such object" + (", but a folder" if info.type == fs.FileType.Directory else ""))
    return _status(path, info)


def is_file(path: str, patience: Patience = PATIENCE) -> bool:
    """Whether there is such a file; raises `UserError` where that cannot be found out."""
    if not is_remote(path):
        return Path(path).is_file()
    return _info(path, patience).type == fs.FileType.File


def list_files(
    folder: str, suffix: str = "", *, recursive: bool = False, patience: Patience = PATIENCE
) -> list[FileStatus]:
    """The files in a folder whose names end in `suffix`, by name; none if there is no such folder.

    Raises:
      UserError: the folder cannot be listed.
    """
    if not is_remote(folder):
        with _local(folder):
            paths = [path for path in Path(folder).glob("**/*" if recursive else "*") if path.is_file()]
            return [status(str(path)) for path in sorted(paths) if path.name.endswith(suffix)]
    scheme, bucket, key = split(folder)
    selector = fs.FileSelector(f"{bucket}/{key}".rstrip("/"), recursive=recursive, allow_not_found=True)
    client = filesystem(scheme, bucket, patience)
    # A list of a million objects is a thousand requests.
    ask = lambda: within(patience.timeout * 20, lambda: client.get_file_info(selector))  # noqa: E731
    found = persistently(folder, patience, ask, "cannot be listed")
    files = [_status(f"{scheme}://{info.path}", info) for info in found if info.type == fs.FileType.File]
    return sorted(file for file in files if file.path.endswith(suffix))


def listed(paths: Sequence[str], patience: Patience = PATIENCE) -> dict[str, FileStatus]:
    """The status of those remote files that lie in one folder with many others of them, by listing the folder."""
    folders: dict[str, int] = {}
    for path in filter(is_remote, paths):
        folder = path.rpartition("/")[0]
        folders[folder] = folders.get(folder, 0) + 1
    many = [folder for folder, files in folders.items() if files >= _LISTED]
    return {file.path: file for folder in many for file in list_files(folder, patience=patience)}


class RemoteFile:
    """An object as it was at one moment, to be read anywhere in it: one request for each range.

    Safe to use from many threads. It holds no connection and no file descriptor.

    Attributes:
      path: of the object.
      size: in bytes.

    Args:
      path: of the object.
      size: in bytes, asked for if not given.
      fingerprint: which version is meant, as `fingerprint` gave it before; that of the first read if not given.
      patience: how long to wait.

    Raises:
      UserError: there is no such object.
    """

    def __init__(
        self, path: str, size: int | None = None, *, fingerprint: bytes | None = None, patience: Patience = PATIENCE
    ):
        scheme, bucket, self._key = split(path)
        if not self._key:
            raise UsageError(f"{path} is a bucket, not a file")
        self.path, self.size = path, status(path, patience).size if size is None else size
        self._patience, self._fingerprint, self._version = patience, fingerprint, b""
        self._store = store(scheme, bucket, patience)

    def pread(self, offset: int, length: int) -> bytes:
        """The `length` bytes from `offset` on, fewer where the file ends.

        Raises:
          UserError: the object is gone, is another version, or cannot be read.
        """
        return self.start(offset, length)()

    def start(self, offset: int, length: int) -> Callable[[], bytes]:
        """Asks for a range and does not wait; what it returns gives the bytes, as `pread` would."""
        length = max(0, min(length, self.size - offset))
        if not length:
            return lambda: b""
        wanted = slice(offset, offset + length)
        pending = [self._store.read(self._key, byte_range=wanted)]
        return lambda: self._finish(pending, wanted)

    def fingerprint(self) -> bytes:
        """16 bytes that stand for this version of the object, by its size and what the store calls the version."""
        if self._fingerprint is None:
            self.pread(0, 1)
        return self._fingerprint or self._hash(b"")

    def _finish(self, pending: list, wanted: slice) -> bytes:
        seconds = self._patience.seconds(wanted.stop - wanted.start)

        def attempt() -> bytes:
            future = pending.pop() if pending else self._store.read(self._key, byte_range=wanted)
            try:
                answer = future.result(timeout=seconds)
            except TimeoutError:
                future.cancel()
                raise TimeoutError(f"no answer within {seconds:g} s") from None
            except ValueError as error:
                if "OUT_OF_RANGE" in str(error) or "code='416'" in str(error):
                    raise self._changed(f"it ends before byte {wanted.stop:,}") from None
                raise
            if answer.state == "missing":
                raise UserError(f"{self.path}: no such object, or it is gone")
            if answer.stamp.generation != self._version:
                self._check(answer.stamp.generation)
            return answer.value

        return persistently(self.path, self._patience, attempt)

    def _check(self, version: bytes) -> None:
        found = self._hash(version)
        if self._fingerprint is None:
            self._fingerprint = found
        if found != self._fingerprint:
            raise self._changed("the store calls it another version")
        self._version = version

    def _hash(self, version: bytes) -> bytes:
        return hashlib.blake2b(self.size.to_bytes(8, "little") + version, digest_size=16).digest()

    def _changed(self, how: str) -> UserError:
        return UserError(f"{self.path} has changed since its {self.size:,} bytes were looked at: {how}; start again")


def read_bytes(path: str, offset: int, length: int, patience: Patience = PATIENCE) -> bytes:
    """The `length` bytes from `offset` on, fewer where the file ends; raises `UserError`."""
    if is_remote(path):
        return RemoteFile(path, patience=patience).pread(offset, length)
    with _local(path), Path(path).open("rb") as file:
        return os.pread(file.fileno(), length, offset)


def read_whole(path: str, patience: Patience = PATIENCE) -> bytes:
    """A file that fits into memory; raises `UserError`."""
    if is_remote(path):
        return b"".join(open_stream(path, patience=patience))
    with _local(path):
        return Path(path).read_bytes()


def open_stream(path: str, block_bytes: int = BLOCK_BYTES, patience: Patience = PATIENCE) -> Iterator[bytes]:
    """A file from its beginning to its end in large blocks; of a remote one some are asked for ahead.

    Raises:
      UserError: it is not there, cannot be read, or changes meanwhile.
    """
    if not is_remote(path):
        with _local(path), Path(path).open("rb") as file:
            while block := file.read(block_bytes):
                yield block
        return
    remote = RemoteFile(path, patience=patience)
    offsets = iter(range(0, remote.size, block_bytes))
    pending: deque[Callable[[], bytes]] = deque()
    while True:
        while len(pending) < _IN_FLIGHT and (offset := next(offsets, None)) is not None:
            pending.append(remote.start(offset, block_bytes))
        if not pending:
            return
        yield pending.popleft()()


def fetch(path: str, local: Path, patience: Patience = PATIENCE) -> None:
    """Copies a remote file to a local one, which appears whole or not at all.

    Raises:
      UserError: it cannot be read, or not be written.
    """
    with replacing_file(local) as file:
        for block in open_stream(path, patience=patience):
            file.write(block)


def upload(local: Path, path: str, patience: Patience = PATIENCE) -> None:
    """Copies a local file to an object store, where it appears whole or not at all.

    Raises:
      UserError: it cannot be read, or not be written; `path` is then as it was before. (A local file that breaks off
        while it is read is the exception: nothing is there then.)
    """
    scheme, bucket, key = split(path)
    if not key:
        raise UsageError(f"{path} is a bucket; give {scheme}://BUCKET/KEY")
    with _local(str(local)):
        size = local.stat().st_size
    client = filesystem(scheme, bucket, patience, patience.attempts)
    limit = patience.seconds(size) * patience.attempts
    once = Patience(patience.connect_timeout, patience.timeout, 1)  # the client itself tries parts again
    persistently(
        path, once, lambda: within(limit, lambda: _send(client, local, size, f"{bucket}/{key}")), "cannot be written"
    )
    if (now := status(path, patience).size) != size:
        raise UserError(f"{path} has {now:,} bytes after {local} with {size:,} was uploaded; upload it again")


def _send(client: fs.FileSystem, local: Path, size: int, where: str) -> None:
    with local.open("rb") as file:
        stream = client.open_output_stream(where)
        sent = 0
        try:
            while block := file.read(BLOCK_BYTES):
                stream.write(block)
                sent += len(block)
            if sent != size:
                raise OSError(f"{local} had {size:,} bytes, and then {sent:,}")
        except BaseException:
            # Arrow finishes an upload when its stream goes, unless the upload itself has failed.
            with contextlib.suppress(OSError):
                stream.close()
                client.delete_file(where)
            raise
        stream.close()


@contextmanager
def replacing_file(path: Path) -> Iterator[IO[bytes]]:
    """A temporary file that gets the name `path` at the end; nothing is left if that is not reached.

    Raises:
      UserError: it cannot be written.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".tmp", dir=path.parent)
        os.fchmod(descriptor, 0o644)
        with open(descriptor, "wb") as file:  # noqa: PTH123 it has no path
            yield file
        Path(temporary).replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)


def _info(path: str, patience: Patience) -> fs.FileInfo:
    scheme, bucket, key = split(path)
    client = filesystem(scheme, bucket, patience)
    ask = lambda: within(patience.seconds(), lambda: client.get_file_info(f"{bucket}/{key}".rstrip("/")))  # noqa: E731
    return persistently(path, patience, ask)


def _status(path: str, info: fs.FileInfo) -> FileStatus:
    # Lists give fractions of a second that the object's own header does not.
    return FileStatus(path, info.size, (info.mtime_ns or 0) // 1_000_000_000 * 1_000_000_000)


@contextmanager
def _local(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
