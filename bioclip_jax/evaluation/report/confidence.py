"""The section on probabilities: reliability diagrams, risk against coverage, and backing off to higher ranks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bioclip_jax.evaluation.measures.calibration import reliability
from bioclip_jax.evaluation.measures.selective import RiskCurve, back_off
from bioclip_jax.evaluation.report.accuracy import figure_cell, title_of
from bioclip_jax.evaluation.report.markup import Child, Markup, figure, tag
from bioclip_jax.evaluation.report.measured import Measured
from bioclip_jax.evaluation.report.plots import (
    MODEL_COLOURS,
    RANK_SHADES,
    Frame,
    Series,
    draw_series,
    draw_shares,
)
from bioclip_jax.evaluation.rows import Prediction
from bioclip_jax.text.taxonomy import RANKS

COLUMNS = (
    ("calibration", "ece", "ECE"),
    ("calibration", "overconfidence", "over\N{SOFT HYPHEN}confidence"),
    ("selective", "aurc", "AURC"),
    ("selective", "accuracy_at_90", "acc. at 90"),
    ("selective", "accuracy_at_80", "acc. at 80"),
)
FEWEST_IN_LINE = 10
"""Answers of a bin that the line goes through: fewer say little."""
THRESHOLDS = np.linspace(0, 1, 41)


def confidence_section(runs: Sequence[Measured]) -> Markup | None:
    """Calibration and selective prediction of the zero-shot answers, the first run leading; None without any."""
    splits = [split for split in runs[0].splits() if _scored(runs[0], split)]
    if not splits:
        return None
    key = [
        tag("span", tag("i", style=f"background:{colour}"), run.label)
        for run, colour in zip(runs, MODEL_COLOURS, strict=False)
    ]
    reliable = [[tag("h3", title_of(split)), tag("div", _diagrams(runs, split), class_="curves")] for split in splits]
    curves = [_risk_chart(runs, split) for split in splits]
    bands = [_back_off_chart(run, split) for split in splits for run in runs[:2] if _scored(run, split)]
    return tag(
        "section",
        tag("h2", "Whether probabilities mean what they say"),
        tag("div", key, class_="key models"),
        figure(
            "Reliability by rank: answers in 15 bins of their probability, and the share of each bin that is right; on "
            "the dashed diagonal probability and accuracy agree, below it the model is too sure. "
            "The area of a dot grows with the photos in the bin; lines leave out bins of fewer than "
            f"{FEWEST_IN_LINE} photos.",
            reliable,
        ),
        _table(runs, splits),
        tag("h3", "Saying less"),
        figure(
            "Risk against coverage: the share of wrong answers at species among the most probable ones, as more and "
            "more photos are answered. Bands: the deepest rank whose answer reaches the threshold on the horizontal "
            "axis (dark: species, pale: kingdom; white: no answer), and how many of those answers are right (line).",
            tag("div", curves, bands, class_="curves wide"),
        ),
    )


def _scored(run: Measured, split: str) -> list[str]:
    """The ranks whose answers have probabilities, highest first."""
    return [rank for rank in RANKS if any(p.score is not None for p in run.answers(split, rank))]


def _arrays(answers: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    scored = [p for p in answers if p.score is not None]
    confidence = np.array([p.score for p in scored], np.float64)
    return np.clip(confidence, 0, 1), np.array([p.correct for p in scored], np.float64)


def _diagrams(runs: Sequence[Measured], split: str) -> list[Markup]:
    charts = []
    for rank in _scored(runs[0], split):
        series = []
        for run, colour in zip(runs, MODEL_COLOURS, strict=False):
            confidence, correct = _arrays(run.answers(split, rank))
            if not len(confidence):
                continue
            curve = reliability(confidence, correct)
            there = np.flatnonzero(curve.answers)
            hovers = [
                f"{run.label}: probability {curve.confidence[b]:.1%}, right {curve.accuracy[b]:.1%}, "
                f"{curve.answers[b]:,} photos"
                for b in there
            ]
            radius = 1.5 + 6 * np.sqrt(curve.answers[there] / curve.answers.sum())
            joined = curve.answers[there] >= FEWEST_IN_LINE
            series.append(
                Series(
                    run.label, colour, curve.confidence[there], curve.accuracy[there], hovers, radius.tolist(), joined
                )
            )
        frame = Frame(rank.capitalize(), "probability", "right")
        charts.append(frame.draw(draw_series(frame, series), diagonal=True))
    return charts


def _risk_chart(runs: Sequence[Measured], split: str) -> Markup:
    rank = _scored(runs[0], split)[-1]
    series = []
    worst = 0.05
    for run, colour in zip(runs, MODEL_COLOURS, strict=False):
        confidence, correct = _arrays(run.answers(split, rank))
        if not len(confidence):
            continue
        coverage, risk = RiskCurve(confidence, correct).points()
        chosen = np.unique(np.linspace(0, len(coverage) - 1, 200).astype(int))
        series.append(Series(run.label, colour, coverage[chosen], risk[chosen]))
        # The first few answers jump: the axis ends at the highest risk beyond a twentieth of the photos.
        worst = max(worst, float(risk[(coverage >= 0.05) | (coverage == coverage[-1])].max()))
    frame = Frame(f"{rank.capitalize()}, {title_of(split).lower()}", "photos answered", "wrong", _round_up(worst))
    return frame.draw(draw_series(frame, series))


def _round_up(share: float) -> float:
    return next(top for top in (0.08, 0.2, 0.4, 0.6, 0.8, 1.0) if share <= top or top == 1.0)


def _back_off_chart(run: Measured, split: str) -> Markup:
    """Of every threshold, the shares of photos that are answered at each rank, and the accuracy of the answers."""
    ranks = _scored(run, split)
    keys = dict.fromkeys(p.key for rank in ranks for p in run.answers(split, rank))
    number = {key: place for place, key in enumerate(keys)}
    probability = np.full((len(number), len(ranks)), np.nan)
    correct = np.zeros((len(number), len(ranks)))
    for column, rank in enumerate(ranks):
        for p in run.answers(split, rank):
            if p.score is not None:
                probability[number[p.key], column], correct[number[p.key], column] = p.score, p.correct
    shares = np.zeros((len(THRESHOLDS), len(ranks)))
    right = np.full(len(THRESHOLDS), np.nan)
    for row, threshold in enumerate(THRESHOLDS):
        level = back_off(probability, float(threshold))
        answered = level >= 0
        shares[row] = np.bincount(level[answered], minlength=len(ranks)) / len(level)
        if answered.any():
            right[row] = correct[np.flatnonzero(answered), level[answered]].mean()
    colours = [RANK_SHADES[RANKS.index(rank)] for rank in ranks]
    frame = Frame(f"{title_of(split)}: {run.label}", "threshold", "photos; right answers")
    known = np.isfinite(right)
    hovers = [
        f"threshold {t:.0%}: {s.sum():.1%} of the photos answered, {r:.1%} of the answers right"
        for t, s, r in zip(THRESHOLDS[known], shares[known], right[known], strict=True)
    ]
    line = Series("answers that are right", "#b4641e", THRESHOLDS[known], right[known], hovers, [1.6] * len(hovers))
    return frame.draw([*draw_shares(frame, THRESHOLDS, shares, colours, ranks), *draw_series(frame, [line])])


def _table(runs: Sequence[Measured], splits: Sequence[str]) -> Markup:
    """Ranks down; for each split and model the figures of `COLUMNS`."""
    rows = []
    for split in splits:
        for rank in RANKS:
            found = [[run.figure(p, run.method, split, rank, metric) for p, metric, _ in COLUMNS] for run in runs]
            if not any(found[0]):
                continue
            cells: list[Child] = [
                [figure_cell(f, "" if number else "model") for f in of_run] for number, of_run in enumerate(found)
            ]
            rows.append(tag("tr", tag("td", rank, class_="text"), tag("td", title_of(split), class_="text"), cells))
    groups = [tag("th", run.label, colspan=len(COLUMNS), class_="group first") for run in runs]
    names = [tag("th", name, class_="first" if not n else None) for _ in runs for n, (*_, name) in enumerate(COLUMNS)]
    texts = [tag("th", "%", class_="text"), tag("th", class_="text")]
    head = tag("thead", tag("tr", tag("th"), tag("th"), groups), tag("tr", texts, names))
    note = (
        "ECE: expected calibration error, 15 bins; overconfidence: mean probability less accuracy; AURC: mean risk "
        "over all coverages, less is better; acc. at 90: accuracy where the least probable tenth is left unanswered. "
        "With 95 % bootstrap intervals over species (of the ECE they lie high where photos are few)."
    )
    return Markup(tag("div", tag("table", head, tag("tbody", rows)), class_="table") + tag("p", note, class_="meta"))
