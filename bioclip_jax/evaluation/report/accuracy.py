"""The section on zero-shot accuracy: what a run reached, beside chance and the baseline."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from bioclip_jax.evaluation.methods import METHODS, is_share, percent, plain_number
from bioclip_jax.evaluation.report.charts import Mark, RankColumn, rank_chart
from bioclip_jax.evaluation.report.markup import Child, Markup, details, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.evaluation.rows import Difference, Figure
from bioclip_jax.text.taxonomy import RANKS

TITLES = {"seen": "Seen species", "unseen": "Unseen species"}
METRIC_NAMES = {"balanced_accuracy": "Balanced accuracy", "micro_accuracy": "Micro accuracy"}
WITHIN = {"top-1": "micro_accuracy", "top-3": "top3_accuracy", "top-5": "top5_accuracy"}
METHOD_NAMES = {
    "mean": "mean of the species' probabilities",
    "sum": "sum of the species' probabilities",
    "prototype": "mean of the species' text features",
    "prefix": "text of the rank's own name",
}


def span(low: float, high: float) -> str:
    """An interval in per cent."""
    return f"{100 * low:.1f}\N{EN DASH}{100 * high:.1f}"


def figure_cell(figure: Figure | None, class_: str = "", *, hover: str | None = None) -> Markup:
    """A table cell: value, interval below; in per cent unless the metric is no share."""
    if figure is None or math.isnan(figure.value):
        return tag("td", "\N{EN DASH}", class_="none")
    if figure.metric == "overconfidence":
        value, bounds = signed(figure.value), f"{signed(figure.low)} to {signed(figure.high)}"
    elif figure.metric == "median_rank":
        value, bounds = f"{figure.value:g}", f"{figure.low:g}\N{EN DASH}{figure.high:g}"
    elif not is_share(figure.protocol, figure.metric):
        value, bounds = plain_number(figure.value), f"{plain_number(figure.low)} to {plain_number(figure.high)}"
    else:
        value, bounds = percent(figure.value), span(figure.low, figure.high)
    known = None if math.isnan(figure.low) else tag("small", bounds)
    return tag("td", value, known, class_=class_ or None, title=hover)


def signed(share: float) -> str:
    """A share in per cent with its sign."""
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def difference_cell(found: Difference | None, *, brief: bool = False) -> Markup:
    """A table cell: difference with its sign, interval below; bold where the interval leaves out zero.

    `brief` shows the p-value only under the pointer.
    """
    if found is None:
        return tag("td", "\N{EN DASH}", class_="none")
    class_ = "sure" if found.low > 0 or found.high < 0 else None
    p_value = f"p = {found.p_value:.3f}"
    interval = f"{signed(found.low)} to {signed(found.high)}"
    return tag(
        "td",
        signed(found.value),
        tag("small", interval, None if brief else f", {p_value}"),
        class_=class_,
        title=p_value,
    )


def title_of(split: str) -> str:
    """What a split is called in a heading."""
    return TITLES.get(split, split)


def headline(measured: Measured) -> Markup | None:
    """Up to four figures that say most."""
    wanted = (("seen", "class"), ("seen", "species"), ("unseen", "order"), ("unseen", "species"))
    boxes = []
    for split, rank in wanted:
        found = measured.zero_shot(split, rank, "balanced_accuracy")
        if found is None:
            continue
        baseline = measured.zero_shot(split, rank, "balanced_accuracy", "baseline")
        beside = f"chance {percent(found.chance)} %" + (f", baseline {percent(baseline.value)} %" if baseline else "")
        boxes.append(
            tag(
                "div",
                tag("div", f"{rank.capitalize()}, {title_of(split).lower()}", class_="what"),
                tag("b", percent(found.value), tag("small", " %")),
                tag("div", f"95 % interval {span(found.low, found.high)}", class_="beside"),
                tag("div", f"{beside}; {found.samples:,} photos, {found.classes:,} taxa", class_="beside"),
            )
        )
    boxes = boxes or _task_boxes(measured)
    return tag("div", boxes, class_="headline") if boxes else None


def _task_boxes(measured: Measured) -> list[Markup]:
    """The paper's figure of each of the first four protocols."""
    first: dict[tuple[str, str], Figure] = {}
    for f in measured.task_figures():
        if f.variant.partition(",")[0] == "paper" and f.metric != "balanced_accuracy":
            first.setdefault((f.split, f.variant), f)
    return [
        tag(
            "div",
            tag("div", f"{f.split}: {f.metric.replace('_', ' ')}", class_="what"),
            tag("b", percent(f.value), tag("small", " %")),
            tag("div", f"95 % interval {span(f.low, f.high)}", class_="beside"),
            tag("div", f"{f.variant}; {f.samples:,} photos", class_="beside"),
        )
        for f in list(first.values())[:4]
    ]


def accuracy_section(measured: Measured) -> Markup | None:
    """Zero-shot accuracy by rank: plot, table, and what is folded below; None without any."""
    splits = measured.splits()
    if not splits:
        return None
    has_baseline = any(f.learner == "baseline" and f.protocol == "zero_shot" for f in measured.figures)
    train = measured.settings.get("train_split")
    key = [tag("span", measured.run.model, class_="model")]
    if has_baseline and train:
        used = json.loads(measured.run.splits)[train]["used"]
        baseline = f"logistic regression on colour histogram and thumbnail, learnt from {used:,} training photos"
        key.append(tag("span", baseline, class_="baseline"))
    key.append(tag("span", "chance: 1 / number of taxa", class_="chance"))
    caption = (
        "Zero-shot balanced accuracy (mean of the taxa's recalls) at each rank, with 95 % bootstrap intervals over "
        "species. Candidates are the taxa that occur in the split; "
        f"those above species come about by the {METHOD_NAMES[measured.method]}. "
        "The number of taxa differs between ranks and splits, and chance with it."
    )
    charts = [rank_chart(f"{title_of(split)}", _columns(measured, split)) for split in splits]
    ways = _ways_table(measured, splits)
    return tag(
        "section",
        tag("h2", "Zero-shot accuracy by rank"),
        tag("div", key, class_="key"),
        figure(caption, tag("div", charts, class_="panels")),
        _rank_table(measured, splits, "balanced_accuracy", has_baseline),
        details(
            "Micro accuracy: every photo counts alike",
            _rank_table(measured, splits, "micro_accuracy", has_baseline),
            tag("p", "Always answering the largest taxon gives the accuracy in the column majority.", class_="meta"),
        ),
        details("Ways of making candidates, and the first 1, 3 and 5 answers", ways),
    )


def _columns(measured: Measured, split: str) -> list[RankColumn]:
    columns = []
    for rank in RANKS:
        model = measured.zero_shot(split, rank, "balanced_accuracy")
        baseline = measured.zero_shot(split, rank, "balanced_accuracy", "baseline")
        if model:
            columns.append(
                RankColumn(rank, model.chance, _mark(model, measured.run.model), _mark(baseline, "baseline"))
            )
    return columns


def _mark(found: Figure | None, learner: str) -> Mark | None:
    if found is None:
        return None
    counts = f"{found.samples:,} photos, {found.classes:,} taxa, chance {percent(found.chance)} %"
    hover = f"{learner}, {found.rank}: {percent(found.value)} % ({span(found.low, found.high)}); {counts}"
    return Mark(found.value, found.low, found.high, hover)


def _rank_table(measured: Measured, splits: Sequence[str], metric: str, has_baseline: bool) -> Markup:
    """Ranks down, and for each split: photos, taxa, chance, baseline, model, difference."""
    names = ["photos", "taxa", "chance"]
    names += ["majority"] if metric == "micro_accuracy" else []
    names += ["baseline", "model", "difference"] if has_baseline else ["model"]
    groups = [tag("th", title_of(split), colspan=len(names), class_="group first") for split in splits]
    heads = [
        tag("th", name, class_="first" if not number else None) for _ in splits for number, name in enumerate(names)
    ]
    rows = []
    for rank in RANKS:
        cells: list[Child] = []
        for split in splits:
            model = measured.zero_shot(split, rank, metric)
            if model is None:
                cells.append(
                    [tag("td", "\N{EN DASH}", class_="none first" if not n else "none") for n in range(len(names))]
                )
                continue
            cells += [tag("td", f"{model.samples:,}", class_="first"), tag("td", f"{model.classes:,}")]
            cells.append(tag("td", percent(model.chance)))
            if metric == "micro_accuracy":
                cells.append(tag("td", percent(model.majority or 0.0)))
            if has_baseline:
                cells.append(figure_cell(measured.zero_shot(split, rank, metric, "baseline")))
            cells.append(figure_cell(model, "model"))
            if has_baseline:
                cells.append(difference_cell(measured.difference(model), brief=metric == "micro_accuracy"))
        if any(measured.zero_shot(split, rank, metric) for split in splits):
            rows.append(tag("tr", tag("td", rank, class_="text"), cells))
    head = tag(
        "thead", tag("tr", tag("th"), groups), tag("tr", tag("th", f"{METRIC_NAMES[metric]}, %", class_="text"), heads)
    )
    return tag("div", tag("table", head, tag("tbody", rows)), class_="table")


def _ways_table(measured: Measured, splits: Sequence[str]) -> Markup:
    """Balanced accuracy of every way of making candidates, and top-1, top-3 and top-5 of the main one."""
    names = [*METHODS, *WITHIN]
    groups = [tag("th", title_of(split), colspan=len(names), class_="group first") for split in splits]
    heads = [
        tag("th", name, class_="first" if not number else None) for _ in splits for number, name in enumerate(names)
    ]
    rows = []
    for rank in RANKS:
        found = [measured.zero_shot(split, rank, "balanced_accuracy", way=way) for split in splits for way in METHODS]
        if not any(found):
            continue
        cells = []
        for number, split in enumerate(splits):
            cells += [figure_cell(f) for f in found[number * len(METHODS) : (number + 1) * len(METHODS)]]
            cells += [figure_cell(measured.zero_shot(split, rank, metric)) for metric in WITHIN.values()]
        rows.append(tag("tr", tag("td", rank, class_="text"), cells))
    head = tag("thead", tag("tr", tag("th"), groups), tag("tr", tag("th", class_="text"), heads))
    meaning = "; ".join(f"{way}: {METHOD_NAMES[way]}" for way in METHODS)
    note = (
        f"Balanced accuracy in %. {meaning}. "
        "top-k: share of photos whose taxon is among the k best; not shown where there are no more than k taxa."
    )
    return Markup(tag("div", tag("table", head, tag("tbody", rows)), class_="table") + tag("p", note, class_="meta"))
