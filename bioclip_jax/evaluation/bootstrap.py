"""Bootstrap confidence intervals of accuracies, and paired differences of two learners on the same samples.

Samples are drawn with replacement, independently of their class; every accuracy is a weighted mean that is divided by
the weight drawn (a ratio, or Hájek, estimator). For balanced accuracy this holds where drawing within classes does
not: with one image per species, redrawing within a class never changes anything and the interval would have no width.
Classes of chance size count as uncertainty too, so where classes are large the interval is a little wider than a
stratified one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHUNK = 100


@dataclass(frozen=True)
class Interval:
    """Percentile interval of a bootstrap."""

    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A difference of two learners on the same samples."""

    value: float
    low: float
    high: float
    p_value: float
    """Two-sided: twice the smaller share of resamples on either side of zero (one added to each; never below 2 /
    (resamples + 1))."""


class Bootstrap:
    """Fixed resamples of `samples` samples: whatever is asked of one object is paired.

    Args:
        samples: how many samples there are.
        resamples: how often they are redrawn.
        seed: the draws are a pure function of (samples, resamples, seed).
    """

    def __init__(self, samples: int, *, resamples: int = 1000, seed: int = 0):
        self.samples, self.resamples, self.seed = samples, resamples, seed

    def ratios(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The weighted means of `values` [n, figures] under `weights` [n, figures] in every resample: `[resamples,
        figures]`.

        NaN where a resample holds no sample of any weight.
        """
        both = np.concatenate([values * weights, weights], axis=1).astype(np.float32)
        sums = np.concatenate([self._counts(start) @ both for start in range(0, self.resamples, CHUNK)])
        above, below = np.split(sums.astype(np.float64), 2, axis=1)
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)

    def _counts(self, start: int) -> np.ndarray:
        """How often every sample is drawn in the resamples from `start`: float32 `[chunk, n]`."""
        rows = min(CHUNK, self.resamples - start)
        draws = np.random.default_rng([self.seed, start]).integers(0, self.samples, (rows, self.samples))
        flat = (draws + np.arange(rows)[:, None] * self.samples).ravel()
        return np.bincount(flat, minlength=rows * self.samples).reshape(rows, self.samples).astype(np.float32)


def interval(resampled: np.ndarray, level: float = 0.95) -> Interval:
    """The central `level` of resampled values `[resamples]`; NaN without any."""
    resampled = resampled[np.isfinite(resampled)]
    if not resampled.size:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def difference(first: np.ndarray, second: np.ndarray, value: float, level: float = 0.95) -> Difference:
    """`first - second`, both resampled figures `[resamples]` of one `Bootstrap`; `value` is the difference on the
    samples.
    """
    differences = first - second
    differences = differences[np.isfinite(differences)]
    bounds = interval(differences, level)
    side = min(int((differences <= 0).sum()), int((differences >= 0).sum()))
    p_value = min(1.0, 2 * (side + 1) / (differences.size + 1))
    return Difference(value, bounds.low, bounds.high, p_value)
