"""The section on which clades are taken for which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bioclip_jax.evaluation.report.accuracy import title_of
from bioclip_jax.evaluation.report.markup import Markup, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.evaluation.report.plots import shade_table
from bioclip_jax.evaluation.rows import Prediction

MOST, COMMONEST = 14, 5
PREFERRED = ("order", "family", "class", "genus", "species", "phylum", "kingdom")
"""Ranks to show, the first that has enough clades."""
FEWEST_CLADES = 4


def confusion_section(run: Measured) -> Markup | None:
    """A table of shades for each split, at order where it has enough of them; None without answers."""
    parts = []
    for split in run.splits():
        answers = {rank: run.answers(split, rank) for rank in PREFERRED}
        clades = {rank: len({p.true for p in rows}) for rank, rows in answers.items()}
        rank = next((rank for rank in PREFERRED if clades[rank] >= FEWEST_CLADES), max(clades, key=lambda r: clades[r]))
        if answers[rank]:
            parts.append(_part(split, rank, answers[rank], clades[rank]))
    if not parts:
        return None
    caption = (
        "Which clades are taken for which: rows are true, columns said, numbers per cent of the row's photos. Green: "
        f"right; red: mistaken. Shown are the {MOST} clades with most photos."
    )
    return tag("section", tag("h2", "Confusion by clade"), figure(caption, tag("div", parts, class_="panels")))


def _part(split: str, rank: str, answers: Sequence[Prediction], clades: int) -> Markup:
    sizes = Counter(p.true for p in answers)
    names = [name for name, _ in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:MOST]]
    place = {name: number for number, name in enumerate(names)}
    others = any(p.true in place and p.predicted not in place for p in answers)
    counts = np.zeros((len(names), len(names) + others), np.int64)
    for p in answers:
        if p.true in place:
            counts[place[p.true], place.get(p.predicted, len(names))] += 1
    wrong = Counter((p.true, p.predicted) for p in answers if p.true != p.predicted)
    commonest = sorted(wrong.items(), key=lambda item: (-item[1], item[0]))[:COMMONEST]
    said = [
        f"{true} taken for {predicted or 'nothing'} ({count:,} of {sizes[true]:,} photos)"
        for (true, predicted), count in commonest
    ]
    return tag(
        "div",
        tag("h3", f"{title_of(split)}: {rank}, {min(clades, MOST)} of {clades}"),
        shade_table(counts, names, "others", f"confusion at {rank}, {split}"),
        tag("p", f"Commonest: {'; '.join(said)}." if said else "No confusions.", class_="meta"),
    )
