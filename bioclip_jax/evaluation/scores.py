"""Collects right and wrong of several learners on the same samples and turns them into figures with intervals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bioclip_jax.evaluation.bootstrap import Bootstrap, difference, interval
from bioclip_jax.evaluation.rows import Difference, Figure


@dataclass
class Scores:
    """Figures of the same samples: their intervals come from the same resamples, so differences are paired.

    Args:
        clusters: int `[n]`, the species of each sample, by which samples are drawn.
        resamples: of the bootstrap; 0 leaves intervals and differences out.
        seed: of the bootstrap.
    """

    clusters: np.ndarray
    resamples: int = 1000
    seed: int = 0
    _figures: list[Figure] = field(default_factory=list)
    _values: list[np.ndarray] = field(default_factory=list)
    _weights: list[np.ndarray] = field(default_factory=list)

    def add(self, figure: Figure, correct: np.ndarray, weights: np.ndarray) -> None:
        """Adds a figure; its value, interval and clusters become those of `correct` `[n]` (0 to 1) under `weights`."""
        value = round(float(weights @ correct / weights.sum()), 12)
        self._figures.append(replace(figure, value=value, clusters=len(np.unique(self.clusters[weights > 0]))))
        self._values.append(np.asarray(correct, np.float64))
        self._weights.append(weights)

    @property
    def figures(self) -> list[Figure]:
        """Those added, without intervals."""
        return list(self._figures)

    def resampled(self, seed: int | None = None) -> np.ndarray:
        """The figures' values in every resample: float64 `[resamples, figures]`; by `seed`, or the scores' own."""
        if not self._figures or not self.resamples:
            return np.zeros((self.resamples, len(self._figures)))
        bootstrap = Bootstrap(self.clusters, resamples=self.resamples, seed=self.seed if seed is None else seed)
        return bootstrap.ratios(np.stack(self._values, axis=1), np.stack(self._weights, axis=1))

    def finish(self, variant_of_model: str) -> tuple[list[Figure], list[Difference]]:
        """The figures with their intervals, and model less baseline wherever both have a figure.

        In zero-shot the model's figures are those of `variant_of_model`.
        """
        if not self._figures or not self.resamples:
            return list(self._figures), []
        resampled = self.resampled()
        figures = []
        for column, figure in enumerate(self._figures):
            bounds = interval(resampled[:, column])
            figures.append(replace(figure, low=bounds.low, high=bounds.high))
        place = {(f.learner, f.protocol, f.variant, f.split, f.rank, f.metric): i for i, f in enumerate(figures)}
        differences = []
        for column, figure in enumerate(figures):
            if figure.learner != "model" or (figure.protocol == "zero_shot" and figure.variant != variant_of_model):
                continue
            variant = figure.variant if figure.protocol == "few_shot" else "regression"
            other = place.get(("baseline", figure.protocol, variant, figure.split, figure.rank, figure.metric))
            if other is not None:
                value = figure.value - figures[other].value
                found = difference(resampled[:, column], resampled[:, other], value)
                differences.append(
                    Difference(
                        protocol=figure.protocol,
                        variant=figure.variant,
                        split=figure.split,
                        rank=figure.rank,
                        metric=figure.metric,
                        value=value,
                        low=found.low,
                        high=found.high,
                        p_value=found.p_value,
                    )
                )
        return figures, differences
