"""Looks whether a dataset directory is what its manifest says, and fit to train on and to be measured on.

Everything is read once: the checksum of each file, then each record, whose image is decoded. 24 bytes per record are
kept, so that a set of any size can be compared with itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bioclip_jax.errors import UserError
from bioclip_jax.images import ImageError, decode
from bioclip_jax.pipeline.manifest import Manifest, ShardFile, read_manifest
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.prepare import checked_record
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.readers import ShardedSource
from bioclip_jax.pipeline.record import BadRecord

_EXAMPLES = 3

FILES = "files: size and checksum"
READABLE = "records can be read"
SCHEMA = "records follow the schema"
IMAGES = "images can be decoded"
KEYS = "keys are unique"
GROUPS = "no source_id in two splits"
PICTURES = "no image in two splits"


@dataclass
class Check:
    """One promise: how often it was looked at and found broken, and the first few breaches in words."""

    name: str
    looked_at: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list)

    def look(self, problem: str = "") -> None:
        """Counts one look; `problem` says what was wrong, '' that nothing was."""
        self.looked_at += 1
        if problem:
            self.broken += 1
            if len(self.examples) < _EXAMPLES:
                self.examples.append(problem)


@dataclass(frozen=True)
class VerifyReport:
    """What was found; `exit_code` is 1 if a promise is broken, else 0."""

    directory: Path
    manifest: Manifest
    checks: Sequence[Check]

    @property
    def ok(self) -> bool:
        """Whether every promise is kept."""
        return not any(check.broken for check in self.checks)

    @property
    def exit_code(self) -> int:
        """For the command line."""
        return 0 if self.ok else 1

    def table(self) -> Table:
        """For people; `rich` prints it."""
        counts = ", ".join(f"{split} {self.manifest.records(split):,}" for split in self.manifest.splits)
        table = Table(title=f"{self.manifest.name}: {counts}", title_justify="left")
        table.add_column("check")
        table.add_column("looked at", justify="right")
        table.add_column("problems", justify="right")
        table.add_column("such as", overflow="fold")
        for check in self.checks:
            problems = f"[red]{check.broken:,}[/]" if check.broken else "[green]0[/]"
            table.add_row(check.name, f"{check.looked_at:,}", problems, escape("\n".join(check.examples)))
        return table


@dataclass(frozen=True)
class _Looked:
    """One record: the first check it fails (if any) and why; hashes of key, source_id and image, 0 for none."""

    failed: str = ""
    problem: str = ""
    hashes: tuple[int, int, int] = (0, 0, 0)


def verify(
    directory: str | os.PathLike[str], *, threads: int | None = None, console: Console | None = None
) -> VerifyReport:
    """Checks a dataset directory.

    Args:
      directory: of a finished dataset.
      threads: that decode; one per CPU if not given.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: it is not a dataset directory.
      UserError: the manifest itself is damaged, or the build did not finish.
    """
    directory = Path(directory)
    manifest = read_manifest(directory, check_files=False)
    checks = {name: Check(name) for name in (FILES, READABLE, SCHEMA, IMAGES, KEYS, GROUPS, PICTURES)}
    threads = threads or os.cpu_count() or 1
    total = sum(manifest.records(split) for split in manifest.splits)
    hashes: dict[str, np.ndarray] = {}  # split -> uint64 [records, 3]
    with (
        ThreadPoolExecutor(threads) as pool,
        RecordProgress(total, f"verifying {manifest.name}", console) as progress,
    ):
        for split, files in manifest.splits.items():
            hashes[split] = np.zeros((manifest.records(split), 3), np.uint64)
            row = 0
            for file in files:
                problem = _file_problem(directory, file)
                checks[FILES].look(problem)
                if not (directory / file.name).is_file():
                    progress.skip(file.records)
                    row += file.records
                    continue
                look = partial(_look, ShardedSource(directory, [file]))
                for looked in ordered_map(pool, look, range(file.records), 4 * threads):
                    hashes[split][row] = looked.hashes
                    row += 1
                    _count(checks, looked)
                    progress.advance()
    sources = {split: ShardedSource(directory, files) for split, files in manifest.splits.items()}
    _compare(checks, hashes, sources)
    return VerifyReport(directory, manifest, list(checks.values()))


def _file_problem(directory: Path, file: ShardFile) -> str:
    try:
        with (directory / file.name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        return f"{file.name}: {error.strerror or error}"
    if size != file.bytes:
        return f"{file.name} has {size:,} bytes instead of {file.bytes:,}"
    return "" if digest == file.sha256 else f"{file.name}: the checksum differs"


def _look(source: ShardedSource, index: int) -> _Looked:
    try:
        record = source[index]
    except UserError as error:
        return _Looked(READABLE, str(error))
    hashes = (_hash(record["key"].encode()), _hash(record["source_id"].encode()), _hash(record["image"]))
    try:
        checked_record(record)
        decode(record["image"])
    except BadRecord as error:
        return _Looked(SCHEMA, str(error), hashes)
    except ImageError as error:
        return _Looked(IMAGES, f"{record['key']}: {error.reason}", hashes)
    return _Looked(hashes=hashes)


def _count(checks: dict[str, Check], looked: _Looked) -> None:
    for name in (READABLE, SCHEMA, IMAGES):
        checks[name].look(looked.problem if name == looked.failed else "")
        if name == looked.failed:
            break  # what comes after was not reached


def _compare(checks: dict[str, Check], hashes: dict[str, np.ndarray], sources: dict[str, ShardedSource]) -> None:
    """Compares all records with each other: keys anywhere, source_id and image between splits."""
    splits = list(hashes)
    split_of = np.repeat(np.arange(len(splits)), [len(hashes[split]) for split in splits])
    starts = np.cumsum([0] + [len(hashes[split]) for split in splits])
    everything = np.concatenate(list(hashes.values()))
    for column, name in enumerate((KEYS, GROUPS, PICTURES)):
        known = np.flatnonzero(everything[:, column])
        sort = known[np.argsort(everything[known, column], kind="stable")]
        same = everything[sort[1:], column] == everything[sort[:-1], column]
        if name != KEYS:
            same &= split_of[sort[1:]] != split_of[sort[:-1]]
        checks[name].looked_at = len(known)
        checks[name].broken = int(same.sum())
        for place in np.flatnonzero(same)[:_EXAMPLES]:
            pair = []
            for row in (sort[place], sort[place + 1]):
                split = splits[split_of[row]]
                record = sources[split][int(row - starts[split_of[row]])]
                pair.append(f"{split} {record['source_id'] if name == GROUPS else record['key']}")
            checks[name].examples.append(" = ".join(pair))


def _hash(data: bytes) -> int:
    """64 bits that tell records apart; 0 stands for nothing."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") if data else 0
