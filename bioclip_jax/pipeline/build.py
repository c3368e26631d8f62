"""Builds a dataset directory from the splits of a data recipe, shard by shard; a stopped build goes on where it was.

A record that cannot be used is counted by reason, written to `rejected.csv` with what was wrong, and left out. Plainly,
each shard takes some records of the source in a row. A build that mixes, leaves out duplicates or evaluation images, or
cleans up taxa looks at all records first (`build_scan`), decides (`build_merge`), and then writes each shard from
records anywhere in the source (`build_write`). `manifest.json` comes last.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import plan as plans
from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.build_beam import check_flags
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.build_merge import TAXONOMY_CHANGES
from bioclip_jax.pipeline.build_passes import Engine, Outcome, Passes, Selection
from bioclip_jax.pipeline.build_rejected import REJECTED, Counts, join_parts
from bioclip_jax.pipeline.collisions import Collisions, read_collisions
from bioclip_jax.pipeline.lock import exclusive
from bioclip_jax.pipeline.manifest import (
    BUILD_FOLDER,
    MANIFEST,
    Manifest,
    missing_files,
    read_manifest,
    write_manifest,
)
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.shards import check_name, write_tfds_metadata

LOCK = "lock"
_REMOTE = re.compile(r"(gs|s3):/+(.*)")  # a path has one slash where the URL had two
_TABLES = (REJECTED, TAXONOMY_CHANGES)
_OURS = re.compile(
    r".+\.array_record-\d{5,}-of-\d{5,}|(dataset_info|features|\.?manifest)\.json(\.tmp)?|LICENSE"
    r"|(rejected|taxonomy_changes)\.csv(\.[0-9a-f]+\.tmp)?"
)


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
      rejected: how many records were left out, by (split, reason).
      already_finished: there was nothing to do.
      notes: what else there is to say.
    """

    directory: Path
    manifest: Manifest
    rejected: Mapping[tuple[str, str], int]
    seconds: float
    already_finished: bool = False
    notes: Sequence[str] = ()

    def lines(self) -> list[str]:
        """A summary for people."""
        if self.already_finished:
            return [f"{self.directory} is already built: nothing to do"]
        counts = ", ".join(f"{split} {self.manifest.records(split):,}" for split in self.manifest.splits)
        lines = [f"{self.directory}: {counts} records in {self.seconds:.1f} s"]
        if self.rejected:
            lines.append(f"{sum(self.rejected.values()):,} records were left out, see {self.directory / REJECTED}:")
            lines += [f"  {count:,} of {split}: {reason}" for (split, reason), count in self.rejected.items()]
        return [*lines, *self.notes]


def build(
    source: Mapping[str, RecordSource],
    out: str | os.PathLike[str],
    *,
    name: str,
    shard_bytes: int = 2**30,
    images: ImageOptions | None = None,
    selection: Selection | None = None,
    about: About | None = None,
    workers: int | None = 1,
    threads: int | None = None,
    beam: Sequence[str] | None = None,
    overwrite: bool = False,
    console: Console | None = None,
) -> BuildReport:
    """Builds the dataset directory `out`, or goes on with a build of the same source that was stopped.

    Args:
      source: the records of each split.
      out: the directory; it may exist if it is empty or holds this very build, unfinished or finished.
      name: of the dataset; its files are called after it.
      shard_bytes: about how large a file becomes.
      images: what is done to images; nothing if not given.
      selection: which records the dataset gets, and in which order; all in the order of the source if not given.
      about: what TFDS says about the dataset.
      workers: processes; 1 is this one, None as many as there are CPUs, but not more than units of work. A script that
        asks for more must begin under `if __name__ == "__main__":`, because each process imports it.
      threads: that read and decode, in all processes together; one per CPU if not given.
      beam: flags of Apache Beam, which then runs the units of work; `out` must be visible to all its workers.
      overwrite: removes a dataset that is there first.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: an argument is wrong, a split is empty, or `out` holds something else.
      UserError: nothing in a split is usable, or a file cannot be written.
    """
    start = time.monotonic()
    _check_arguments(source, name, {"shard-bytes": shard_bytes, "threads": threads, "workers": workers}, selection)
    directory, console, threads = Path(out), console or Console(stderr=True), threads or os.cpu_count() or 1
    images, selection = images or ImageOptions(), selection or Selection()
    if beam is not None:
        check_flags(beam)  # raises before anything is done
    _enter(directory, overwrite)
    busy = f"output {directory}: another process is building it now"
    with exclusive(directory / BUILD_FOLDER / LOCK, busy), _stopping(directory, console):
        evaluation = _evaluation_images(selection, threads, console)
        more = [selection.mix, selection.dedup, selection.clean_up, evaluation.fingerprint if evaluation else ""]
        with ThreadPoolExecutor(threads) as pool:
            plan = plans.make_plan(source, name, shard_bytes, images, more, pool)
        if overwrite and plans.read_fingerprint(directory) != plan.fingerprint:  # else it is this build, unfinished
            _empty(directory)
        if (manifest := _finished(directory, plan)) is not None:
            return BuildReport(directory, manifest, {}, time.monotonic() - start, already_finished=True)
        _start_or_continue(directory, plan)
        engine = Engine(console, workers, threads, beam)
        passes = Passes(directory.absolute(), source, images, selection, evaluation, shard_bytes, engine)
        return _finish(directory, passes.run(plan), about, start)


def _check_arguments(
    source: Mapping[str, RecordSource], name: str, numbers: Mapping[str, int | None], selection: Selection | None
) -> None:
    check_name("dataset name", name)
    for split, records in source.items():
        check_name("split", split)
        if not len(records):
            raise UsageError(f"split {split!r} has no records; leave it out or look at the source")
    for flag, value in numbers.items():
        if value is not None and value < 1:
            raise UsageError(f"--{flag} {value}: must be at least 1")
    if selection and selection.mix is not None and selection.mix < 0:
        raise UsageError(f"--mix {selection.mix}: the seed must be at least 0")


def _evaluation_images(selection: Selection, threads: int, console: Console) -> Collisions | None:
    return read_collisions(selection.exclude, threads=threads, console=console) if selection.exclude else None


@contextmanager
def _stopping(directory: Path, console: Console) -> Iterator[None]:
    """Removes what workers left half-written, and says what is there when the build is stopped."""
    try:
        yield
    except BaseException as error:
        _remove_temporary_files(directory)
        if isinstance(error, KeyboardInterrupt):
            folder = directory / BUILD_FOLDER
            shards, spans = len(list(folder.glob("*.array_record-*.json"))), len(list(folder.glob("scan-*.json")))
            parts = f"finished parts of the first pass: {spans}; " if spans else ""
            text = f"stopped; {parts}finished shards: {shards}; the same command goes on from there"
            console.print(text, highlight=False, soft_wrap=True)
        raise


def _remove_temporary_files(directory: Path) -> None:
    for path in (directory / BUILD_FOLDER).glob("*.tmp"):
        path.unlink(missing_ok=True)


def _enter(directory: Path, overwrite: bool) -> None:
    """Makes the directory, or makes sure that nothing but a dataset is in it, which `overwrite` removes."""
    if remote := _REMOTE.match(str(directory)):
        raise UsageError(
            f"output {remote[1]}://{remote[2]}: a dataset is built in a local or mounted directory; give one, and copy "
            "what is there when it is finished"
        )
    try:
        directory.mkdir(parents=True, exist_ok=True)
        entries = sorted(directory.iterdir())
        foreign = [entry.name for entry in entries if entry.name != BUILD_FOLDER and not _OURS.fullmatch(entry.name)]
        started = (directory / BUILD_FOLDER).is_dir() or (directory / MANIFEST).exists()
        if foreign or (not started and not overwrite and any(entry.name not in _TABLES for entry in entries)):
            first = (foreign or [entry.name for entry in entries if entry.name not in _TABLES])[0]
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
    _remove_temporary_files(directory)
    plans.write_plan(directory, plan)


def _finish(directory: Path, outcome: Outcome, about: About | None, start: float) -> BuildReport:
    """Writes the table of rejected records, the metadata, and at last the manifest."""
    join_parts(directory, outcome.parts)
    counts = Counts(dict(sorted(outcome.rejected.items())))
    files = {split: tuple(shard.file for shard in shards) for split, shards in outcome.shards.items()}
    for split, records in outcome.plan.records.items():
        if not records or (files[split] and not any(file.records for file in files[split])):
            reasons = ", ".join(f"{n:,} {reason}" for (of, reason), n in counts.most_common() if of == split)
            for file in (file for files_of_split in files.values() for file in files_of_split):
                (directory / file.name).unlink()
            shutil.rmtree(directory / BUILD_FOLDER)
            raise UserError(f"split {split!r}: none of its records is usable ({reasons}); see {directory / REJECTED}")
    lengths: dict[str, int] = {}
    for shard in (shard for shards in outcome.shards.values() for shard in shards):
        lengths |= {kind: max(n, lengths.get(kind, 0)) for kind, n in shard.token_lengths.items()}
    try:
        write_tfds_metadata(directory, outcome.plan.name, files, about)
    except OSError as error:
        raise UserError(f"metadata of {directory} could not be written: {error.strerror or error}") from error
    manifest = Manifest(outcome.plan.name, files, lengths, outcome.plan.fingerprint)
    write_manifest(directory, manifest)
    shutil.rmtree(directory / BUILD_FOLDER)
    notes = [f"{outcome.changes:,} taxa were tidied, see {directory / TAXONOMY_CHANGES}"] if outcome.changes else []
    return BuildReport(directory, manifest, counts, time.monotonic() - start, notes=notes)
