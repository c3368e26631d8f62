"""Micro and balanced accuracy, and what guessing gives.

Every accuracy here is a weighted mean of right and wrong over samples, so that one bootstrap serves all. Micro accuracy
weighs samples alike; balanced accuracy (the mean of the classes' recalls) weighs a sample by 1 / (size of its class).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

METRICS = ("balanced_accuracy", "micro_accuracy")


class Chance(NamedTuple):
    """What guessing gives at C classes; NaN where there are none."""

    uniform: float
    """1 / C: every class guessed alike; for balanced accuracy also what any constant guess gives."""
    majority: float
    """Share of the largest class: the micro accuracy of always guessing it."""


def sample_weights(metric: str, true: np.ndarray) -> np.ndarray:
    """The weight of each sample in `metric`: float64 `[n]`, adding up to 1; classes without a sample do not count.

    Args:
        metric: one of `METRICS`.
        true: int `[n]`, class numbers; -1 (not labelled) weighs nothing.
    """
    labelled = true >= 0
    if metric == "micro_accuracy":
        weights = labelled.astype(np.float64)
    elif metric == "balanced_accuracy":
        sizes = np.bincount(true[labelled], minlength=1)
        weights = np.where(labelled, 1.0 / np.maximum(sizes, 1)[np.maximum(true, 0)], 0.0)
    else:
        raise ValueError(f"metric {metric!r} is not one of {METRICS}")
    total = weights.sum()
    return weights / total if total else weights


def chance(true: np.ndarray) -> Chance:
    """What guessing gives for class numbers `true` int `[n]` (-1: not labelled)."""
    sizes = np.bincount(true[true >= 0])
    sizes = sizes[sizes > 0]
    if not sizes.size:
        return Chance(float("nan"), float("nan"))
    return Chance(1.0 / sizes.size, float(sizes.max() / sizes.sum()))
