"""Two models on the same photos: paired differences of their balanced accuracies from stored predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bioclip_jax.evaluation.bootstrap import Bootstrap, difference
from bioclip_jax.evaluation.metrics import sample_weights
from bioclip_jax.evaluation.rows import Difference, Prediction

RESAMPLES = 1000


def compare(
    first: Sequence[Prediction], second: Sequence[Prediction], split: str, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """For each rank of `split` the balanced accuracy of `first` less that of `second`, with interval and p-value.

    Only photos that both answered count, and whose true taxon both agree on; ranks without any are left out. Photos
    are drawn by species, as in every interval here; one without a species stands for itself.
    """
    found = {}
    species_of = {key: p.true for key, p in _of_rank(first, split, "species").items()}
    for rank in dict.fromkeys(p.rank for p in first if p.split == split):
        one, other = _of_rank(first, split, rank), _of_rank(second, split, rank)
        keys = [key for key in one if key in other and one[key].true == other[key].true]
        if not keys:
            continue
        true = np.unique([one[key].true for key in keys], return_inverse=True)[1]
        right = np.array([[p[key].predicted == p[key].true for p in (one, other)] for key in keys], np.float64)
        weights = sample_weights("balanced_accuracy", true)
        values = weights @ right
        names = [("species", species_of[key]) if key in species_of else ("photo", key) for key in keys]
        number = {name: place for place, name in enumerate(dict.fromkeys(names))}
        clusters = np.array([number[name] for name in names])
        bootstrap = Bootstrap(clusters, resamples=resamples, seed=seed)
        resampled = bootstrap.ratios(right, weights[:, None].repeat(2, axis=1))
        paired = difference(resampled[:, 0], resampled[:, 1], float(values[0] - values[1]))
        found[rank] = Difference(
            protocol="zero_shot",
            variant="",
            split=split,
            rank=rank,
            metric="balanced_accuracy",
            value=paired.value,
            low=paired.low,
            high=paired.high,
            p_value=paired.p_value,
        )
    return found


def _of_rank(predictions: Sequence[Prediction], split: str, rank: str) -> dict[str, Prediction]:
    return {p.key: p for p in predictions if (p.learner, p.split, p.rank) == ("model", split, rank)}
