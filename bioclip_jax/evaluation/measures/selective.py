"""What a model gains by keeping silent: risk against coverage, and backing off to higher ranks.

Answers are given in order of their probability. The risk at a coverage c is the share of wrong ones among the most
probable c; AURC is its mean over all coverages k / n (Geifman, Uziel and El-Yaniv 2019, Bias-Reduced Uncertainty
Estimation). Answers of one probability come in random order: what is given is the expectation over it, so that
neither the order of the photos nor rounding of stored probabilities has a say.
"""

from __future__ import annotations

import numpy as np
from scipy.special import digamma

from bioclip_jax.errors import UserError

COVERAGES = (0.8, 0.9)
THRESHOLDS = (0.5, 0.7, 0.9)


class RiskCurve:
    """Risk against coverage of fixed answers, under any weights of them.

    Args:
        confidence: float `[n]`, at least one.
        correct: float `[n]`, 0 to 1.
    """

    def __init__(self, confidence: np.ndarray, correct: np.ndarray):
        if not len(confidence) or not np.isfinite(confidence).all():
            raise UserError("risk against coverage needs answers, each with a finite probability")
        self._order = np.argsort(-confidence, kind="stable")
        self._wrong = 1.0 - correct[self._order]
        ends = np.flatnonzero(np.diff(confidence[self._order], append=-np.inf))
        self._ends = None if len(ends) == len(confidence) else ends
        self._harmonic = _harmonic_numbers(2 * len(confidence))

    def _totals(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight and weight of wrong ones up to each distinct probability, 0 first: float64 `[values + 1]` each."""
        weights = np.asarray(weights, np.float64)[self._order]
        found = []
        for part in (weights, weights * self._wrong):
            sums = np.cumsum(part)
            found.append(np.concatenate([[0.0], sums if self._ends is None else sums[self._ends]]))
        return found[0], found[1]

    def _harmonic_steps(self, answered: np.ndarray) -> np.ndarray:
        """Differences of the harmonic numbers of `answered`; looked up where these are counts, as in resamples."""
        counts = answered.astype(np.int64)
        if not (counts == answered).all():
            return np.asarray(np.diff(digamma(answered + 1)))
        if counts[-1] >= len(self._harmonic):
            self._harmonic = _harmonic_numbers(2 * int(counts[-1]))
        return np.diff(self._harmonic[counts])

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """Coverage and risk after each distinct probability: float64 `[values]` each."""
        answered, errors = self._totals(np.ones(len(self._order)))
        return answered[1:] / answered[-1], errors[1:] / answered[1:]

    def summary(self, weights: np.ndarray | None = None) -> np.ndarray:
        """AURC, and the accuracy at each of `COVERAGES`: float64 `[3]`, NaN where nothing has weight.

        Args:
            weights: how often each answer counts, `[n]`; once by default.
        """
        answered, errors = self._totals(np.ones(len(self._order)) if weights is None else weights)
        total = answered[-1]
        if not total:
            return np.full(1 + len(COVERAGES), np.nan)
        # Among g answers of one probability, of which e are wrong, after W with E: the expected risk of the k-th is
        # (E + e k / g) / (W + k); its sum over k is e + (E - e W / g) (H(W + g) - H(W)), H the harmonic numbers.
        group = np.diff(answered)
        share = np.divide(np.diff(errors), group, out=np.zeros_like(group), where=group > 0)
        steps = self._harmonic_steps(answered)
        area = (np.diff(errors) + (errors[:-1] - share * answered[:-1]) * steps).sum() / total
        asked = np.array(COVERAGES) * total
        return np.array([area, *(1 - np.interp(asked, answered, errors) / asked)])


def _harmonic_numbers(last: int) -> np.ndarray:
    """H(0) to H(`last`): float64 `[last + 1]`."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, last + 1))])


def back_off(probability: np.ndarray, threshold: float) -> np.ndarray:
    """The deepest rank whose answer has at least `threshold`: int64 `[n]`, -1 where none has.

    Args:
        probability: float `[n, ranks]`, highest rank first; NaN where there is no answer.
        threshold: from 0 to 1.
    """
    enough = np.nan_to_num(probability, nan=-1.0) >= threshold
    return np.where(enough.any(axis=1), probability.shape[1] - 1 - enough[:, ::-1].argmax(axis=1), -1)


def at_level(values: np.ndarray, level: np.ndarray) -> np.ndarray:
    """`values` `[n, ranks]` at the rank that `back_off` chose, float64 `[n]`; 0 where it chose none."""
    found = values[np.arange(len(level)), np.maximum(level, 0)].astype(np.float64)
    found[level < 0] = 0
    return found
