"""What classifiers answered on labelled photos, as figures and rows, and the checks of what they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.rows import Figure, Prediction
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import TaskSamples


@dataclass(frozen=True)
class Answers:
    """The answers of one variant over its runs (folds, repeats or seeds), photo by photo."""

    asked: np.ndarray
    """float64 `[n]`: how many runs asked about the photo."""
    correct: np.ndarray
    """float64 `[n]`: the share of those that were right; 0 where none asked."""
    predicted: np.ndarray
    """int64 `[n]`: the class said most often, the lowest number of equally frequent ones; -1 where none asked."""
    spread: float | None
    """Population standard deviation over the runs' micro accuracies; None of a single run."""

    @classmethod
    def of(
        cls, true: np.ndarray, rows: np.ndarray, predicted: np.ndarray, correct: np.ndarray | None = None
    ) -> Answers:
        """Gathers runs.

        Args:
            true: int `[n]`, class numbers.
            rows: int `[runs, m]`: the photos that each run asked about, or `[m]` where all asked about the same.
            predicted: int `[runs, m]`, class numbers; -1 says no class.
            correct: bool `[runs, m]`; by default where `predicted` is true.
        """
        rows = np.broadcast_to(rows, predicted.shape)
        right = predicted == true[rows] if correct is None else correct
        asked = np.bincount(rows.ravel(), minlength=len(true)).astype(np.float64)
        share = np.bincount(rows.ravel(), right.ravel(), len(true)) / np.maximum(asked, 1)
        said = np.full((len(predicted), len(true)), -1, np.int64)
        np.put_along_axis(said, rows, predicted, axis=1)
        spread = float(right.mean(axis=1).std()) if len(right) > 1 else None
        return cls(asked, share, _most_frequent(said), spread)


def _most_frequent(said: np.ndarray) -> np.ndarray:
    """The commonest number but -1 in each column of `[runs, n]`, the lowest of equals; -1 where there is none."""
    votes = np.stack([np.where(mine >= 0, (said == mine).sum(axis=0), 0) for mine in said])
    most = votes.max(axis=0)
    lowest = np.where((votes == most) & (said >= 0), said, np.iinfo(np.int64).max).min(axis=0)
    return np.where(most > 0, lowest, -1)


def add_accuracies(
    scores: Scores, figure: Figure, true: np.ndarray, answers: Answers, candidates: int, *, guessing: bool = True
) -> None:
    """Adds balanced and micro accuracy of `answers` to `scores`; what `figure` lacks of counts and chance is filled in.

    Classes weigh by how often their photos were asked about.

    Args:
        scores: of the samples that `true` and `answers` are about.
        figure: says task, protocol and variant.
        true: int `[n]`, class numbers; -1 is never asked about.
        answers: of the same photos.
        candidates: how many classes could be answered, also such as no photo is of: chance is one of them.
        guessing: whether chance means anything; else it is NaN.
    """
    per_class = np.bincount(np.maximum(true, 0), weights=answers.asked)
    known = per_class[per_class > 0]
    size = per_class[np.maximum(true, 0)]
    balanced = np.divide(answers.asked, size, out=np.zeros_like(answers.asked), where=size > 0)
    chance = 1 / candidates if guessing else float("nan")
    figure = replace(figure, samples=int((answers.asked > 0).sum()), classes=candidates, chance=chance)
    scores.add(replace(figure, metric="balanced_accuracy"), answers.correct, balanced)
    majority = float(known.max() / known.sum())
    micro = replace(figure, metric="micro_accuracy", majority=majority, spread=answers.spread)
    scores.add(micro, answers.correct, answers.asked)


def prediction_rows(
    figure: Figure,
    samples: TaskSamples,
    column: str,
    names: Sequence[str],
    answers: Answers,
    score: np.ndarray | None = None,
) -> list[Prediction]:
    """One row for every photo that was asked about.

    Args:
        figure: says task, protocol and variant.
        samples: the photos.
        column: of their labels.
        names: of the classes, by number.
        answers: of the photos.
        score: float `[n]`, the probability of what was predicted, where there is one.
    """
    labels, clusters = samples.columns[column], samples.clusters(column)
    return [
        Prediction(
            learner=figure.learner,
            protocol=figure.protocol,
            variant=figure.variant,
            split=figure.split,
            rank=column,
            key=samples.keys[row],
            cluster=clusters[row],
            true=str(labels[row]),
            predicted=names[answers.predicted[row]] if answers.predicted[row] >= 0 else "",
            correct=float(answers.correct[row]),
            score=None if score is None else float(score[row]),
        )
        for row in np.flatnonzero(answers.asked)
    ]


def cluster_numbers(names: Sequence[str]) -> np.ndarray:
    """int64 `[n]`: a number for each name; every '' (not known) has one of its own."""
    number = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] if name else len(number) + row for row, name in enumerate(names)], np.int64)


def checked(task: str, samples: Mapping[str, TaskSamples], split: str, column: str) -> TaskSamples:
    """The samples of `split`; raises `UserError` if a feature is not finite, or `column` is missing or not as long."""
    part = samples[split]
    if bad := int((~np.isfinite(part.features).all(axis=1)).sum()):
        raise UserError(f"task {task}: {bad} of {len(part)} photos of split {split} have features that are not finite")
    if column not in part.columns:
        known = ", ".join(part.columns) or "nothing"
        raise UserError(f"task {task}: split {split} has no labels {column!r}; it has {known}")
    if len(part.columns[column]) != len(part):
        raise UserError(
            f"task {task}: split {split} has {len(part)} photos, but {len(part.columns[column])} labels {column!r}"
        )
    return part


@dataclass(frozen=True)
class SharedClasses:
    """One numbering for the classes of a training and a test split: in ascending order of those in training."""

    names: tuple[str, ...]
    train: np.ndarray
    """int64 `[n]`; -1 where the label is ''."""
    test: np.ndarray
    """int64 `[m]`; -1 where the label is '', or its class is not in training."""
    notes: tuple[str, ...]
    """What was left out of the test, counted."""

    @classmethod
    def of(cls, task: str, train: TaskSamples, test: TaskSamples, column: str) -> SharedClasses:
        """From checked samples; raises `UserError` with fewer than two classes, or no photo to test them on."""
        known = [str(value) for value in train.columns[column]]
        asked = [str(value) for value in test.columns[column]]
        names = tuple(str(value) for value in np.unique(train.columns[column]) if str(value))
        number = {name: place for place, name in enumerate(names)}
        in_train, in_test = (np.array([number.get(v, -1) for v in values], np.int64) for values in (known, asked))
        if len(names) < 2:
            raise UserError(f"task {task}: {len(names)} classes in split {train.split}; at least two are needed")
        if not (in_test >= 0).any():
            raise UserError(f"task {task}: no photo of split {test.split} is of a class of split {train.split}")
        notes = []
        strange = {value for value in asked if value and value not in number}
        if strange:
            photos = sum(value in strange for value in asked)
            notes.append(
                f"{task}: {photos} photos of {len(strange)} classes that split {train.split} lacks were left out"
            )
        for part, values in ((train, known), (test, asked)):
            if unlabelled := values.count(""):
                notes.append(f"{task}: {unlabelled} photos of split {part.split} have no label and were left out")
        return cls(names, in_train, in_test, tuple(notes))
