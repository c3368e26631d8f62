"""The section that sets models side by side."""

from __future__ import annotations

from collections.abc import Sequence

from bioclip_jax.evaluation.compare import RESAMPLES, compare
from bioclip_jax.evaluation.report.accuracy import difference_cell, figure_cell, title_of
from bioclip_jax.evaluation.report.markup import Markup, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.text.taxonomy import RANKS


def models_section(runs: Sequence[Measured]) -> Markup | None:
    """Runs of other weights or settings beside the first, with differences where the photos are the same; or None."""
    run, *others = runs
    if not others or not run.splits():
        return None
    parts = []
    for split in run.splits():
        rows = []
        for other in runs:
            cells = [figure_cell(other.zero_shot(split, rank, "balanced_accuracy"), "model") for rank in RANKS]
            about = tag("small", f"{other.run.started[:10]}, {other.method}, {other.run.weights[:8]}")
            rows.append(tag("tr", tag("td", other.run.model, about, class_="text wide"), cells))
            if other is not run:
                same = other.run.dataset_hash == run.run.dataset_hash
                paired = compare(run.predictions, other.predictions, split) if same else {}
                row = [difference_cell(paired.get(rank), brief=True) for rank in RANKS]
                what = "newest less this" if same else "other photos: not compared"
                rows.append(tag("tr", tag("td", tag("small", what), class_="text"), row))
        head = tag("thead", tag("tr", tag("th", title_of(split), class_="text"), [tag("th", rank) for rank in RANKS]))
        parts.append(tag("div", tag("table", head, tag("tbody", rows)), class_="table"))
    caption = (
        "Zero-shot balanced accuracy in % of other runs of this benchmark. "
        "Differences are of the newest run less the other, by paired bootstrap over the species of the photos that "
        f"both answered ({RESAMPLES:,} resamples)."
    )
    return tag("section", tag("h2", "Other models on the same photos"), figure(caption, parts))
