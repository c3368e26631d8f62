"""Whether probabilities mean what they say: reliability curves and the expected calibration error.

Of answers given with a probability p, a share p should be right. ECE (Guo et al. 2017, On Calibration of Modern
Neural Networks, equation 3): answers fall into 15 bins of equal width ((m-1)/15, m/15]; the mean over answers of the
gap |accuracy - mean probability| of their bin. On n answers a calibrated model has an ECE above zero, by about
sqrt(bins / n) / 2, and resampling adds as much again: intervals lie high where photos are few.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bioclip_jax.errors import UserError

BINS = 15


class Reliability(NamedTuple):
    """Of every bin; NaN where it is empty."""

    answers: np.ndarray
    """int64 `[bins]`."""
    confidence: np.ndarray
    """float64 `[bins]`: mean probability."""
    accuracy: np.ndarray
    """float64 `[bins]`: share that is right."""


def bins_of(confidence: np.ndarray, bins: int = BINS) -> np.ndarray:
    """The bin of each probability: int64 `[n]`.

    Raises:
        UserError: a value is no probability.
    """
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        worst = confidence[~((confidence >= 0) & (confidence <= 1 + 1e-6))][0]
        raise UserError(f"calibration needs probabilities from 0 to 1; one is {worst}")
    return np.clip(np.ceil(confidence.astype(np.float64) * bins).astype(np.int64) - 1, 0, bins - 1)


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """The reliability curve of answers with probabilities `confidence` `[n]` that are `correct` `[n]` (0 to 1)."""
    place = bins_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        sums = (np.bincount(place, weights, bins) / count for weights in (confidence, correct))
        return Reliability(count, *sums)


def gaps(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> np.ndarray:
    """float64 `[n, bins]`: `correct - confidence` in the bin of each answer, else 0.

    The ECE is the sum of the absolute column means, and of a resample the same of its means: `Bootstrap.ratios`.
    """
    found = np.zeros((len(confidence), bins))
    found[np.arange(len(confidence)), bins_of(confidence, bins)] = correct - confidence
    return found


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> float:
    """ECE of answers with probabilities `confidence` `[n]` that are `correct` `[n]` (0 to 1)."""
    return float(np.abs(gaps(confidence, correct, bins).mean(axis=0)).sum())
