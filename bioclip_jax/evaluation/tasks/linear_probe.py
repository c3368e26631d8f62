"""Linear probe: multinomial logistic regression on frozen features, its L2 penalty chosen on a part of training.

As in CLIP (Radford et al. 2021, A.3) by L-BFGS, the penalty swept on photos held out of training, then refitted on all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.logistic import LogisticRegression
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples, task_figure
from bioclip_jax.evaluation.tasks.answers import (
    Answers,
    SharedClasses,
    add_accuracies,
    checked,
    cluster_numbers,
    prediction_rows,
)

PROTOCOL = "linear_probe"


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Photos held out, bool `[n]`: `fraction` of each class, rounded down, so that every class keeps some."""
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        held[generator.permutation(rows)[: int(fraction * len(rows))]] = True
    return held


def choose_strength(
    features: np.ndarray,
    labels: np.ndarray,
    held: np.ndarray,
    classes: int,
    strengths: Sequence[float],
    iterations: int,
) -> tuple[float, dict[float, float]]:
    """The inverse strength C of most accuracy on the photos held out, the smallest of equals, and all their accuracies.

    Args:
        features: float32 `[n, d]`, standardised.
        labels: int `[n]`.
        held: bool `[n]`, at least one.
        classes: number of classes.
        strengths: values of C; each fit starts from the one of the next smaller.
        iterations: of L-BFGS for each.
    """
    accuracy, model = {}, None
    for strength in sorted(strengths):
        model = LogisticRegression.fit(
            features[~held],
            labels[~held],
            classes=classes,
            inverse_strength=strength,
            iterations=iterations,
            start=model,
        )
        accuracy[strength] = float((model.logits(features[held]).argmax(axis=1) == labels[held]).mean())
    return max(accuracy, key=lambda strength: (accuracy[strength], -strength)), accuracy


@dataclass(frozen=True)
class LinearProbe:
    """Trained on one split, tested on another: balanced and micro accuracy.

    Features are L2-normalised, then standardised by the training photos. The variant is `l2`.
    """

    quick: ClassVar[bool] = False
    name: str
    train: str
    test: str
    column: str = "class"
    strengths: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Values of C, the inverse of the penalty, that are tried."""
    held_out: float = 0.2
    """Share of each class's training photos on which C is chosen."""
    iterations: int = 100
    """Of L-BFGS for each fit."""

    def __post_init__(self) -> None:
        if not self.strengths or min(self.strengths) <= 0 or not 0 < self.held_out < 1 or self.iterations < 1:
            raise UsageError(f"task {self.name}: strengths must be positive, and held_out lie between 0 and 1")

    @property
    def splits(self) -> tuple[str, ...]:
        """Both splits."""
        return (self.train, self.test)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Chooses C, fits, and measures."""
        train = checked(self.name, samples, self.train, self.column)
        test = checked(self.name, samples, self.test, self.column)
        shared = SharedClasses.of(self.name, train, test, self.column)
        found = Outcome(notes=list(shared.notes))
        known = np.flatnonzero(shared.train >= 0)
        labels = shared.train[known]
        features = train.unit_features[known]
        mean, deviation = features.mean(axis=0), features.std(axis=0)
        scale = np.where(deviation > 0, deviation, np.float32(1))
        features = (features - mean) / scale
        context.say(f"{self.name}: fitting {len(self.strengths)} penalties to {len(labels)} photos")
        held = hold_out(labels, self.held_out, context.seed)
        if not held.any():
            raise UserError(f"task {self.name}: no class of {self.train} has photos enough to hold one out")
        strength, accuracy = choose_strength(features, labels, held, len(shared.names), self.strengths, self.iterations)
        found.notes.append(
            f"{self.name}: C = {strength:g} was chosen on {held.sum()} training photos held out "
            f"(accuracy {100 * accuracy[strength]:.2f} %)"
        )
        if len(accuracy) > 1 and strength in (min(accuracy), max(accuracy)):
            found.notes.append(f"{self.name}: C = {strength:g} is at the end of those tried")
        model = LogisticRegression.fit(
            features, labels, classes=len(shared.names), inverse_strength=strength, iterations=self.iterations
        )
        rows = np.flatnonzero(shared.test >= 0)
        logits = model.logits((test.unit_features - mean) / scale)
        answers = Answers.of(shared.test, rows, logits[rows].argmax(axis=1)[None])
        probability = np.asarray(jax.nn.softmax(logits, axis=1)).max(axis=1)
        figure = task_figure(self, PROTOCOL, "l2", "", rank=self.column)
        scores = Scores(cluster_numbers(test.clusters(self.column)), context.resamples, context.seed)
        add_accuracies(scores, figure, shared.test, answers, len(shared.names))
        found.figures, _ = scores.finish("")
        found.predictions = prediction_rows(figure, test, self.column, shared.names, answers, probability)
        return found
