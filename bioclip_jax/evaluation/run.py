"""Evaluates a model on benchmarks and writes the results: what `bioclip-jax eval` does."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import jax
from rich.console import Console
from rich.markup import escape

from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.evaluation.cache import digest
from bioclip_jax.evaluation.encoder import Encoder
from bioclip_jax.evaluation.measure import Findings, Settings, measure
from bioclip_jax.evaluation.methods import well_formed
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Measurement, Run
from bioclip_jax.evaluation.table import figures_table

PACKAGES = ("bioclip-jax", "jax", "jaxlib", "numpy", "scipy", "pillow")


def evaluate(
    encoder: Encoder,
    benchmarks: Sequence[Benchmark],
    results: Path,
    *,
    settings: Settings | None = None,
    batch_size: int = 256,
    command: str | None = None,
    console: Console | None = None,
) -> list[Findings]:
    """Measures `encoder` on each benchmark, adds a run per benchmark to the database, and prints a table of each.

    A run is written as soon as its benchmark is done, so what was finished stays, whatever stops the next. Features
    of dataset directories are kept in `features` beside the database, so that the same command again, after an
    interruption too, computes only what is missing; it replaces its own earlier run.

    Args:
        encoder: the model.
        benchmarks: from recipes.
        results: the database file, made if it does not exist.
        settings: how to measure.
        batch_size: photos encoded at once.
        command: noted in the results; by default this process's command line.
        console: where tables go; standard output by default.

    Returns:
        The findings, one per benchmark.
    """
    settings = settings or Settings()
    console = console or Console()
    folder = results.parent / "features"
    found = []
    with Results(results, create=True) as database:
        for benchmark in benchmarks:
            started, clock = datetime.now(UTC), time.monotonic()
            findings = measure(
                encoder,
                benchmark,
                settings,
                cache_folder=folder,
                warn=lambda line: console.print(f"[yellow]note:[/] {escape(well_formed(line))}", soft_wrap=True),
                batch_size=batch_size,
            )
            run = Run(
                identity=_identity(encoder, benchmark, settings, findings),
                model=encoder.name,
                weights=encoder.fingerprint,
                benchmark=benchmark.name,
                description=benchmark.description,
                license=benchmark.license,
                citation=benchmark.citation,
                dataset=benchmark.dataset,
                dataset_hash=findings.data_hash,
                settings=json.dumps({**asdict(settings), **_protocol(benchmark)}),
                splits=json.dumps(findings.splits),
                notes=json.dumps(findings.notes, ensure_ascii=False),
                command=command or shlex.join(sys.argv),
                versions=json.dumps(_versions()),
                device=_device(),
                started=started.isoformat(timespec="seconds"),
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
            console.print(figures_table(run, findings.figures, findings.differences, settings.method))
            found.append(findings)
    return found


def _identity(encoder: Encoder, benchmark: Benchmark, settings: Settings, findings: Findings) -> str:
    description = {
        key: value for key, value in asdict(benchmark).items() if key not in ("dataset", "description", "citation")
    }
    return digest(encoder.fingerprint, findings.data_hash, description, asdict(settings))


def _protocol(benchmark: Benchmark) -> dict[str, object]:
    tasks = {task.name: [", ".join(task.support), ", ".join(task.query)] for task in benchmark.few_shot}
    return {"few_shot_tasks": tasks, "folds": benchmark.folds, "train_split": benchmark.train_split}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def _device() -> str:
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"
