"""Looks whether a dataset directory is what its manifest says, and fit to train on and to be measured on.

Everything is read once: the checksum of each file, then each record, whose image is decoded. 24 bytes per record and
the distinct taxa are kept, so that a set of any size can be compared with itself; sorting them takes as much again.
What a clean-up would say about the taxa is a warning: it breaks no promise.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bioclip_jax.errors import UserError
from bioclip_jax.images import ImageError, decode
from bioclip_jax.pipeline.clean_up import plan_clean_up
from bioclip_jax.pipeline.manifest import MANIFEST, Manifest, ShardFile, read_manifest
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.prepare import checked_record
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.readers import ShardedSource
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.text.taxonomy import Taxon

_EXAMPLES = 3

FILES = "files: size, checksum, number of records"
READABLE = "records can be read"
SCHEMA = "records follow the schema"
IMAGES = "images can be decoded"
KEYS = "keys are unique"
GROUPS = "no source_id in two splits"
PICTURES = "no image in two splits"
TAXONOMY = "taxonomy"
"""Followed by the kind of a finding of `clean_up`."""


@dataclass
class Check:
    """One promise: how often it was looked at and found broken, and the first few breaches in words.

    A `warning` is no promise; the dataset is fit for use without it.
    """

    name: str
    looked_at: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list)
    warning: bool = False

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
        return not any(check.broken for check in self.checks if not check.warning)

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
            colour = "green" if not check.broken else "yellow" if check.warning else "red"
            problems = f"[{colour}]{check.broken:,}[/]"
            table.add_row(check.name, f"{check.looked_at:,}", problems, escape("\n".join(check.examples)))
        return table


@dataclass(frozen=True)
class _Looked:
    """One record: the first check it fails (if any) and why; hashes of key, source_id and image, 0 for none; taxon."""

    failed: str = ""
    problem: str = ""
    hashes: tuple[int, int, int] = (0, 0, 0)
    taxon: Taxon | None = None


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
    try:
        hashes = np.zeros((3, total), np.uint64)  # of key, source_id and image
    except (MemoryError, ValueError):
        raise UserError(f"{directory / MANIFEST} claims {total:,} records, too many to compare in memory") from None
    taxa = Counter[Taxon]()
    row = 0
    with (
        ThreadPoolExecutor(threads) as pool,
        RecordProgress(total, f"verifying {manifest.name}", console) as progress,
    ):
        for file in (file for files in manifest.splits.values() for file in files):
            checks[FILES].look(_file_problem(directory, file))
            if not (directory / file.name).is_file():
                progress.skip(file.records)
                row += file.records
                continue
            look = partial(_look, ShardedSource(directory, [file]))
            for looked in ordered_map(pool, look, range(file.records), 4 * threads):
                hashes[:, row] = looked.hashes
                row += 1
                _count(checks, looked)
                if looked.taxon is not None:
                    taxa[looked.taxon] += 1
                progress.advance()
    _compare(checks, hashes, {split: ShardedSource(directory, files) for split, files in manifest.splits.items()})
    return VerifyReport(directory, manifest, [*checks.values(), *_taxonomy(taxa)])


def _file_problem(directory: Path, file: ShardFile) -> str:
    if (directory / file.name).exists() and not (directory / file.name).is_file():
        return f"{file.name} is not a file"  # opening a pipe would wait for ever
    try:
        with (directory / file.name).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        return f"{file.name}: {error.strerror or error}"
    if size != file.bytes:
        return f"{file.name} has {size:,} bytes instead of {file.bytes:,}"
    if digest != file.sha256:
        return f"{file.name}: the checksum differs"
    try:
        held = ArrayRecordReader(str(directory / file.name)).num_records()
    except (RuntimeError, ValueError) as error:
        return f"{file.name}: {error}"
    return "" if held == file.records else f"{file.name} holds {held:,} records instead of {file.records:,}"


def _look(source: ShardedSource, index: int) -> _Looked:
    try:
        record = source[index]
    except UserError as error:
        return _Looked(READABLE, str(error))
    hashes = (_hash(record["key"].encode()), _hash(record["source_id"].encode()), _hash(record["image"]))
    taxon = Taxon.from_record(record)
    try:
        checked_record(record)
        decode(record["image"])
    except BadRecord as error:
        return _Looked(SCHEMA, str(error), hashes, taxon)
    except ImageError as error:
        return _Looked(IMAGES, f"{record['key']}: {error.reason}", hashes, taxon)
    return _Looked(hashes=hashes, taxon=taxon)


def _count(checks: dict[str, Check], looked: _Looked) -> None:
    for name in (READABLE, SCHEMA, IMAGES):
        checks[name].look(looked.problem if name == looked.failed else "")
        if name == looked.failed:
            break  # what comes after was not reached


def _compare(checks: dict[str, Check], hashes: np.ndarray, sources: Mapping[str, ShardedSource]) -> None:
    """Compares all records with each other: keys anywhere, source_id and image between splits.

    Args:
      checks: where it is counted.
      hashes: uint64 [3, records] of key, source_id and image, in the order of the splits; 0 for none.
      sources: the splits.
    """
    splits = list(sources)
    starts = np.cumsum([0, *(len(source) for source in sources.values())])
    for column, name in zip(hashes, (KEYS, GROUPS, PICTURES), strict=True):
        order = np.argsort(column, kind="stable")
        column = column[order]
        unknown = int(np.searchsorted(column, np.uint64(1)))
        pairs = unknown + np.flatnonzero(column[unknown + 1 :] == column[unknown:-1])
        split_of = np.searchsorted(starts, (order[pairs], order[pairs + 1]), "right") - 1
        if name != KEYS:
            differ = split_of[0] != split_of[1]
            pairs, split_of = pairs[differ], split_of[:, differ]
        checks[name].looked_at = len(column) - unknown
        checks[name].broken = len(pairs)
        for pair, of in zip(pairs[:_EXAMPLES], split_of.T[:_EXAMPLES], strict=True):
            records = []
            for row, number in zip(order[pair : pair + 2], of, strict=True):
                record = sources[splits[number]][int(row - starts[number])]
                records.append(f"{splits[number]} {record['source_id'] if name == GROUPS else record['key']}")
            checks[name].examples.append(" = ".join(records))


def _taxonomy(taxa: Mapping[Taxon, int]) -> list[Check]:
    """What a clean-up would change or report, as one warning for each kind; in taxa, not records."""
    found: dict[str, Check] = {}
    for finding in plan_clean_up(taxa).findings():
        check = found.setdefault(finding.kind, Check(f"{TAXONOMY}: {finding.kind}", len(taxa), warning=True))
        check.broken += 1
        if len(check.examples) < _EXAMPLES:
            check.examples.append(f"{finding} ({finding.records:,} records)")
    return list(found.values()) or [Check(TAXONOMY, len(taxa), warning=True)]


def _hash(data: bytes) -> int:
    """64 bits that tell records apart; 0 stands for nothing."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") if data else 0
