"""Bootstrap confidence intervals of accuracies, and paired differences of two learners on the same samples.

Photos of one species are alike: a learner that fails on one tends to fail on the others. So species are drawn with
replacement, each with all its photos (a cluster bootstrap). Every accuracy is a weighted mean that is divided by the
weight drawn (a ratio, or Hájek, estimator), which holds for balanced accuracy too: classes that are drawn twice count
twice, and classes that are not drawn do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

CHUNK = 100
ROUNDING = 1e-12
"""Differences below this are rounding: the learners are equal."""


@dataclass(frozen=True)
class Interval:
    """Percentile interval of a bootstrap."""

    low: float
    high: float


@dataclass(frozen=True)
class PairedDifference:
    """A difference of two learners on the same samples."""

    value: float
    low: float
    high: float
    p_value: float
    """Two-sided: twice the smaller share of resamples on either side of zero, one added to each."""


class Bootstrap:
    """Fixed resamples of clusters of samples: whatever is asked of one object is paired.

    Args:
        clusters: int `[n]`, the cluster of each sample (any numbers).
        resamples: how often the clusters are redrawn.
        seed: the draws are a pure function of (number of clusters, resamples, seed).
    """

    def __init__(self, clusters: np.ndarray, *, resamples: int = 1000, seed: int = 0):
        distinct, self._cluster = np.unique(clusters, return_inverse=True)
        self.clusters, self.resamples, self.seed = len(distinct), resamples, seed

    def ratios(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Weighted means in every resample: float64 `[resamples, figures]`, NaN where no weight was drawn.

        Args:
            values: `[n, figures]`.
            weights: `[n, figures]`.
        """
        both = np.concatenate([values * weights, weights], axis=1).astype(np.float64)
        totals = np.stack([np.bincount(self._cluster, column, self.clusters) for column in both.T], axis=1)
        sums = np.concatenate([self._counts(start) @ totals for start in range(0, self.resamples, CHUNK)])
        above, below = np.split(sums, 2, axis=1)
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    def each(self, statistic: Callable[[np.ndarray], Any]) -> np.ndarray:
        """A statistic that is no ratio of sums, in every resample: float64 `[resamples, ...]`.

        Args:
            statistic: of how often every sample is drawn, float64 `[n]`.
        """
        values = []
        for start in range(0, self.resamples, CHUNK):
            values += [statistic(counts[self._cluster]) for counts in self._counts(start)]
        return np.asarray(values, np.float64)

    def _counts(self, start: int) -> np.ndarray:
        """How often every cluster is drawn in the resamples from `start`: float64 `[chunk, clusters]`."""
        rows = min(CHUNK, self.resamples - start)
        draws = np.random.default_rng([self.seed, start]).integers(0, self.clusters, (rows, self.clusters))
        flat = (draws + np.arange(rows)[:, None] * self.clusters).ravel()
        return np.bincount(flat, minlength=rows * self.clusters).reshape(rows, self.clusters).astype(np.float64)


def interval(resampled: np.ndarray) -> Interval:
    """The central 95 % of resampled values `[resamples]`; NaN without any."""
    resampled = resampled[np.isfinite(resampled)]
    if not resampled.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Interval(float(low), float(high))


def difference(first: np.ndarray, second: np.ndarray, value: float) -> PairedDifference:
    """`first - second`, figures `[resamples]` of one `Bootstrap`; `value` is the difference on the samples."""
    differences = first - second
    differences = differences[np.isfinite(differences)]
    bounds = interval(differences)
    side = min(int((differences <= ROUNDING).sum()), int((differences >= -ROUNDING).sum()))
    p_value = min(1.0, 2 * (side + 1) / (differences.size + 1))
    return PairedDifference(value, bounds.low, bounds.high, p_value)
