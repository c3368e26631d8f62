"""Accuracy, balanced accuracy and what guessing gives.

Every accuracy here is a weighted mean of right and wrong over samples, so that one bootstrap serves all:
micro accuracy weighs samples alike; balanced accuracy (the mean of the classes' recalls) weighs a sample by 1 / (size
of its class).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = ("balanced_accuracy", "micro_accuracy")


@dataclass(frozen=True)
class Chance:
    """What guessing gives at C classes."""

    uniform: float
    """1 / C: every class guessed alike; for balanced accuracy also what any constant guess gives."""
    majority: float
    """Share of the largest class: the micro accuracy of always guessing it."""
    classes: int
    samples: int


def sample_weights(metric: str, true: np.ndarray) -> np.ndarray:
    """float64 `[n]`: the weight of each sample in `metric`, for class numbers `true` int `[n]`; -1 (not labelled)
    weighs nothing.

    Weights add up to 1. Classes without a sample do not count.
    """
    labelled = true >= 0
    if metric == "micro_accuracy":
        weights = labelled.astype(np.float64)
    elif metric == "balanced_accuracy":
        sizes = np.bincount(true[labelled])
        weights = (
            np.where(labelled, 1.0 / np.maximum(sizes, 1)[np.maximum(true, 0)], 0.0)
            if sizes.size
            else np.zeros(len(true))
        )
    else:
        raise ValueError(f"metric {metric!r} is not one of {METRICS}")
    total = weights.sum()
    return weights / total if total else weights


def accuracy(metric: str, true: np.ndarray, correct: np.ndarray) -> float:
    """`metric` of `correct` bool `[n]`; NaN where no sample is labelled."""
    weights = sample_weights(metric, true)
    return float(weights @ correct) if weights.any() else float("nan")


def chance(true: np.ndarray) -> Chance:
    """What guessing gives for class numbers `true` int `[n]` (-1: not labelled)."""
    sizes = np.bincount(true[true >= 0])
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return Chance(float("nan"), float("nan"), 0, 0)
    return Chance(1.0 / sizes.size, float(sizes.max() / sizes.sum()), int(sizes.size), int(sizes.sum()))
