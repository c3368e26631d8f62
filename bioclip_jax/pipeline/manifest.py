"""`manifest.json`: what a dataset directory holds. It is written last, so a directory that has one is complete."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import storage
from bioclip_jax.pipeline.storage import is_remote

MANIFEST = "manifest.json"
BUILD_FOLDER = ".build"
"""Inside a dataset directory while it is being built: the plan, and what is known of each finished shard."""
VERSION = 1
_FILE_NAME = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9_.-]*")


@dataclass(frozen=True)
class ShardFile:
    """One ArrayRecord file: its name in the directory, number of records, size in bytes, and SHA-256 in hexadecimal."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a dataset directory holds.

    Attributes:
      name: of the dataset.
      splits: the files of each split, in the order of their records.
      token_lengths: for each text type the longest caption in the dataset, in tokens, start and end included.
      source_fingerprint: tells whether a build from this source would write the same dataset.
    """

    name: str
    splits: Mapping[str, tuple[ShardFile, ...]]
    token_lengths: Mapping[str, int]
    source_fingerprint: str

    def records(self, split: str) -> int:
        """The number of records of a split."""
        return sum(file.records for file in self.splits[split])

    @property
    def hash(self) -> str:
        """SHA-256 over everything else, in hexadecimal; it stands for the data wherever something is cached."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {**self._content(), "hash": self.hash}

    def _content(self) -> dict[str, Any]:
        splits = {
            split: {"files": [asdict(file) for file in files], "records": self.records(split)}
            for split, files in self.splits.items()
        }
        return {
            "name": self.name,
            "version": VERSION,
            "splits": splits,
            "token_lengths": dict(self.token_lengths),
            "source_fingerprint": self.source_fingerprint,
        }


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Writes the manifest whole or not at all."""
    write_json(directory / MANIFEST, manifest.to_json())


def read_manifest(directory: str | os.PathLike[str], *, check_files: bool = True) -> Manifest:
    """Reads the manifest of a dataset directory, and with `check_files` looks whether each file is there in full size.

    The directory may be gs:// or s3://, whose objects appear whole.

    Raises:
      UsageError: there is no such directory, or it is not a dataset.
      UserError: the manifest or a file is damaged, or the build did not finish.
    """
    if isinstance(directory, str) and is_remote(directory):
        return _read_remote(directory, check_files)
    directory = Path(directory).expanduser()
    path = directory / MANIFEST
    if not directory.is_dir():
        raise UsageError(f"dataset {directory}: no such directory")
    if not path.is_file():
        if (directory / BUILD_FOLDER).is_dir():
            raise UserError(f"dataset {directory} is not finished; run the command that builds it again, it will go on")
        raise UsageError(f"{directory} is not a dataset directory (no {MANIFEST}); `bioclip-jax data build` makes one")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    manifest = _parse(str(path), content)
    if check_files:
        _refuse_incomplete(str(directory), missing_files(directory, manifest))
    return manifest


def _read_remote(directory: str, check_files: bool) -> Manifest:
    path = storage.join(directory, MANIFEST)
    if not storage.is_file(path):
        raise UsageError(f"{directory} is not a dataset directory (no {MANIFEST})")
    manifest = _parse(path, storage.read_whole(path))
    if check_files:
        sizes = {file.path.rpartition("/")[2]: file.size for file in storage.list_files(directory)}
        files = [file for files in manifest.splits.values() for file in files]
        problems = [_size_problem(file, sizes.get(file.name, "no such object")) for file in files]
        _refuse_incomplete(directory, [problem for problem in problems if problem])
    return manifest


def _refuse_incomplete(directory: str, problems: Sequence[str]) -> None:
    if problems:
        more = f" (and {len(problems) - 1} more files)" if len(problems) > 1 else ""
        raise UserError(f"dataset {directory}: {problems[0]}{more}; copy or build it again")


def _size_problem(file: ShardFile, found: int | str) -> str:
    """What is wrong with a file of this size, or of which this is known instead; '' if nothing is."""
    if isinstance(found, str):
        return f"{file.name}: {found}"
    return "" if found == file.bytes else f"{file.name} has {found} bytes, the manifest says {file.bytes}"


def missing_files(directory: Path, manifest: Manifest) -> list[str]:
    """One line for each file that is absent or has another size than the manifest says."""
    problems = []
    for file in (file for files in manifest.splits.values() for file in files):
        found: int | str
        try:
            found = (directory / file.name).stat().st_size
        except OSError as error:
            found = error.strerror or str(error)
        problems.append(_size_problem(file, found))
    return [problem for problem in problems if problem]


def write_json(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    """Writes JSON to a temporary file beside `path`, then renames it.

    Raises:
      UserError: it cannot be written, a full disk for example.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error


def _parse(path: str, data: bytes) -> Manifest:
    try:
        content = json.loads(data)
        version = content["version"]
        if version != VERSION:
            raise UserError(f"{path} has format version {version!r}, this release reads {VERSION}; build it again")
        manifest = Manifest(
            name=str(content["name"]),
            splits={
                str(split): tuple(
                    _shard_file(str(file["name"]), int(file["records"]), int(file["bytes"]), str(file["sha256"]))
                    for file in entry["files"]
                )
                for split, entry in content["splits"].items()
            },
            token_lengths={str(kind): int(length) for kind, length in content["token_lengths"].items()},
            source_fingerprint=str(content["source_fingerprint"]),
        )
        stated = content["hash"]
        if not manifest.splits:
            raise ValueError("no splits")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged ({reason}); copy or build the dataset again") from error
    if any(not _FILE_NAME.fullmatch(file.name) for files in manifest.splits.values() for file in files):
        raise UserError(f"{path} names a file outside the dataset directory, or none; do not trust this dataset")
    if stated != manifest.hash:
        raise UserError(f"{path} was changed after it was written (its hash differs); copy or build the dataset again")
    return manifest


def _shard_file(name: str, records: int, size: int, sha256: str) -> ShardFile:
    if not 0 <= records <= size:
        raise ValueError(f"{name!r} cannot hold {records} records in {size} bytes")
    return ShardFile(name, records, size, sha256)
