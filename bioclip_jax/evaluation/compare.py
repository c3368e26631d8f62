"""Two models on the same photos: paired differences of their accuracies from stored predictions.

Only photos that both answered count, and whose true label both agree on. Photos are drawn by species (by class where
there is no taxonomy), as in every interval here; one without either stands for itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from bioclip_jax.evaluation.bootstrap import Bootstrap, difference
from bioclip_jax.evaluation.metrics import METRICS, sample_weights
from bioclip_jax.evaluation.rows import Difference, Prediction
from bioclip_jax.evaluation.tasks.probe import PROTOCOL as PROBE

RESAMPLES = 1000
Photo = tuple[str, int]
"""A key, and which of its answers: a benchmark may ask about a photo more than once."""


def compare(
    first: Sequence[Prediction], second: Sequence[Prediction], split: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """For each rank of `split` the zero-shot balanced accuracy of `first` less that of `second`, with a p-value.

    Each is that of its leading way of making candidates, whichever it is. Ranks without common photos are left out.
    """
    found = {}
    sides = [
        _by_place((p for p in side if p.protocol == "zero_shot" and p.split == split), variant=False)
        for side in (first, second)
    ]
    for place, one in sides[0].items():
        rows = _paired(place, one, sides[1].get(place, {}), METRICS[:1], resamples, seed)
        if rows:
            found[place[3]] = rows[0]
    return found


def compare_all(
    first: Sequence[Prediction], second: Sequence[Prediction], *, resamples: int = RESAMPLES, seed: int = 0
) -> list[Difference]:
    """`first` less `second` in balanced and micro accuracy, for every protocol, variant, split and rank of both.

    A photo that was asked about in several folds or seeds counts by its share of right answers. Photos of probes have
    several labels each, and no balanced accuracy.
    """
    one, other = _by_place(first), _by_place(second)
    return [
        row
        for place, answers in one.items()
        for row in _paired(place, answers, other.get(place, {}), _metrics_of(place[0]), resamples, seed)
    ]


def _metrics_of(protocol: str) -> Sequence[str]:
    return ("micro_accuracy",) if protocol == PROBE else METRICS


Place = tuple[str, str, str, str]


def _by_place(predictions: Iterable[Prediction], *, variant: bool = True) -> dict[Place, dict[Photo, Prediction]]:
    """The model's answers by (protocol, variant, split, rank)."""
    found: dict[Place, dict[Photo, Prediction]] = defaultdict(dict)
    again: Counter[tuple[Place, str]] = Counter()
    for p in predictions:
        if p.learner == "model":
            place = (p.protocol, p.variant if variant else "", p.split, p.rank)
            found[place][p.key, again[place, p.key]] = p
            again[place, p.key] += 1
    return found


def _paired(
    place: Place,
    one: dict[Photo, Prediction],
    other: dict[Photo, Prediction],
    metrics: Sequence[str],
    resamples: int,
    seed: int,
) -> list[Difference]:
    photos = [photo for photo in one if photo in other and one[photo].true == other[photo].true]
    if not photos:
        return []
    true = np.unique([one[photo].true for photo in photos], return_inverse=True)[1]
    right = np.array([[side[photo].correct for side in (one, other)] for photo in photos], np.float64)
    names = [("cluster", one[photo].cluster) if one[photo].cluster else ("photo", photo) for photo in photos]
    number = {name: count for count, name in enumerate(dict.fromkeys(names))}
    bootstrap = Bootstrap(np.array([number[name] for name in names]), resamples=resamples, seed=seed)
    weights = np.stack([sample_weights(metric, true) for metric in metrics], axis=1)
    values = weights.T @ right
    resampled = bootstrap.ratios(np.tile(right, len(metrics)), weights.repeat(2, axis=1))
    protocol, variant, split, rank = place
    rows = []
    for column, metric in enumerate(metrics):
        value = float(values[column, 0] - values[column, 1])
        paired = difference(resampled[:, 2 * column], resampled[:, 2 * column + 1], value)
        rows.append(
            Difference(
                protocol=protocol,
                variant=variant,
                split=split,
                rank=rank,
                metric=metric,
                value=paired.value,
                low=paired.low,
                high=paired.high,
                p_value=paired.p_value,
            )
        )
    return rows
