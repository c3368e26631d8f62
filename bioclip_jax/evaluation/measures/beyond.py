"""What one model's answers at every rank say besides how many are right.

Protocols: `hierarchical` (distance in the taxonomy, descent from kingdom to species, consistency), `calibration`
(ECE, Brier score, overconfidence), `selective` (risk against coverage) and `back_off` (answers at the deepest rank
that is probable enough). Photos count alike unless a metric says balanced. Intervals draw species.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bioclip_jax.evaluation.bootstrap import Bootstrap, interval
from bioclip_jax.evaluation.measures.calibration import gaps
from bioclip_jax.evaluation.measures.hierarchy import TaxonTree, consistent, lca_distance, lineages
from bioclip_jax.evaluation.measures.selective import COVERAGES, THRESHOLDS, RiskCurve, at_level, back_off
from bioclip_jax.evaluation.metrics import METRICS, chance, sample_weights
from bioclip_jax.evaluation.ranks import RankTask
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.heads import TaxonHead
from bioclip_jax.text.taxonomy import RANKS

ANY_RANK = "any"
SELECTIVE_METRICS = ("aurc", *(f"accuracy_at_{round(100 * share)}" for share in COVERAGES))


@dataclass(frozen=True)
class RankAnswers:
    """The answers of one model at the ranks of a split, all from one head."""

    tasks: Sequence[RankTask]
    head: TaxonHead
    member: np.ndarray
    """int `[n]`: which of the head's taxa each photo shows."""
    features: np.ndarray
    """float32 `[n, d]`, L2-normalised: of the photos."""
    variant: str
    """The way in which candidates came about."""
    predicted: np.ndarray
    """int `[n, ranks]`: the candidate answered at the rank of each task."""
    probability: np.ndarray
    """float `[n, ranks]`: what it has."""

    @property
    def true(self) -> np.ndarray:
        """int `[n, ranks]`: the candidate that is right, -1 where unknown."""
        return np.stack([task.true for task in self.tasks], axis=1)

    def figure(self, protocol: str, rank: str, metric: str, samples: int, guess: float = float("nan")) -> Figure:
        """A figure without a value yet."""
        task = next((task for task in self.tasks if task.groups.rank == rank), self.tasks[-1])
        figure = replace(task.figure("model", self.variant, metric, guess, None), protocol=protocol, rank=rank)
        return replace(figure, samples=samples, left_out=len(self.member) - samples)


def add_hierarchy(scores: Scores, answers: RankAnswers) -> list[str]:
    """Adds distances, descent and consistency; returns a line for what cannot be measured."""
    notes = []
    lineage = lineages(answers.head.taxa)
    ranks = [task.groups.rank for task in answers.tasks]
    if "species" in ranks:
        notes += _add_distances(scores, answers, lineage, ranks.index("species"))
    tree = TaxonTree(lineage)
    descended = tree.descend(answers.features, answers.head)
    for task in answers.tasks:
        level = RANKS.index(task.groups.rank)
        right = descended[:, level] == tree.nodes[level][answers.member]
        for metric in METRICS:
            figure = answers.figure(
                "hierarchical",
                task.groups.rank,
                f"top_down_{metric}",
                int((task.true >= 0).sum()),
                chance(task.true).uniform,
            )
            scores.add(figure, right, sample_weights(metric, task.true))
    if len(ranks) > 1:
        # The groups of the taxa that the lowest answer holds: the same at every higher rank, or unknown.
        groups = np.stack([task.groups.index for task in answers.tasks], axis=1)
        known = groups[groups[:, -1] >= 0]
        of_lowest = np.full((len(answers.tasks[-1].groups), len(ranks)), -1)
        np.maximum.at(of_lowest, known[:, -1], known)
        agree = consistent(answers.predicted, of_lowest[answers.predicted[:, -1]])
        scores.add(answers.figure("hierarchical", ANY_RANK, "consistency", len(agree)), agree, np.ones(len(agree)))
    return notes


def _add_distances(scores: Scores, answers: RankAnswers, lineage: np.ndarray, place: int) -> list[str]:
    task = answers.tasks[place]
    groups = task.groups.index
    found, first = np.unique(groups, return_index=True)
    first = first[found >= 0]
    known = task.true >= 0
    distance = lca_distance(lineage[answers.member], lineage[first[answers.predicted[:, place]]])
    wrong = known & (answers.predicted[:, place] != task.true)
    weights = {
        "lca_distance": known.astype(np.float64),
        "balanced_lca_distance": sample_weights("balanced_accuracy", task.true),
        "mistake_severity": wrong.astype(np.float64),
    }
    notes = []
    for metric, weight in weights.items():
        samples = int((weight > 0).sum())
        if samples:
            scores.add(answers.figure("hierarchical", "species", metric, samples), distance, weight)
        else:
            notes.append(f"{task.split}: no mistake at species, so mistakes have no severity")
    return notes


def probability_figures(answers: RankAnswers, clusters: np.ndarray, resamples: int, seed: int) -> list[Figure]:
    """Figures of calibration, selective prediction and backing off.

    Args:
        answers: of the model.
        clusters: int `[n]`: the species of each photo.
        resamples: of the bootstrap; 0 leaves intervals out.
        seed: of the bootstrap.
    """
    found: list[Figure] = []
    right = answers.predicted == answers.true
    for place, task in enumerate(answers.tasks):
        asked = task.true >= 0
        confidence = np.clip(answers.probability[asked, place], 0, 1).astype(np.float64)
        correct = right[asked, place].astype(np.float64)
        found += _of_rank(answers, task.groups.rank, confidence, correct, clusters[asked], resamples, seed)
    return found + _back_off(answers, right, clusters, resamples, seed)


def _of_rank(
    answers: RankAnswers,
    rank: str,
    confidence: np.ndarray,
    correct: np.ndarray,
    clusters: np.ndarray,
    resamples: int,
    seed: int,
) -> list[Figure]:
    count, drawn = len(correct), len(np.unique(clusters))
    apart = gaps(confidence, correct)
    curve = RiskCurve(confidence, correct)
    values = {"ece": np.abs(apart.mean(axis=0)).sum(), **dict(zip(SELECTIVE_METRICS, curve.summary(), strict=True))}
    spread: dict[str, np.ndarray] = {}
    if resamples:
        bootstrap = Bootstrap(clusters, resamples=resamples, seed=seed)
        spread["ece"] = np.abs(bootstrap.ratios(apart, np.ones_like(apart))).sum(axis=1)
        spread |= dict(zip(SELECTIVE_METRICS, bootstrap.each(curve.summary).T, strict=True))
    found = []
    for metric, value in values.items():
        bounds = interval(spread.get(metric, np.empty(0)))
        figure = answers.figure("calibration" if metric == "ece" else "selective", rank, metric, count)
        found.append(replace(figure, value=round(float(value), 12), low=bounds.low, high=bounds.high, clusters=drawn))
    scores = Scores(clusters, resamples, seed)
    even = np.ones(count)
    scores.add(answers.figure("calibration", rank, "brier_score", count), (confidence - correct) ** 2, even)
    scores.add(answers.figure("calibration", rank, "overconfidence", count), confidence - correct, even)
    return found + scores.finish("")[0]


def _back_off(answers: RankAnswers, right: np.ndarray, clusters: np.ndarray, resamples: int, seed: int) -> list[Figure]:
    """Of each threshold: how many photos get an answer, at which rank, and how many of the answers are right."""
    in_play = np.where(answers.true >= 0, answers.probability, np.nan)
    named = np.asarray((answers.true >= 0).any(axis=1), np.float64)
    if not named.any():
        return []
    count = int(named.sum())
    scores = Scores(clusters, resamples, seed)
    for threshold in THRESHOLDS:
        level = back_off(in_play, threshold)
        variant = f"{answers.variant}, {threshold:g}"
        correct = at_level(right, level)

        def figure(rank: str, metric: str, samples: int, variant: str = variant) -> Figure:
            return replace(answers.figure("back_off", rank, metric, samples), variant=variant)

        answered = (level >= 0).astype(np.float64)
        scores.add(figure(ANY_RANK, "answered", count), answered, named)
        if answered.any():
            scores.add(figure(ANY_RANK, "accuracy", int(answered.sum())), correct, answered)
        for place, task in enumerate(answers.tasks):
            here = (level == place).astype(np.float64)
            scores.add(figure(task.groups.rank, "answered", count), here, named)
            if here.any():
                scores.add(figure(task.groups.rank, "accuracy", int(here.sum())), correct, here)
    return scores.finish("")[0]
