"""Evaluates a model on benchmarks and writes the results: what `bioclip-jax eval` does.

A suite is worked through run by run: one model on one benchmark. What was measured before is shown, not measured again.
Several workers that are given the same command and the same database share it (`bioclip_jax.evaluation.claims`). Within
a run, one process encodes all photos, on all its devices; what it had encoded when it was killed is not encoded again.
"""

from __future__ import annotations

import contextlib
import json
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import jax
from rich.console import Console
from rich.markup import escape

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.evaluation.cache import digest
from bioclip_jax.evaluation.claims import Claims
from bioclip_jax.evaluation.data import Data
from bioclip_jax.evaluation.encoder import Encoder
from bioclip_jax.evaluation.features import has_manifest
from bioclip_jax.evaluation.file_stamps import UNREADABLE
from bioclip_jax.evaluation.measure import Findings, Settings, measure
from bioclip_jax.evaluation.measure_tasks import measure_tasks, photos_hash
from bioclip_jax.evaluation.methods import well_formed
from bioclip_jax.evaluation.results import Results, ResultsError
from bioclip_jax.evaluation.rows import Difference, Figure, Measurement, Run
from bioclip_jax.evaluation.suite import refused
from bioclip_jax.evaluation.table import figures_table
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark
from bioclip_jax.pipeline.readers import DAMAGED

PACKAGES = ("bioclip-jax", "jax", "jaxlib", "numpy", "scipy", "pillow")
SECONDS_BETWEEN_LOOKS = 2.0
"""At runs that another worker is measuring, when nothing else is left."""


def evaluate(
    encoder: Encoder,
    benchmarks: Sequence[Benchmark | TaskBenchmark],
    results: Path,
    *,
    settings: Settings | None = None,
    batch_size: int = 256,
    command: str | None = None,
    console: Console | None = None,
    again: bool = False,
    failed: Mapping[str, UserError] | None = None,
) -> list[Findings]:
    """Measures `encoder` on each benchmark, adds a run per benchmark to the database, and prints a table of each.

    A run is written as soon as its benchmark is done, so what was finished stays, whatever stops the next; features
    are kept in `features` beside the database. So the same command again, after an interruption too, computes only
    what is missing.

    Args:
        encoder: the model.
        benchmarks: from recipes.
        results: the database file, made if it does not exist.
        settings: how to measure.
        batch_size: photos read and encoded at once, over all devices.
        command: noted in the results; by default this process's command line.
        console: where tables go; standard output by default.
        again: measure anew what was measured before, in its place. Data read live by a recipe always are.
        failed: benchmarks of the suite that could not be opened, and why.

    Returns:
        The findings, one per benchmark; of those measured before, without their pictures and predictions.

    Raises:
        UserError: a benchmark cannot be measured. The others of a suite are measured first.
    """
    console = console or Console()
    suite = _Suite(encoder, settings or Settings(), batch_size, command or shlex.join(sys.argv), console)
    errors = _Errors(dict(failed or {}), len(benchmarks) + len(failed or {}), console)
    found: dict[int, Findings] = {}
    if line := _without_effect(suite.settings, benchmarks):
        suite.note(line)
    with Results(results, create=True) as database, Claims(results) as claims:
        left = []
        for place, benchmark in enumerate(benchmarks):
            with errors.of(benchmark.name):
                left.append(suite.item(place, benchmark, database, again=again))
        while left:
            waiting = []
            for item in left:
                with errors.of(item.benchmark.name):
                    findings = suite.work_on(item, database, claims)
                    if findings is None:
                        waiting.append(item)
                    else:
                        found[item.place] = findings
            if len(waiting) == len(left):
                time.sleep(SECONDS_BETWEEN_LOOKS)
            left = waiting
    errors.raise_all()
    return [found[place] for place in range(len(benchmarks))]


@contextlib.contextmanager
def _as_user_error() -> Iterator[None]:
    """What the system refuses of a benchmark's data is a line of its own; that nobody reads the tables is not."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise refused(error) from error


class _Errors:
    """What stops a benchmark of a suite is said, and the others go on; of a single benchmark it is raised."""

    def __init__(self, failed: dict[str, UserError], total: int, console: Console):
        self._failed, self._total, self._console = failed, total, console
        if total > 1:
            for name, error in failed.items():
                self._say(name, error)

    @contextlib.contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Keeps the error of a benchmark; one of the database stops all."""
        try:
            with _as_user_error():
                yield
        except UserError as error:
            if self._total == 1 or isinstance(error, ResultsError):
                raise
            self._failed[name] = error
            self._say(name, error)

    def raise_all(self) -> None:
        """Ends the command if something failed."""
        if self._failed and self._total == 1:
            raise next(iter(self._failed.values()))
        if self._failed:
            names = ", ".join(self._failed)
            raise UserError(f"{len(self._failed)} of {self._total} benchmarks could not be measured: {names}")

    def _say(self, name: str, error: UserError) -> None:
        head = f"[red]{escape(name)} cannot be measured:[/]"
        self._console.print(f"{head} {escape(well_formed(str(error)))}", soft_wrap=True, highlight=False)
        for line in error.details:  # of a folder that is not laid out as it should be
            self._console.print(f"  {escape(well_formed(line))}", soft_wrap=True, highlight=False)


@dataclass
class _Item:
    """A benchmark of a suite."""

    place: int
    benchmark: Benchmark | TaskBenchmark
    identity: str
    """Of its run."""
    outdated: str = ""
    """When the run was started that is to be measured anew."""
    waits: bool = False
    """Whether it was said that another worker measures it."""


@dataclass(frozen=True)
class _Suite:
    """What the runs of one command have in common."""

    encoder: Encoder
    settings: Settings
    batch_size: int
    command: str
    console: Console

    def item(self, place: int, benchmark: Benchmark | TaskBenchmark, database: Results, *, again: bool) -> _Item:
        """A benchmark as it is when the command begins: what is measured from now on is up to date."""
        item = _Item(place, benchmark, self._identity(benchmark))
        live = isinstance(benchmark, Benchmark) and not has_manifest(benchmark.dataset)
        if (kept := database.kept(item.identity)) and (again or live or _could_not_be_read(kept.run)):
            item.outdated = kept.run.started
        return item

    def work_on(self, item: _Item, database: Results, claims: Claims) -> Findings | None:
        """The findings of a benchmark, measured before or now; None if another worker measures it."""
        if (kept := self._kept(item, database)) is not None:
            return kept
        with claims.hold(database, item.identity) as other:
            if other is None:
                # Between the two looks another worker may have finished it.
                return self._kept(item, database) or self._measure(item, database)
        if not item.waits:
            self._say(f"{item.benchmark.name}: {other} is measuring it; it is looked at again at the end")
            item.waits = True
        return None

    def _identity(self, benchmark: Benchmark | TaskBenchmark) -> str:
        if isinstance(benchmark, TaskBenchmark):
            labels = {split: photos.labels_hash for split, photos in benchmark.splits.items()}
            how = _known_to_tasks(self.settings)
            return digest(
                self.encoder.fingerprint, benchmark.name, photos_hash(benchmark), labels, _tasks(benchmark), how
            )
        # Of a recipe's `dataset`, what is in it counts and not where it lies.
        without = ("dataset", "description", "citation")
        about = {key: value for key, value in asdict(benchmark).items() if key not in without}
        return digest(self.encoder.fingerprint, Data.open(benchmark).hash, about, asdict(self.settings))

    def _kept(self, item: _Item, database: Results) -> Findings | None:
        """Shows the run that is there already."""
        kept = database.kept(item.identity)
        if kept is None or kept.run.started == item.outdated:
            return None
        run, figures, differences = kept.run, list(kept.figures), list(kept.differences)
        version = json.loads(run.versions).get("bioclip-jax", "unknown")
        self._say(f"{run.benchmark}: measured {run.started} by release {version}; --again measures it anew")
        self._show(run, figures, differences)
        return Findings(run.dataset_hash, json.loads(run.splits), json.loads(run.notes), figures, differences)

    def _measure(self, item: _Item, database: Results) -> Findings:
        benchmark, encoder, settings = item.benchmark, self.encoder, self.settings
        started, clock = datetime.now(UTC), time.monotonic()
        folder = database.path.parent / "features"
        if isinstance(benchmark, TaskBenchmark):
            findings = measure_tasks(
                encoder,
                benchmark,
                settings,
                cache_folder=folder,
                warn=self.note,
                say=self._say,
                batch_size=self.batch_size,
            )
            dataset = ", ".join(dict.fromkeys(str(photos.root) for photos in benchmark.splits.values()))
        else:
            findings = measure(
                encoder, benchmark, settings, cache_folder=folder, warn=self.note, batch_size=self.batch_size
            )
            dataset = benchmark.dataset
        run = Run(
            identity=item.identity,
            model=encoder.name,
            weights=encoder.fingerprint,
            benchmark=benchmark.name,
            description=benchmark.description,
            license=benchmark.license,
            citation=benchmark.citation,
            dataset=dataset,
            dataset_hash=findings.data_hash,
            settings=json.dumps(_settings(settings, benchmark), default=str),
            splits=json.dumps(findings.splits),
            notes=json.dumps(findings.notes, ensure_ascii=False),
            command=self.command,
            versions=json.dumps(versions()),
            device=device(),
            started=started.isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - clock, 1),
        )
        database.add(
            Measurement(
                run,
                findings.figures,
                findings.differences,
                findings.predictions,
                findings.species,
                findings.gallery,
                findings.thumbnails,
            )
        )
        self._show(run, findings.figures, findings.differences)
        return findings

    def _show(self, run: Run, figures: Sequence[Figure], differences: Sequence[Difference]) -> None:
        self.console.print(figures_table(run, figures, differences, self.settings.method))

    def note(self, line: str) -> None:
        """Says what is worth saying and stops nothing."""
        self.console.print(f"[yellow]note:[/] {escape(well_formed(line))}", soft_wrap=True)

    def _say(self, line: str) -> None:
        self.console.print(well_formed(line), soft_wrap=True, markup=False, highlight=False)


def _tasks(benchmark: TaskBenchmark) -> dict[str, object]:
    """The tasks with their settings."""
    return {task.name: [type(task).__name__, asdict(cast(Any, task))] for task in benchmark.tasks}


def _known_to_tasks(settings: Settings) -> dict[str, object]:
    return {"resamples": settings.resamples, "seed": settings.seed}


def _without_effect(settings: Settings, benchmarks: Sequence[Benchmark | TaskBenchmark]) -> str:
    """A line on settings that are not the default and that some of the benchmarks do not know, or ''."""
    names = [benchmark.name for benchmark in benchmarks if isinstance(benchmark, TaskBenchmark)]
    known = _known_to_tasks(settings)
    default = asdict(Settings())
    flags = [
        f"--{'' if value else 'no-'}{name.replace('_', '-')}"
        for name, value in asdict(settings).items()
        if name not in known and value != default[name]
    ]
    if not names or not flags:
        return ""
    return f"{', '.join(flags)} cannot change the protocols of published tasks: {', '.join(names)}"


def _could_not_be_read(run: Run) -> bool:
    """Whether a run lacks photos whose files were there, so that the next one may have them."""
    counts = [split.get("unreadable", {}) for split in json.loads(run.splits).values()]
    return any(reason.startswith((UNREADABLE, DAMAGED)) for reasons in counts for reason in reasons)


def _settings(settings: Settings, benchmark: Benchmark | TaskBenchmark) -> dict[str, object]:
    """What of the settings and the benchmark says how it was measured."""
    if isinstance(benchmark, TaskBenchmark):
        return {**_known_to_tasks(settings), "tasks": _tasks(benchmark), "source": benchmark.source}
    tasks = {task.name: [", ".join(task.support), ", ".join(task.query)] for task in benchmark.few_shot}
    protocol = {"few_shot_tasks": tasks, "folds": benchmark.folds, "train_split": benchmark.train_split}
    return {**asdict(settings), **protocol}


def versions() -> dict[str, str]:
    """Package -> version, of what decides figures."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def device() -> str:
    """How many devices this process sees, and of what kind."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"
