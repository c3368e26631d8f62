"""One-shot classification of a test split by supports from a training split: BioCLIP 2's protocol for PlantDoc.

The classifier is SimpleShot, as in `few_shot`. Supports are drawn by NumPy's legacy generator: per class in ascending
order its rows are shuffled and the first k kept (`evaluation/plantdoc.py` of the reference implementation). There, the
rows themselves come from a loader that PyTorch shuffles; here they stand in the order of the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.few_shot import Folds, simple_shot
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

PROTOCOL = "one_shot"


def draw_supports(labels: np.ndarray, shots: int, repeats: int, *, reseeded: bool, seed: int = 0) -> np.ndarray:
    """Rows of the supports, in the reference's final (shuffled) order: int64 `[repeats, classes * shots]`.

    Args:
        labels: int `[n]`; rows labelled -1 take no part, and every other class has at least `shots` rows.
        shots: supports per class.
        repeats: how often to draw.
        reseeded: repeat r is drawn with seed + r (main of the reference implementation); else the generator is seeded
            once, before the first (its v1.0.0).
        seed: of the generator.
    """
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels[labels >= 0])]
    generator = np.random.RandomState(seed)
    supports = []
    for repeat in range(repeats):
        if reseeded:
            generator.seed(seed + repeat)
        kept = []
        for rows in classes:
            rows = rows.copy()
            generator.shuffle(rows)
            kept.append(rows[:shots])
        support = np.concatenate(kept)
        generator.shuffle(support)
        supports.append(support)
    return np.stack(supports)


def support_folds(supports: np.ndarray, train_labels: np.ndarray, query: np.ndarray) -> Folds:
    """Folds of supports int `[repeats, s]`, put class by class, that all ask about the rows `query` int `[m]`."""
    by_class = np.take_along_axis(supports, np.argsort(train_labels[supports], axis=1, kind="stable"), axis=1)
    return Folds(np.unique(train_labels[supports[0]]), by_class, np.broadcast_to(query, (len(supports), len(query))), 0)


@dataclass(frozen=True)
class OneShot:
    """k photos of each class of the training split against all of the test split; the mean over repeats.

    Variants: `paper` L2-normalises features first and seeds every repeat (main of the reference implementation),
    `paper v1` takes them raw and seeds once (its v1.0.0).
    """

    quick: ClassVar[bool] = True
    name: str
    train: str
    test: str
    column: str = "class"
    shots: int = 1
    repeats: int = 5

    @property
    def splits(self) -> tuple[str, ...]:
        """Both splits."""
        return (self.train, self.test)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Balanced and micro accuracy of both variants."""
        train = checked(self.name, samples, self.train, self.column)
        test = checked(self.name, samples, self.test, self.column)
        shared = SharedClasses.of(self.name, train, test, self.column)
        found = Outcome(notes=list(shared.notes))
        sizes = np.bincount(shared.train[shared.train >= 0], minlength=len(shared.names))
        enough = sizes >= self.shots
        if enough.sum() < 2:
            raise UserError(f"task {self.name}: fewer than two classes of {self.train} have {self.shots} photos")
        if not enough.all():
            found.notes.append(
                f"{self.name}: {(~enough).sum()} classes have fewer than {self.shots} photos in split {self.train} "
                "and were left out"
            )
        labels = np.where((shared.train >= 0) & enough[shared.train], shared.train, -1)
        true = np.where((shared.test >= 0) & enough[shared.test], shared.test, -1)
        query = np.flatnonzero(true >= 0)
        if not len(query):
            raise UserError(f"task {self.name}: no photo of split {self.test} is of a class with enough supports")
        scores = Scores(cluster_numbers(test.clusters(self.column)), context.resamples, context.seed)
        for variant in ("paper", "paper v1"):
            main = variant == "paper"
            folds = support_folds(draw_supports(labels, self.shots, self.repeats, reseeded=main), labels, query)
            features = (train.unit_features, test.unit_features) if main else (train.features, test.features)
            answers = Answers.of(true, folds.query, simple_shot(*features, folds))
            figure = task_figure(
                self,
                PROTOCOL,
                f"{variant}, {self.shots}-shot",
                "",
                rank=self.column,
                left_out=int((~enough).sum()),
            )
            add_accuracies(scores, figure, true, answers, int(enough.sum()))
            found.predictions += prediction_rows(figure, test, self.column, shared.names, answers)
        found.figures, _ = scores.finish("")
        found.notes += [
            f"{self.name}: paper: supports are drawn from the files' order, upstream's from a shuffled loader's",
            f"{self.name}: paper v1: features are not normalised before centring, and repeats are not seeded anew",
        ]
        return found
