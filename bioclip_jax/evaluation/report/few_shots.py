"""The section on few-shot accuracy."""

from __future__ import annotations

from bioclip_jax.evaluation.methods import percent
from bioclip_jax.evaluation.report.accuracy import difference_cell, figure_cell, title_of
from bioclip_jax.evaluation.report.markup import Markup, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.evaluation.rows import Figure

HEADINGS = (
    "shots",
    "photos asked",
    "taxa",
    "taxa left out",
    "chance",
    "baseline",
    "model",
    "difference",
    "baseline, micro",
    "model, micro",
    "SD of folds",
)


def few_shot_section(measured: Measured) -> Markup | None:
    """SimpleShot: one row for each task, rank and number of shots."""
    found = {(f.learner, f.variant, f.split, f.rank, f.metric): f for f in measured.figures if f.protocol == "few_shot"}

    def same(f: Figure, learner: str, metric: str) -> Figure | None:
        return found.get((learner, f.variant, f.split, f.rank, metric))

    rows = []
    for f in found.values():
        if (f.learner, f.metric) != ("model", "balanced_accuracy"):
            continue
        micro = same(f, "model", "micro_accuracy")
        rows.append(
            tag(
                "tr",
                tag("td", title_of(f.split), class_="text"),
                tag("td", f.rank, class_="text"),
                tag("td", f.variant.removesuffix("-shot")),
                tag("td", f"{f.samples:,}"),
                tag("td", f"{f.classes:,}"),
                tag("td", f"{f.left_out:,}"),
                tag("td", percent(f.chance)),
                figure_cell(same(f, "baseline", "balanced_accuracy")),
                figure_cell(f, "model"),
                difference_cell(measured.difference(f)),
                figure_cell(same(f, "baseline", "micro_accuracy")),
                figure_cell(micro),
                tag("td", percent(micro.spread or 0.0) if micro else "\N{EN DASH}"),
            )
        )
    if not rows:
        return None
    texts = [tag("th", name, class_="text") for name in ("species", "rank")]
    head = tag("thead", tag("tr", texts, [tag("th", name) for name in HEADINGS]))
    settings = measured.settings
    tasks = [
        f"{title_of(name)}: supports and questions from {support}."
        if support == query
        else f"{title_of(name)}: supports from {support}, questions from {query}."
        for name, (support, query) in settings.get("few_shot_tasks", {}).items()
    ]
    caption = (
        "Few-shot accuracy in % by SimpleShot, balanced and micro: features are centred by the support's mean and "
        f"normalised, the nearest mean wins. {' '.join(tasks)} "
        f"Mean of {settings.get('folds', 'all')} folds, with 95 % bootstrap intervals over species, and the "
        "standard deviation of the folds' micro accuracy. Taxa with too few photos are left out. "
        "The baseline is the same procedure on colour histogram and thumbnail, with the same folds."
    )
    table = tag("div", tag("table", head, tag("tbody", rows)), class_="table")
    return tag("section", tag("h2", "Few-shot accuracy"), figure(caption, table))
