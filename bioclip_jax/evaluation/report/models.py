"""The section that sets the models of one database side by side."""

from __future__ import annotations

from bioclip_jax.evaluation.compare import RESAMPLES, compare
from bioclip_jax.evaluation.report.accuracy import Measured, difference_cell, figure_cell, title_of
from bioclip_jax.evaluation.report.markup import Markup, figure, tag
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Figure, Prediction
from bioclip_jax.text.taxonomy import RANKS

MOST = 6


def models_section(results: Results, number: int) -> Markup | None:
    """Runs of other weights or settings on the data of run `number`, newest first, with differences; None if none."""
    runs = results.runs()
    run = runs[number]
    others = [
        other
        for other in reversed(runs)
        if other != number and (runs[other].benchmark, runs[other].dataset_hash) == (run.benchmark, run.dataset_hash)
    ][:MOST]
    if not others:
        return None
    own = results.rows(Prediction, number)
    splits = Measured(run, results.rows(Figure, number), []).splits()
    parts = []
    for split in splits:
        rows = []
        for other in [number, *others]:
            measured = Measured(runs[other], results.rows(Figure, other), [])
            cells = [figure_cell(measured.zero_shot(split, rank, "balanced_accuracy"), "model") for rank in RANKS]
            about = tag("small", f"{runs[other].started[:10]}, {measured.method}, {runs[other].weights[:8]}")
            rows.append(tag("tr", tag("td", runs[other].model, about, class_="text wide"), cells))
            if other != number:
                paired = compare(own, results.rows(Prediction, other), split)
                row = [difference_cell(paired.get(rank), brief=True) for rank in RANKS]
                rows.append(tag("tr", tag("td", tag("small", "newest less this"), class_="text"), row))
        head = tag("thead", tag("tr", tag("th", title_of(split), class_="text"), [tag("th", rank) for rank in RANKS]))
        parts.append(tag("div", tag("table", head, tag("tbody", rows)), class_="table"))
    caption = (
        "Zero-shot balanced accuracy in % of other runs on the same data. "
        "Differences are of the newest run less the other, by paired bootstrap over the species of the photos that "
        f"both answered ({RESAMPLES:,} resamples)."
    )
    return tag("section", tag("h2", "Other models on the same photos"), figure(caption, parts))
