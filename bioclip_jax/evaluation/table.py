"""The figures of a run as a table for the terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from bioclip_jax.evaluation.methods import is_share, percent, plain_number, well_formed
from bioclip_jax.evaluation.rows import Difference, Figure, Run


def _with_interval(figure: Figure | None) -> str:
    return f"{percent(figure.value)} ({100 * figure.low:.0f}-{100 * figure.high:.0f})" if figure else "-"


def figures_table(run: Run, figures: Sequence[Figure], differences: Sequence[Difference], method: str) -> Group:
    """Zero-shot and few-shot accuracies in per cent, model beside baseline and chance; or the figures of tasks."""
    title = f"{escape(well_formed(run.model))} on {escape(well_formed(run.benchmark))}"
    settings = json.loads(run.settings)
    if "tasks" in settings:
        return Group(_tasks_table(title, figures))
    zero_shot = [f for f in figures if f.protocol == "zero_shot" and f.metric == "balanced_accuracy"]
    few_shot = [f for f in figures if f.protocol == "few_shot" and f.metric == "balanced_accuracy"]
    caption = "In %, with 95 % bootstrap intervals over species; candidates are the taxa of the split."
    for split in dict.fromkeys(f.split for f in zero_shot):
        photos, species = (
            max(getattr(f, name) for f in zero_shot if f.split == split) for name in ("samples", "clusters")
        )
        caption += f" {escape(split)}: {photos:,} photos of {species:,} species."
    train = settings["train_split"]
    if any(f.learner == "baseline" for f in zero_shot):
        used = json.loads(run.splits)[train]["used"]
        caption += f" Baseline: logistic regression on colours, learnt from {used:,} training photos."
    few_caption = "In %, with 95 % bootstrap intervals over species; the baseline has the same folds."
    tables = [
        _table(f"{title}: zero-shot, balanced accuracy", caption, zero_shot, differences, method),
        _table(
            f"{title}: few-shot (SimpleShot), balanced accuracy, mean of folds",
            few_caption,
            few_shot,
            differences,
            None,
        ),
    ]
    return Group(*[table for table in tables if table.row_count])


def _tasks_table(title: str, figures: Sequence[Figure]) -> Table:
    table = Table(
        title=title,
        caption="Shares in %; 95 % bootstrap intervals.",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("task", "protocol", "of", "metric"):
        table.add_column(heading, overflow="fold")
    for heading in ("chance", "value"):
        table.add_column(heading, justify="right", no_wrap=True)
    above = ""
    for figure in figures:
        write = percent if is_share(figure.protocol, figure.metric) else plain_number
        value = write(figure.value)
        if math.isfinite(figure.low):
            value += f" ({write(figure.low)} to {write(figure.high)})"
        table.add_row(
            escape(figure.split) if figure.split != above else "",
            escape(figure.variant),
            escape(figure.rank),
            escape(figure.metric),
            write(figure.chance) if math.isfinite(figure.chance) else "-",
            value,
        )
        above = figure.split
    return table


def _table(
    title: str,
    caption: str,
    figures: Sequence[Figure],
    differences: Sequence[Difference],
    method: str | None,
) -> Table:
    table = Table(
        title=title,
        caption=caption,
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in ("split", "rank" if method else "rank, k"):
        table.add_column(heading, no_wrap=True)
    for heading in ("taxa", "chance", "baseline", "model", "difference"):
        table.add_column(heading, justify="right", no_wrap=True)
    baselines = {_place(f): f for f in figures if f.learner == "baseline"}
    paired = {(_place(d), d.metric): d for d in differences}
    above = ""
    for figure in figures:
        if figure.learner != "model" or (method and figure.variant != method):
            continue
        pair = paired.get((_place(figure), figure.metric))
        table.add_row(
            escape(figure.split) if figure.split != above else "",
            figure.rank if method else f"{figure.rank}, {figure.variant.removesuffix('-shot')}",
            str(figure.classes),
            percent(figure.chance),
            _with_interval(baselines.get(_place(figure))),
            _with_interval(figure),
            f"{100 * pair.value:+.0f} ({100 * pair.low:+.0f}, {100 * pair.high:+.0f})" if pair else "-",
        )
        above = figure.split
    return table


def _place(row: Figure | Difference) -> tuple[str, str, str]:
    """What figures of model and baseline in one row share: in few-shot the shots too, in zero-shot no variant."""
    return row.split, row.rank, row.variant if row.protocol == "few_shot" else ""
