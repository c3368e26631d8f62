"""Measures a model on the synthetic tree and adds its emergence figures to the results: `bioclip-jax emergence`."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bioclip_jax.evaluation.cache import ArrayCache, digest
from bioclip_jax.evaluation.emergence.synthetic import PROTOCOL, TRAITS, Emergence, Settings, measure
from bioclip_jax.evaluation.encoder import ImageEncoder
from bioclip_jax.evaluation.methods import well_formed
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Figure, Measurement, Run
from bioclip_jax.evaluation.run import device, versions


def run(
    encoder: ImageEncoder,
    dataset: str,
    results: Path,
    *,
    split: str = "test",
    traits: Sequence[str] = TRAITS,
    settings: Settings | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    console: Console | None = None,
) -> Emergence:
    """Measures, adds a run to the database, in place of an earlier one of the same settings, and prints a table.

    Args:
        encoder: the model.
        dataset: a directory that `bioclip-jax data build synthetic` made, or the recipe `synthetic`.
        results: the database; features are kept in `features` beside it.
        split: of the dataset.
        traits: the continuous traits to look at.
        settings: how much is drawn.
        batch_size: photos encoded at once.
        limit: at most so many photos, chosen at random.
        console: where the table goes; standard output by default.
    """
    settings, console = settings or Settings(), console or Console()

    def say(line: str) -> None:
        console.print(well_formed(line), markup=False, highlight=False, soft_wrap=True)

    started, clock = datetime.now(UTC), time.monotonic()
    with Results(results, create=True) as database:
        cache = ArrayCache(results.parent / "features", say)
        found = measure(
            encoder, dataset, split=split, traits=traits, settings=settings, cache=cache, batch_size=batch_size,
            limit=limit, say=say,
        )  # fmt: skip
        asked = {**asdict(settings), "split": split, "traits": list(traits), "limit": limit}
        row = Run(
            identity=digest(PROTOCOL, encoder.fingerprint, found.data_hash, asked),
            model=encoder.name,
            weights=encoder.fingerprint,
            benchmark=PROTOCOL,
            description="How species and the variants within them are arranged, on the synthetic tree.",
            license="MIT, as this project",
            citation="bioclip_jax, docs/emergence.md",
            dataset=dataset,
            dataset_hash=found.data_hash,
            settings=json.dumps({**asked, "few_shot_tasks": {}, "folds": 0, "train_split": None}),
            splits=json.dumps({split: _described(found)}),
            notes=json.dumps(found.notes, ensure_ascii=False),
            command=shlex.join(sys.argv),
            versions=json.dumps(versions()),
            device=device(),
            started=started.isoformat(timespec="milliseconds"),
            seconds=round(time.monotonic() - clock, 1),
        )
        database.add(Measurement(row, found.figures, [], [], [], [], []))
    console.print(table_of(encoder.name, found.figures))
    for line in found.notes:
        say(line)
    return found


def _described(found: Emergence) -> dict[str, object]:
    unusable = sum(found.unreadable.values())
    return {
        "records": found.photos + unusable,
        "used": found.photos,
        "unreadable": found.unreadable,
        "species": found.species,
        "in_train": None,
    }


def table_of(model: str, figures: Sequence[Figure]) -> Table:
    """The figures, each statistic with its p-values beside it."""
    table = Table(
        title=f"{escape(well_formed(model))}: emergence", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for heading in ("of", "statistic"):
        table.add_column(heading, no_wrap=True)
    for heading in ("value", "95 % interval", "by chance", "p"):
        table.add_column(heading, justify="right", no_wrap=True)
    statistics = [figure for figure in figures if ", p " not in figure.metric]
    above = ""
    for figure in statistics:
        p_values = [f for f in figures if f.variant == figure.variant and f.metric.startswith(f"{figure.metric}, p ")]
        table.add_row(
            figure.variant if figure.variant != above else "",
            figure.metric,
            f"{figure.value:.3f}",
            f"{figure.low:.3f} to {figure.high:.3f}" if figure.low == figure.low else "-",
            f"{figure.chance:.3f}" if figure.chance == figure.chance else "-",
            ", ".join(f"{f.value:.3f} {f.metric.partition(', p ')[2]}" for f in p_values) or "-",
        )
        above = figure.variant
    return table
