"""Builds a dataset directory from the splits of a data recipe, shard by shard; a stopped build goes on where it was.

Every image is decoded once; a record that cannot be used is counted by reason, written to `rejected.csv` with what was
wrong, and left out. Records keep the order of their source (the loader shuffles). `manifest.json` comes last.
"""

from __future__ import annotations

import csv
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import plan as plans
from bioclip_jax.pipeline.lock import exclusive
from bioclip_jax.pipeline.manifest import (
    BUILD_FOLDER,
    MANIFEST,
    Manifest,
    missing_files,
    read_manifest,
    write_manifest,
)
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.prepare import Prepared, Rejected, prepare
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.shards import ShardWriter, check_name, write_tfds_metadata
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import Tokenizer

REJECTED, LOCK = "rejected.csv", "lock"
_OURS = re.compile(r".+\.array_record-\d{5,}-of-\d{5,}|(dataset_info|features|\.?manifest)\.json(\.tmp)?|rejected\.csv")
Finished = dict[str, list[plans.FinishedShard]]


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
      rejected: how many records were left out, by (split, reason).
      already_finished: there was nothing to do.
    """

    directory: Path
    manifest: Manifest
    rejected: Mapping[tuple[str, str], int]
    seconds: float
    already_finished: bool = False

    def lines(self) -> list[str]:
        """A summary for people."""
        if self.already_finished:
            return [f"{self.directory} is already built: nothing to do"]
        counts = ", ".join(f"{split} {self.manifest.records(split):,}" for split in self.manifest.splits)
        lines = [f"{self.directory}: {counts} records in {self.seconds:.1f} s"]
        if self.rejected:
            lines.append(f"{sum(self.rejected.values()):,} records were left out, see {self.directory / REJECTED}:")
            lines += [f"  {count:,} of {split}: {reason}" for (split, reason), count in self.rejected.items()]
        return lines


def build(
    source: Mapping[str, RecordSource],
    out: str | os.PathLike[str],
    *,
    name: str,
    shard_bytes: int = 2**30,
    image_size: int | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> BuildReport:
    """Builds the dataset directory `out`, or goes on with a build of the same source that was stopped.

    Args:
      source: the records of each split.
      out: the directory; it may exist if it is empty or holds this very build, unfinished or finished.
      name: of the dataset; its files are called after it.
      shard_bytes: about how large a file becomes.
      image_size: if given, images are shrunk so that the shorter side is at most this many pixels.
      threads: that read and decode; one per CPU if not given.
      overwrite: removes a dataset that is there first.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: an argument is wrong, a split is empty, or `out` holds something else.
      UserError: nothing in a split is usable, or a file cannot be written.
    """
    start = time.monotonic()
    _check_arguments(source, name, shard_bytes, image_size, threads)
    directory, console, threads = Path(out), console or Console(stderr=True), threads or os.cpu_count() or 1
    _enter(directory, overwrite)
    busy = f"output {directory}: another process is building it now"
    with exclusive(directory / BUILD_FOLDER / LOCK, busy), ThreadPoolExecutor(threads) as pool:
        try:
            plan = plans.make_plan(source, name, shard_bytes, image_size, pool)
            if overwrite:
                _empty(directory)
            if (manifest := _finished(directory, plan)) is not None:
                return BuildReport(directory, manifest, {}, time.monotonic() - start, already_finished=True)
            _start_or_continue(directory, plan)
            finished = _Builder(directory, plan, image_size, pool, 4 * threads, console).run(source)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            done = len(list((directory / BUILD_FOLDER).glob("*.array_record-*.json")))
            console.print(f"stopped; finished shards: {done}; the same command goes on from there", highlight=False)
            raise
        return _finish(directory, plan, finished, start)


class _Builder:
    """Writes the shards that are not there yet, one after another."""

    def __init__(
        self,
        directory: Path,
        plan: plans.Plan,
        image_size: int | None,
        pool: ThreadPoolExecutor,
        window: int,
        console: Console,
    ):
        self._directory, self._plan, self._image_size = directory, plan, image_size
        self._pool, self._window = pool, window
        self._progress = RecordProgress(sum(plan.records.values()), f"building {plan.name}", console)
        self._captions = _CaptionLengths()
        self._rejected = 0

    def run(self, source: Mapping[str, RecordSource]) -> Finished:
        finished: Finished = {split: [] for split in source}
        with self._progress:
            for split, records in source.items():
                for index in range(self._plan.shards[split]):
                    name = self._plan.shard_name(split, index)
                    shard = plans.read_finished(self._directory, name)
                    if shard is None:
                        shard = self._write(name, records, self._plan.span(split, index))
                    else:
                        self._rejected += len(shard.rejected)
                        self._progress.skip(len(self._plan.span(split, index)))
                    finished[split].append(shard)
        return finished

    def _write(self, name: str, records: RecordSource, span: range) -> plans.FinishedShard:
        rejected = []
        read = partial(prepare, records, image_size=self._image_size)
        with ShardWriter(self._directory / name, self._directory / BUILD_FOLDER / f"{name}.tmp") as writer:
            for item in ordered_map(self._pool, read, span, self._window):
                if isinstance(item, Prepared):
                    writer.write(item.example)
                    self._captions.add(item)
                else:
                    rejected.append(item)
                    self._rejected += 1
                self._progress.advance(note=f"{self._rejected:,} left out" if self._rejected else "")
            file = writer.finish()
        shard = plans.FinishedShard(file, tuple(rejected), dict(self._captions.longest))
        plans.write_finished(self._directory, shard)
        return shard


class _CaptionLengths:
    """The longest caption of each type so far, in tokens; a taxon is looked at once."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer()
        self._seen: set[Taxon] = set()
        self.longest: dict[str, int] = {}

    def add(self, item: Prepared) -> None:
        if item.taxon not in self._seen:
            self._seen.add(item.taxon)
            for text_type in ALL_TEXT_TYPES:
                self._count(text_type, caption(item.taxon, text_type))
        if item.caption:
            self._count("caption", item.caption)

    def _count(self, text_type: str, text: str) -> None:
        self.longest[text_type] = max(self.longest.get(text_type, 0), self._tokenizer.count(text))


def _check_arguments(
    source: Mapping[str, RecordSource], name: str, shard_bytes: int, image_size: int | None, threads: int | None
) -> None:
    check_name("dataset name", name)
    for split, records in source.items():
        check_name("split", split)
        if not len(records):
            raise UsageError(f"split {split!r} has no records; leave it out or look at the source")
    for flag, value in (("shard-bytes", shard_bytes), ("image-size", image_size), ("threads", threads)):
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: must be at least 1")


def _enter(directory: Path, overwrite: bool) -> None:
    """Makes the directory, or makes sure that nothing but a dataset is in it, which `overwrite` removes."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        entries = sorted(directory.iterdir())
        foreign = [entry.name for entry in entries if entry.name != BUILD_FOLDER and not _OURS.fullmatch(entry.name)]
        started = (directory / BUILD_FOLDER).is_dir() or (directory / MANIFEST).exists()
        if foreign or (not started and not overwrite and any(entry.name != REJECTED for entry in entries)):
            first = (foreign or [entry.name for entry in entries])[0]
            raise UsageError(f"output {directory} holds something else ({first!r}); give a new or empty directory")
        (directory / BUILD_FOLDER).mkdir(exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"output {directory} is a file; give a directory") from error
    except OSError as error:
        raise UserError(f"output {directory} cannot be written: {error.strerror or error}") from error


def _empty(directory: Path) -> None:
    """Removes a dataset, but not the lock that this process holds."""
    for entry in [*directory.iterdir(), *(directory / BUILD_FOLDER).iterdir()]:
        if entry.name not in (BUILD_FOLDER, LOCK):
            entry.unlink()


def _finished(directory: Path, plan: plans.Plan) -> Manifest | None:
    """The manifest, if this very dataset is there already."""
    if not (directory / MANIFEST).exists():
        return None
    manifest = read_manifest(directory, check_files=False)
    shutil.rmtree(directory / BUILD_FOLDER)
    if manifest.source_fingerprint != plan.fingerprint:
        raise UsageError(
            f"output {directory} holds dataset {manifest.name!r} from another source or with other options; "
            "give another directory, or --overwrite"
        )
    if problems := missing_files(directory, manifest):
        raise UserError(f"output {directory} is damaged ({problems[0]}); build it again with --overwrite")
    return manifest


def _start_or_continue(directory: Path, plan: plans.Plan) -> None:
    before = plans.read_fingerprint(directory)
    if before not in (None, plan.fingerprint):
        raise UsageError(
            f"output {directory} holds an unfinished build of another source or with other options; "
            "give another directory, or --overwrite"
        )
    plans.write_plan(directory, plan)


def _finish(directory: Path, plan: plans.Plan, finished: Finished, start: float) -> BuildReport:
    """Writes the table of rejected records, the metadata, and at last the manifest."""
    rejected = [(split, entry) for split, shards in finished.items() for shard in shards for entry in shard.rejected]
    _write_rejected(directory / REJECTED, rejected)
    counts = Counter((split, entry.reason) for split, entry in rejected)
    files = {split: tuple(shard.file for shard in shards) for split, shards in finished.items()}
    for split in files:
        if not any(file.records for file in files[split]):
            reasons = ", ".join(f"{n:,} {reason}" for (of, reason), n in counts.most_common() if of == split)
            for file in (file for files_of_split in files.values() for file in files_of_split):
                (directory / file.name).unlink()
            shutil.rmtree(directory / BUILD_FOLDER)
            raise UserError(f"split {split!r}: none of its records is usable ({reasons}); see {directory / REJECTED}")
    lengths: dict[str, int] = {}
    for shard in (shard for shards in finished.values() for shard in shards):
        lengths |= {kind: max(n, lengths.get(kind, 0)) for kind, n in shard.token_lengths.items()}
    try:
        write_tfds_metadata(directory, plan.name, files)
    except OSError as error:
        raise UserError(f"metadata of {directory} could not be written: {error.strerror or error}") from error
    manifest = Manifest(plan.name, files, lengths, plan.fingerprint)
    write_manifest(directory, manifest)
    shutil.rmtree(directory / BUILD_FOLDER)
    return BuildReport(directory, manifest, dict(sorted(counts.items())), time.monotonic() - start)


def _write_rejected(path: Path, rejected: Iterable[tuple[str, Rejected]]) -> None:
    try:
        with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
            table = csv.writer(file)
            table.writerow(["split", "key", "reason", "detail"])
            table.writerows([split, entry.key, entry.reason, entry.detail] for split, entry in rejected)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error
