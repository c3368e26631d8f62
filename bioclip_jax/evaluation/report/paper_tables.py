"""The section with the paper's tables: published rows, and ours below them wherever a benchmark was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bioclip_jax.evaluation.methods import percent
from bioclip_jax.evaluation.report.accuracy import figure_cell
from bioclip_jax.evaluation.report.markup import Markup, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.evaluation.report.published import MEANS, TABLES, TOGETHER, Column, PublishedTable
from bioclip_jax.evaluation.rows import Figure


def tables_section(runs: Sequence[Measured]) -> Markup | None:
    """Every published table of which `runs`, newest first, have a figure; None without any."""
    parts = [part for table in TABLES if (part := _table(table, runs))]
    if not parts:
        return None
    caption = (
        "Rows in grey were published by others and are not measured here; coloured rows are this program's, by the "
        "protocol of the published code's main version (variant paper) with its quirks, and 95 % bootstrap intervals "
        "over species or classes. By date the published rows came from that code's version 1.0.0 (paper v1 in the "
        "tables of protocols), which is not confirmed. "
        "A mean of ours is over the columns that were measured, so compare it only where none is missing."
    )
    return tag("section", tag("h2", "The paper's tables"), figure(caption, parts))


class Set(NamedTuple):
    """What was measured of one set of recipes."""

    figures: tuple[Figure, ...]
    """One for each recipe that was measured, or their mean."""
    of: int
    """How many figures make the set's mean."""


def found(column: Column, runs: Sequence[Measured]) -> list[Set]:
    """The newest figures of each of the column's sets that one of `runs` has; sets without any are left out.

    A recipe that measures a set's recipes together stands for them where it was measured.
    """
    sets = []
    for names in column.sets:
        mean = _newest(column, TOGETHER.get(names, ""), runs, MEANS)
        figures = [mean] if mean else [_newest(column, name, runs) for name in names]
        known = tuple(f for f in figures if f is not None)
        if known:
            sets.append(Set(known, len(figures)))
    return sets


def _newest(column: Column, name: str, runs: Sequence[Measured], tasks: Sequence[str] = ()) -> Figure | None:
    """Of the recipe `name`, and of one of `tasks` if any are named."""
    figures = (f for run in runs if run.run.benchmark == name for f in run.figures)
    return next((f for f in figures if _is(column, f) and (not tasks or f.split in tasks)), None)


def _is(column: Column, f: Figure) -> bool:
    place = (f.learner, f.protocol, f.metric, f.variant)
    return place == ("model", column.protocol, column.metric, column.variant)


def _table(table: PublishedTable, runs: Sequence[Measured]) -> Markup | None:
    models = dict.fromkeys((run.run.model, run.run.weights) for run in runs)
    ours = []
    for model, weights in models:
        own = [run for run in runs if (run.run.model, run.run.weights) == (model, weights)]
        cells = [found(column, own) for column in table.columns]
        if any(cells):
            ours.append(_own_row(table, model, weights, cells))
    if not ours:
        return None
    heads = [column.title for column in table.columns]
    heads += [] if table.pooled else ["mean"]
    theirs = [
        tag(
            "tr",
            tag("td", model, class_="text"),
            [tag("td", "\N{EN DASH}" if value is None else f"{value:.1f}") for value in values],
            class_="published",
        )
        for model, values in table.rows.items()
    ]
    head = tag("thead", tag("tr", tag("th", "%", class_="text"), [tag("th", name) for name in heads]))
    return Markup(
        tag("h3", table.title)
        + tag("div", tag("table", head, tag("tbody", theirs, ours)), class_="table")
        + tag("p", f"{table.about} Published rows: {table.source}.", class_="meta")
    )


def _own_row(table: PublishedTable, model: str, weights: str, cells: Sequence[Sequence[Set]]) -> Markup:
    shown, means = [], []
    for column, sets in zip(table.columns, cells, strict=True):
        if not sets:
            shown.append(tag("td", "\N{EN DASH}", class_="none"))
            continue
        mean = sum(sum(f.value for f in one.figures) / len(one.figures) for one in sets) / len(sets)
        means.append(mean)
        if len(column.sets) == 1 and sets[0].of == 1:
            shown.append(figure_cell(sets[0].figures[0], "model"))
        else:
            have, all_sets = (
                (len(sets[0].figures), sets[0].of) if len(column.sets) == 1 else (len(sets), len(column.sets))
            )
            missing = f"{have} of {all_sets} sets"
            shown.append(tag("td", percent(mean), tag("small", missing), class_="model"))
    if not table.pooled:
        mean = sum(means) / len(means)
        of = None if len(means) == len(cells) else tag("small", f"of {len(means)}")
        shown.append(tag("td", percent(mean), of, class_="model"))
    return tag("tr", tag("td", model, tag("small", weights[:8]), class_="text"), shown)
