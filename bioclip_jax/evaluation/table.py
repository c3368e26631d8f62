"""The figures of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from bioclip_jax.evaluation.rows import Difference, Figure, Run


def _percent(value: float) -> str:
    return "100" if value == 1 else f"{100 * value:.1f}"


def _with_interval(figure: Figure | None) -> str:
    return f"{_percent(figure.value)} ({100 * figure.low:.0f}-{100 * figure.high:.0f})" if figure else "-"


def figures_table(run: Run, figures: Sequence[Figure], differences: Sequence[Difference], method: str) -> Group:
    """Zero-shot and few-shot accuracies in per cent, model beside baseline and chance."""
    title = f"{escape(run.model)} on {escape(run.benchmark)}"
    counts = {
        f.split: max(g.samples for g in figures if g.split == f.split) for f in figures if f.protocol == "zero_shot"
    }
    photos = ", ".join(f"{escape(split)} {count:,}" for split, count in counts.items())
    caption = f"In %, with 95 % bootstrap intervals; candidates are the taxa of the split. Photos: {photos}."
    zero_shot = [f for f in figures if f.protocol == "zero_shot" and f.metric == "balanced_accuracy"]
    few_shot = [f for f in figures if f.protocol == "few_shot" and f.metric == "micro_accuracy"]
    tables = [
        _table(f"{title}: zero-shot, balanced accuracy", caption, zero_shot, differences, method),
        _table(f"{title}: few-shot (SimpleShot), mean of folds", caption, few_shot, differences, None),
    ]
    return Group(*[table for table in tables if table.row_count])


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
            _percent(figure.chance),
            _with_interval(baselines.get(_place(figure))),
            _with_interval(figure),
            f"{100 * pair.value:+.0f} ({100 * pair.low:+.0f}, {100 * pair.high:+.0f})" if pair else "-",
        )
        above = figure.split
    return table


def _place(row: Figure | Difference) -> tuple[str, str, str]:
    """Zero-shot figures of model and baseline stand in one row whatever their variant; few-shot ones where the shots
    agree.
    """
    return row.split, row.rank, row.variant if row.protocol == "few_shot" else ""
