"""The section on the tasks of a published benchmark: the paper's protocol and the corrected one side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bioclip_jax.evaluation.methods import is_share, percent, plain_number
from bioclip_jax.evaluation.report.accuracy import figure_cell
from bioclip_jax.evaluation.report.markup import Markup, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.evaluation.rows import Figure

MAIN = ("paper", "paper v1", "corrected")
METRIC_NAMES = {
    "micro_accuracy": "micro accuracy",
    "balanced_accuracy": "balanced accuracy",
    "exact_match": "all labels right",
    "f1_first2": "F1 of the first two labels",
}


def parts_of(variant: str) -> tuple[str, str]:
    """Which column a variant stands in, and the rest of it: `paper v1, 5-shot` is (`paper v1`, `5-shot`)."""
    main, _, rest = variant.partition(", ")
    return (main, rest) if main in MAIN else ("other", variant)


def metric_name(metric: str) -> str:
    """A metric in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def protocols_section(runs: Sequence[Measured]) -> Markup | None:
    """The figures of all tasks, models side by side (the first leads); None without any."""
    figures = [run.task_figures() for run in runs]
    if not figures[0]:
        return None
    shown = [(run, found) for run, found in zip(runs, figures, strict=True) if found]
    columns = [name for name in (*MAIN, "other") if any(parts_of(f.variant)[0] == name for f in figures[0])]
    cells = [{(*_row_of(f), parts_of(f.variant)[0]): f for f in reversed(found)} for _, found in shown]
    rows = []
    above: tuple[str, str] | None = None
    for place in dict.fromkeys(_row_of(f) for found in figures for f in found):
        task, protocol, rank, rest, metric = place
        values = [of_model.get((*place, column)) for of_model in cells for column in columns]
        first = next(f for f in values if f)
        name = tag("td", task, tag("small", protocol.replace("_", " ")), class_="text")
        rows.append(
            tag(
                "tr",
                name if (task, protocol) != above else tag("td"),
                tag("td", ", ".join(part for part in (metric_name(metric), rest, rank) if part), class_="text wide"),
                tag("td", f"{first.samples:,}"),
                tag("td", _chance(first)),
                [_cell(f, number // len(columns)) for number, f in enumerate(values)],
            )
        )
        above = (task, protocol)
    groups = [tag("th", run.label, colspan=len(columns), class_="group first") for run, _ in shown]
    empty = [tag("th")] * 4
    texts = [tag("th", name, class_="text") for name in ("task", "figure")]
    names = [tag("th", column if column != "other" else "") for _ in shown for column in columns]
    head = tag(
        "thead", tag("tr", empty, groups), tag("tr", texts, [tag("th", name) for name in ("photos", "chance")], names)
    )
    caption = (
        "Every figure of the benchmark's protocols; accuracies and other shares in %. paper: as BioCLIP 2's published "
        "code measures it, with the quirks that the notes name; corrected: the same without them. Small: 95 % "
        "bootstrap interval over species or classes; under the pointer: the standard deviation over folds or seeds, "
        "where there are several."
    )
    notes = list(dict.fromkeys(note for run, _ in shown for note in run.notes))
    table = tag("div", tag("table", head, tag("tbody", rows)), class_="table")
    listed = [tag("h3", "Notes on the protocols"), tag("ul", [tag("li", note) for note in notes], class_="meta")]
    return tag("section", tag("h2", "Protocols"), figure(caption, table), listed if notes else None)


def _row_of(f: Figure) -> tuple[str, str, str, str, str]:
    return f.split, f.protocol, f.rank, parts_of(f.variant)[1], f.metric


def _chance(f: Figure) -> str:
    if math.isnan(f.chance):
        return "\N{EN DASH}"
    return percent(f.chance) if is_share(f.protocol, f.metric) else plain_number(f.chance)


def _cell(f: Figure | None, number: int) -> Markup:
    hover = None
    if f is not None and f.spread is not None:
        spread = f"{100 * f.spread:.1f}" if is_share(f.protocol, f.metric) else plain_number(f.spread)
        hover = f"\N{PLUS-MINUS SIGN}{spread} over folds or seeds"
    return figure_cell(f, "model" if not number else "", hover=hover)
