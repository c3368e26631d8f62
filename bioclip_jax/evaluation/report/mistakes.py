"""The sections on the taxonomy of mistakes, on seen against unseen species, on retrieval and on paired differences."""

from __future__ import annotations

from collections.abc import Sequence

from bioclip_jax.evaluation.compare import RESAMPLES, compare_all
from bioclip_jax.evaluation.measures.seen_unseen import BOTH, LESS, PROTOCOL, SPLITS
from bioclip_jax.evaluation.report.accuracy import difference_cell, figure_cell, title_of
from bioclip_jax.evaluation.report.markup import Markup, details, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.text.taxonomy import RANKS

DISTANCES = {
    "lca_distance": "distance",
    "balanced_lca_distance": "distance, balanced",
    "mistake_severity": "severity",
}
RETRIEVAL = {
    "recall_at_1": "recall@1",
    "recall_at_5": "recall@5",
    "recall_at_10": "recall@10",
    "mean_average_precision": "mAP",
    "median_rank": "median rank",
}


def hierarchy_section(runs: Sequence[Measured]) -> Markup | None:
    """Distances and descent, models side by side, the first leading; None where it has none."""
    splits = _splits(runs[0], "hierarchical")
    if not splits:
        return None
    rows = []
    for split in splits:
        for number, run in enumerate(runs):
            if split not in _splits(run, "hierarchical"):
                continue
            cells = [_find(run, split, "species", metric) for metric in DISTANCES]
            cells.append(_find(run, split, "any", "consistency"))
            down = [_find(run, split, rank, "top_down_balanced_accuracy") for rank in RANKS]
            class_ = "" if number else "model"
            rows.append(
                tag(
                    "tr",
                    tag("td", title_of(split) if not number else None, class_="text"),
                    tag("td", run.label, class_="text wide"),
                    [figure_cell(found, class_) for found in (*cells, *down)],
                )
            )
    over = [tag("th"), tag("th"), tag("th", "of species, in ranks", colspan=len(DISTANCES), class_="group first")]
    over += [tag("th"), tag("th", "top-down balanced accuracy, %", colspan=len(RANKS), class_="group first")]
    names = [tag("th", name) for name in (*DISTANCES.values(), "consistent, %", *RANKS)]
    head = tag("thead", tag("tr", over), tag("tr", tag("th"), tag("th", "model", class_="text"), names))
    caption = (
        "Distance: ranks climbed from species to the lowest common ancestor of answer and truth, 0 (right) to 7 "
        "(not even the kingdom); photos alike, or species alike (balanced). Severity: its mean over the mistakes. "
        "Consistent: photos whose answers at all ranks lie on one lineage. Top-down: from the kingdom on the most "
        "probable child of the answer before; right only if every answer above is. "
        "A rank without a name is passed over."
    )
    table = tag("div", tag("table", head, tag("tbody", rows)), class_="table")
    return tag("section", tag("h2", "How far off the mistakes are"), figure(caption, table))


def _splits(run: Measured, protocol: str) -> list[str]:
    return list(dict.fromkeys(f.split for f in run.figures if f.protocol == protocol))


def _find(run: Measured, split: str, rank: str, metric: str) -> Figure | None:
    return run.figure("hierarchical", run.method, split, rank, metric)


def seen_section(runs: Sequence[Measured]) -> Markup | None:
    """Seen against unseen species among the candidates of both; None where they were not measured together."""
    parts = []
    for run in runs:
        if not any(f.protocol == PROTOCOL for f in run.figures):
            continue
        rows = []
        lines = [(split, title_of(split), "balanced_accuracy") for split in SPLITS]
        lines.append((BOTH, "Harmonic mean", "harmonic_mean_of_balanced_accuracy"))
        for split, name, metric in lines:
            found = [run.figure(PROTOCOL, run.method, split, rank, metric) for rank in RANKS]
            rows.append(tag("tr", tag("td", name, class_="text"), [figure_cell(f, "model") for f in found]))
        gaps = {
            d.rank: d
            for d in run.differences
            if (d.protocol, d.split, d.metric, d.variant) == (PROTOCOL, LESS, "balanced_accuracy", run.method)
        }
        cells = [difference_cell(gaps.get(rank), brief=True) for rank in RANKS]
        rows.append(tag("tr", tag("td", "Seen less unseen", class_="text"), cells))
        head = tag("thead", tag("tr", tag("th", run.label, class_="text"), [tag("th", rank) for rank in RANKS]))
        parts.append(tag("div", tag("table", head, tag("tbody", rows)), class_="table"))
    if not parts:
        return None
    caption = (
        "Balanced accuracy in % where the photos of seen and of unseen species have the same candidates, those of "
        "both. (Apart, as above, the split with fewer candidates has the easier task.) Differences with 95 % bootstrap "
        "intervals; bold where they leave out zero."
    )
    return tag("section", tag("h2", "Seen against unseen species"), figure(caption, parts))


def retrieval_section(runs: Sequence[Measured]) -> Markup | None:
    """Texts of photos and photos of texts; None where there are none."""
    splits = _splits(runs[0], "retrieval")
    if not splits:
        return None
    parts = []
    for way in ("image to text", "text to image"):
        rows = []
        for split in splits:
            for number, run in enumerate(runs):
                found = {
                    f.metric: f for f in run.figures if (f.protocol, f.variant, f.split) == ("retrieval", way, split)
                }
                if found:
                    first = next(iter(found.values()))
                    rows.append(
                        tag(
                            "tr",
                            tag("td", title_of(split) if not number else None, class_="text"),
                            tag("td", run.label, class_="text wide"),
                            tag("td", f"{first.samples:,}"),
                            tag("td", f"{first.classes:,}"),
                            [figure_cell(found.get(metric), "" if number else "model") for metric in RETRIEVAL],
                        )
                    )
        names = [tag("th", name) for name in ("photos", "texts", *RETRIEVAL.values())]
        texts = [tag("th", way, class_="text"), tag("th", "model", class_="text")]
        head = tag("thead", tag("tr", texts, names))
        parts.append(tag("div", tag("table", head, tag("tbody", rows)), class_="table"))
    caption = (
        "Image to text: the photo's own species among all species' texts. Text to image: photos of the species among "
        "all photos; recall@k: whether one of them is among the k nearest; mAP: mean average precision over all of "
        "them. In %; the median rank is that of the first right one, counted from 1. Intervals draw species."
    )
    return tag("section", tag("h2", "Retrieval"), figure(caption, parts))


def differences_section(runs: Sequence[Measured]) -> Markup | None:
    """Paired differences of the two newest models in every protocol; None without a second on the same photos."""
    others = [run for run in runs[1:] if run.run.dataset_hash == runs[0].run.dataset_hash]
    if not others:
        return None
    first, second = runs[0], others[0]
    found = compare_all(first.predictions, second.predictions)
    if not found:
        return None
    places = dict.fromkeys((d.protocol, d.variant, d.split, d.rank) for d in found)
    cell = {((d.protocol, d.variant, d.split, d.rank), d.metric): d for d in found}
    rows = [
        tag(
            "tr",
            tag("td", protocol.replace("_", " "), tag("small", variant), class_="text"),
            tag("td", title_of(split), class_="text"),
            tag("td", rank, class_="text"),
            [
                difference_cell(cell.get(((protocol, variant, split, rank), m)))
                for m in ("balanced_accuracy", "micro_accuracy")
            ],
        )
        for protocol, variant, split, rank in places
    ]
    texts = [tag("th", name, class_="text") for name in ("protocol", "split or task", "rank or label")]
    head = tag("thead", tag("tr", texts, tag("th", "balanced accuracy"), tag("th", "micro accuracy")))
    caption = (
        f"{first.label} less {second.label}, in points, on the photos that both answered: paired bootstrap over "
        f"species or classes, {RESAMPLES:,} resamples; bold where the interval leaves out zero. "
        "Of probes it is the share of photos with all labels right, or, where they are measured by F1, of labels. "
        f"p-values are not corrected for the {2 * len(places)} comparisons of this table."
    )
    table = tag("div", tag("table", head, tag("tbody", rows)), class_="table")
    folded = details("Every protocol and rank", table) if len(rows) > 12 else table
    title = f"Paired differences: {first.label} less {second.label}"
    return tag("section", tag("h2", title), figure(caption, folded))
