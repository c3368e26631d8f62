"""Seen against unseen species: what a model loses on species that it was not trained on.

Measured apart, the two splits have different numbers of candidates, and the one with fewer looks easier. So here the
photos of both are asked with the candidates of both (generalised zero-shot: Chao et al. 2016, An Empirical Study and
Analysis of Generalized Zero-Shot Learning), and the harmonic mean of the two accuracies is given beside them (Xian et
al. 2019, section 4.1). Intervals draw species of both splits together, each with all its photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from bioclip_jax.evaluation.bootstrap import Bootstrap, difference, interval
from bioclip_jax.evaluation.features import Samples
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.metrics import METRICS, sample_weights
from bioclip_jax.evaluation.ranks import Prompts, best_candidates
from bioclip_jax.evaluation.rows import Difference, Figure
from bioclip_jax.heads import TaxonHead

PROTOCOL = "joint"
SPLITS = ("seen", "unseen")
BOTH = "seen and unseen"
LESS = "seen less unseen"


def measure_together(
    parts: Mapping[str, Samples],
    labels: Labels,
    ranks: tuple[str, ...],
    head: TaxonHead,
    present: np.ndarray,
    prompts: Prompts,
    method: str,
    *,
    resamples: int,
    seed: int,
) -> tuple[list[Figure], list[Difference]]:
    """Accuracy on seen and on unseen species among the candidates of both, and the difference, at every rank.

    Args:
        parts: the samples of `SPLITS`.
        labels: of both.
        ranks: those to measure; one with fewer than two taxa is left out, as is one without photos of either split.
        head: over the taxa that occur in the two.
        present: int `[taxa]`: which of `labels.taxa` those of `head` are.
        prompts: how taxa become text features.
        method: the way of making candidates.
        resamples: of the bootstrap; 0 leaves intervals and differences out.
        seed: of the bootstrap.
    """
    splits = [parts[name].split for name in SPLITS]
    groups = [groups for rank in ranks if len(groups := labels.groups[rank].select(present)) > 1]
    features = np.concatenate([parts[name].features for name in SPLITS])
    member = np.searchsorted(present, np.concatenate([labels.member[split] for split in splits]))
    of_seen = np.arange(len(features)) < len(parts["seen"])
    rankings = best_candidates(method, features, groups, head, prompts, 1)
    bootstrap = Bootstrap(labels.clusters(splits), resamples=resamples, seed=seed) if resamples else None
    figures: list[Figure] = []
    differences: list[Difference] = []
    for one, ranking in zip(groups, rankings, strict=True):
        true = one.index[member]
        sides = [np.where(mine, true, -1) for mine in (of_seen, ~of_seen)]
        if any((side < 0).all() for side in sides):
            continue
        right = (ranking.top[:, 0] == true).astype(np.float64)
        for metric in METRICS:
            weights = np.stack([sample_weights(metric, side) for side in sides], axis=1)
            values = [*(right @ weights)]
            drawn = bootstrap.ratios(right[:, None].repeat(2, axis=1), weights) if bootstrap else np.empty((0, 2))
            mean = _harmonic_mean(np.array([values]))[0], _harmonic_mean(drawn)
            columns = (
                (SPLITS[0], sides[0], values[0], drawn[:, 0]),
                (SPLITS[1], sides[1], values[1], drawn[:, 1]),
                (BOTH, true, mean[0], mean[1]),
            )
            for split, asked, value, resampled in columns:
                bounds = interval(resampled)
                figures.append(
                    Figure(
                        learner="model",
                        protocol=PROTOCOL,
                        variant=method,
                        split=split,
                        rank=one.rank,
                        metric=metric if split != BOTH else f"harmonic_mean_of_{metric}",
                        value=round(float(value), 12),
                        low=bounds.low,
                        high=bounds.high,
                        spread=None,
                        chance=1 / len(one),
                        majority=None,
                        samples=int((asked >= 0).sum()),
                        classes=len(one),
                        clusters=len(np.unique(labels.clusters(splits)[asked >= 0])),
                        left_out=int((true < 0).sum()),
                    )
                )
            if bootstrap:
                differences.append(_difference(method, one.rank, metric, drawn, values))
    return figures, differences


def _difference(variant: str, rank: str, metric: str, drawn: np.ndarray, values: Sequence[float]) -> Difference:
    found = difference(drawn[:, 0], drawn[:, 1], float(values[0] - values[1]))
    return Difference(
        protocol=PROTOCOL,
        variant=variant,
        split=LESS,
        rank=rank,
        metric=metric,
        value=found.value,
        low=found.low,
        high=found.high,
        p_value=found.p_value,
    )


def _harmonic_mean(pairs: np.ndarray) -> np.ndarray:
    """`[m]` of `[m, 2]`; 0 where both are 0."""
    total = pairs.sum(axis=1)
    return np.divide(2 * pairs.prod(axis=1), total, out=np.zeros(len(pairs)), where=total != 0)
