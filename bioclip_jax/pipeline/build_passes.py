"""The passes of a build over its source: each does the units of work that are not done yet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.build_beam import run_by_beam
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.build_merge import UNIT, Merged, merge, read_merged
from bioclip_jax.pipeline.build_rejected import Counts
from bioclip_jax.pipeline.build_scan import ScanJob, Span, read_note, spans_of
from bioclip_jax.pipeline.build_workers import Progress, run
from bioclip_jax.pipeline.build_write import Shard, WriteJob, shards_of
from bioclip_jax.pipeline.clean_up import plan_clean_up
from bioclip_jax.pipeline.plan import FinishedShard, Plan, read_finished
from bioclip_jax.pipeline.prepare import EvaluationImages
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.record import RecordSource


@dataclass(frozen=True)
class Selection:
    """What takes a first pass over all records: which of them a dataset gets, and in which order.

    Attributes:
      mix: seed of a random order within each split, so that neighbours in a file are not of one provider; None keeps
        the order of the source.
      dedup: leave out records with the key, or the bytes of the image, of an earlier one. Splits are looked at in their
        order: an image that is in two of them stays in the first.
      exclude: evaluation images (folders or files) that no record may collide with; see `collisions`.
      clean_up: tidy the taxa; see `clean_up`.
    """

    mix: int | None = None
    dedup: bool = False
    exclude: tuple[str | os.PathLike[str], ...] = ()
    clean_up: bool = False

    def __bool__(self) -> bool:
        return self.mix is not None or self.dedup or bool(self.exclude) or self.clean_up


@dataclass(frozen=True)
class Engine:
    """What runs the units of work: this process, several, or Apache Beam.

    Attributes:
      console: for the progress.
      workers: processes; None for as many as there are CPUs, but not more than units.
      threads: in all of them together.
      beam: flags of Apache Beam, which then takes the place of the processes.
    """

    console: Console
    workers: int | None
    threads: int
    beam: Sequence[str] | None

    def run(self, job: ScanJob | WriteJob, todo: Sequence[Any], progress: Progress) -> None:
        """Does these units."""
        if not todo:
            return
        if self.beam is not None:
            run_by_beam(job, todo, self.beam)
            return
        workers = min(self.workers or os.cpu_count() or 1, len(todo))
        run(replace(job, threads=-(-self.threads // workers)), todo, workers, progress)


@dataclass(frozen=True)
class Outcome:
    """What the passes leave behind.

    Attributes:
      plan: of the last pass.
      shards: what is known of each file, by split.
      rejected: how many records were left out, by split and reason.
      parts: the units of work whose tables of rejected records make the whole, in order.
      changes: how many taxa were replaced.
    """

    plan: Plan
    shards: Mapping[str, Sequence[FinishedShard]]
    rejected: Counts
    parts: Sequence[str]
    changes: int = 0


@dataclass(frozen=True)
class Passes:
    """A build's work on its source.

    Attributes:
      directory: of the dataset, as an absolute path.
      source: the records of each split.
      options: what is done to images.
      selection: which records the dataset gets, and in which order.
      evaluation: images that no record may collide with.
      shard_bytes: about how large a file becomes.
      engine: runs the units.
    """

    directory: Path
    source: Mapping[str, RecordSource]
    options: ImageOptions
    selection: Selection
    evaluation: EvaluationImages | None
    shard_bytes: int
    engine: Engine

    def run(self, plan: Plan) -> Outcome:
        """Does what is left to do of a plan. Where a split has no usable record, no shards are written."""
        merged = Merged(plan, Counts(), {})
        parts = []
        if self.selection:
            merged = read_merged(self.directory) or self._first_pass(plan)
            parts = [*(span.name for span in spans_of(plan)), UNIT]
        plan, rejected = merged.plan, Counts(merged.rejected)
        shards: dict[str, list[FinishedShard]] = {split: [] for split in plan.records}
        if all(plan.records.values()):
            for shard, finished in self._write(merged).items():
                shards[shard.split].append(finished)
                parts.append(finished.file.name)
                rejected.update({(shard.split, reason): count for reason, count in finished.rejected.items()})
        return Outcome(plan, shards, rejected, parts, len(merged.changes))

    def _first_pass(self, plan: Plan) -> Merged:
        selection, spans = self.selection, spans_of(plan)
        job = ScanJob(
            self.source,
            self.directory,
            self.options,
            hashes=selection.dedup,
            taxa=selection.clean_up,
            evaluation=self.evaluation,
        )

        def left_out(span: Span) -> int | None:
            note = read_note(self.directory, span)
            return None if note is None else sum(note.rejected.values())

        self._do(job, {span: span.stop - span.start for span in spans}, left_out, f"looking through {plan.name}")
        return merge(
            self.directory,
            plan,
            spans,
            self.shard_bytes,
            dedup=selection.dedup,
            mix=selection.mix,
            clean_up=plan_clean_up if selection.clean_up else None,
            console=self.engine.console,
        )

    def _write(self, merged: Merged) -> dict[Shard, FinishedShard]:
        plan = merged.plan
        job = WriteJob(self.source, self.directory, plan, self.options, merged.changes)
        shards = shards_of(plan)
        finished: dict[Shard, FinishedShard] = {}

        def left_out(shard: Shard) -> int | None:
            found = read_finished(self.directory, plan.shard_name(*shard))
            if found is None:
                return None
            finished[shard] = found
            return sum(found.rejected.values())

        self._do(job, {shard: len(plan.span(*shard)) for shard in shards}, left_out, f"building {plan.name}")
        for shard in shards:
            if shard not in finished and left_out(shard) is None:
                raise UserError(f"{self.directory / plan.shard_name(*shard)} is gone or has changed; build again")
        return {shard: finished[shard] for shard in shards}

    def _do(
        self, job: ScanJob | WriteJob, units: Mapping[Any, int], left_out: Callable[[Any], int | None], action: str
    ) -> None:
        """Does the units (with their numbers of records) for which `left_out` has no number yet."""
        with RecordProgress(sum(units.values()), action, self.engine.console) as bar:
            progress, todo = Progress(bar), []
            for unit, records in units.items():
                rejected = left_out(unit)
                if rejected is None:
                    todo.append(unit)
                else:
                    progress.skip(records, rejected)
            self.engine.run(job, todo, progress)
