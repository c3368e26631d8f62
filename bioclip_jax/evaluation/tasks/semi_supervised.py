"""Semi-supervised k-means and its scoring by Hungarian matching: BioCLIP 2's protocol for Herbarium19.

Some classes ("old") have labelled photos; every other photo is clustered together with them into as many clusters as
there are classes (Vaze et al. 2022, "Generalized Category Discovery"; `evaluation/herbarium19.py` of the reference
implementation). A cluster then stands for the class that a matching gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples, task_figure
from bioclip_jax.evaluation.tasks.answers import Answers, add_accuracies, checked, cluster_numbers, prediction_rows
from bioclip_jax.evaluation.tasks.kmeans import Clustering, cluster

PROTOCOL = "semi_supervised_kmeans"


@dataclass(frozen=True)
class Matching:
    """Which class each cluster stands for."""

    classes: np.ndarray
    """int64 `[k]`: of each cluster, chosen to make most photos right."""
    table: np.ndarray
    """int64 `[k, k]`: photos by (cluster, class)."""

    @classmethod
    def of(cls, true: np.ndarray, clusters: np.ndarray, size: int) -> Matching:
        """Of classes and clusters, int `[n]` in 0 .. size - 1, by `scipy.optimize.linear_sum_assignment`."""
        table = np.bincount(clusters * size + true, minlength=size * size).reshape(size, size)
        _, classes = linear_sum_assignment(table.max() - table)
        return cls(classes.astype(np.int64), table)

    def bounds(self, of_classes: np.ndarray) -> tuple[int, int]:
        """The fewest and most photos of some classes (bool `[k]`) that any matching as good as this has right."""
        part = self.table * of_classes
        scale = int(self.table.sum()) + 1
        found = []
        for sign in (-1, 1):
            rows, columns = linear_sum_assignment(self.table * scale + sign * part, maximize=True)
            found.append(int(part[rows, columns].sum()))
        return found[0], found[1]


def split_labelled(old: np.ndarray, fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the labelled and of the unlabelled photos, in order: int64 `[m]`, `[n - m]`.

    Args:
        old: bool `[n]`: photos of old classes.
        fraction: of the old classes' photos to be labelled, drawn by NumPy's legacy generator as the reference does.
        seed: of the draw.
    """
    candidates = np.flatnonzero(old)
    generator = np.random.RandomState(seed)
    kept = generator.choice(len(candidates), int(fraction * len(candidates)), replace=False)
    labelled = candidates[np.sort(kept)]
    return labelled, np.setdiff1d(np.arange(len(old)), labelled)


@dataclass(frozen=True)
class _Problem:
    """Photos in the order of clustering: labelled, then unlabelled; class numbers are cluster numbers."""

    rows: np.ndarray
    labelled: int
    true: np.ndarray
    """int64 `[n]`, of `rows`."""
    is_old: np.ndarray
    """bool `[classes]`."""
    names: tuple[str, ...]
    known: int
    """The first so many classes have labelled photos."""


@dataclass(frozen=True)
class SemiSupervisedKMeans:
    """Clusters one split; accuracy on its unlabelled photos, the mean over seeds.

    Variants: `paper` clusters L2-normalised features and matches clusters to classes separately for the photos of old
    and of new classes; `paper v1` does so with features as they are, for the first seed only; `corrected` matches the
    clusters of `paper` once for all photos, so that no cluster stands for two classes. Each is also given for the old
    and the new classes' photos alone. Intervals redraw species (classes where there is no taxonomy), each
    with all its photos; clusterings and matchings stay as they are.
    """

    quick: ClassVar[bool] = False
    name: str
    split: str
    column: str = "class"
    old_classes: tuple[str, ...] = ()
    """Classes with labelled photos, as the benchmark lists them; all others are new."""
    old_column: str = ""
    """Instead of `old_classes`: labels of 1 for the photos of old classes and 0 for those of new ones."""
    labelled_fraction: float = 0.8
    """Of the old classes' photos."""
    seeds: tuple[int, ...] = (0, 1, 2)
    iterations: int = 10

    def __post_init__(self) -> None:
        if bool(self.old_classes) == bool(self.old_column):
            raise UsageError(f"task {self.name}: either old_classes or old_column says which classes are old")
        if not 0 < self.labelled_fraction < 1 or not self.seeds or self.iterations < 1:
            raise UsageError(f"task {self.name}: labelled_fraction must lie between 0 and 1, and seeds not be empty")

    @property
    def splits(self) -> tuple[str, ...]:
        """The one split."""
        return (self.split,)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Balanced and micro accuracy of each variant, and micro accuracy of old and new classes."""
        part = checked(self.name, samples, self.split, self.column)
        found = Outcome()
        problem = self._problem(part, found)
        scores = Scores(cluster_numbers(part.clusters(self.column)), context.resamples, context.seed)
        for features, seeds, variants in (
            (part.unit_features, self.seeds, ("paper", "corrected")),
            (part.features, self.seeds[:1], ("paper v1",)),
        ):
            context.say(f"{self.name}: clustering {len(problem.rows)} photos into {len(problem.names)} clusters")
            clustering = self._cluster(features, seeds, problem)
            if broken := int((~np.isfinite(clustering.centres).all(axis=(1, 2))).sum()):
                found.notes.append(
                    f"{self.name}: {variants[0]}: in {broken} of {len(seeds)} runs a cluster became empty; "
                    "as in the reference implementation the labels from before count"
                )
            for variant in variants:
                self._score(variant, part, problem, clustering, scores, found)
        found.figures, _ = scores.finish("")
        found.notes.append(
            f"{self.name}: paper: clusters are matched to classes separately for old and new classes' photos"
        )
        found.notes.append(f"{self.name}: paper v1: features are not normalised; one seed")
        return found

    def _problem(self, part: TaskSamples, found: Outcome) -> _Problem:
        values = np.asarray(part.columns[self.column])
        texts = np.array([str(value) for value in values])
        has_label = texts != ""
        if count := int((~has_label).sum()):
            found.notes.append(f"{self.name}: {count} photos have no label and were left out")
        ascending = [str(value) for value in np.unique(values[has_label])]
        old = self._old(part, ascending, texts)
        rows = np.flatnonzero(has_label)
        labelled, unlabelled = split_labelled(np.isin(texts[rows], list(old)), self.labelled_fraction)
        if not len(labelled):
            raise UserError(f"task {self.name}: no photo of an old class is labelled; there are too few")
        seen = set(texts[rows[labelled]])
        if count := len(set(old) - seen):
            found.notes.append(
                f"{self.name}: {count} of {len(old)} old classes have no labelled photo; k-means has to find them"
            )
        known = [name for name in old if name in seen]
        names = (*known, *(name for name in old if name not in seen), *(name for name in ascending if name not in old))
        number = {name: place for place, name in enumerate(names)}
        rows = rows[np.concatenate([labelled, unlabelled])]
        true = np.array([number[text] for text in texts[rows]], np.int64)
        return _Problem(rows, len(labelled), true, np.isin(names, list(old)), names, len(known))

    def _old(self, part: TaskSamples, ascending: list[str], texts: np.ndarray) -> dict[str, None]:
        """The old classes in order; every one of them is there, and so is a new one."""
        if self.old_column:
            flags = np.asarray(
                checked(self.name, {self.split: part}, self.split, self.old_column).columns[self.old_column]
            )
            if flags.ndim != 1 or not np.isin(flags, (0, 1)).all():
                raise UserError(f"task {self.name}: labels {self.old_column!r} must be 0 or 1, one per photo")
            both = set(texts[flags == 1]) & set(texts[flags == 0]) - {""}
            if both:
                raise UserError(f"task {self.name}: class {str(min(both))!r} is old for some photos and new for others")
            old = dict.fromkeys(name for name in ascending if name in set(texts[flags == 1]))
        else:
            old = dict.fromkeys(self.old_classes)
            if missing := [name for name in old if name not in set(ascending)]:
                raise UserError(
                    f"task {self.name}: {len(missing)} of {len(old)} old classes have no photo in split {self.split} "
                    f"(first: {missing[0]!r})"
                )
        if not 0 < len(old) < len(ascending):
            raise UserError(
                f"task {self.name}: {len(old)} of {len(ascending)} classes are old; some must be and some must not"
            )
        return old

    def _cluster(self, features: np.ndarray, seeds: tuple[int, ...], problem: _Problem) -> Clustering:
        ordered = features[problem.rows]
        return cluster(
            ordered[: problem.labelled],
            problem.true[: problem.labelled],
            ordered[problem.labelled :],
            len(problem.names),
            seeds=seeds,
            iterations=self.iterations,
        )

    def _score(
        self,
        variant: str,
        part: TaskSamples,
        problem: _Problem,
        clustering: Clustering,
        scores: Scores,
        found: Outcome,
    ) -> None:
        size, rows = len(problem.names), problem.rows[problem.labelled :]
        true = problem.true[problem.labelled :]
        is_old = problem.is_old[true]
        groups = [np.ones(len(true), bool)] if variant == "corrected" else [is_old, ~is_old]
        predicted, loose = [], []
        for assigned in clustering.labels[:, problem.labelled :]:
            said = np.zeros_like(true)
            for group in groups:
                matching = Matching.of(true[group], assigned[group], size)
                said[group] = matching.classes[assigned[group]]
            predicted.append(said)
            loose.append(matching.bounds(problem.is_old))
        of_all = np.full(len(part), -1, np.int64)
        of_all[problem.rows] = problem.true
        figure = task_figure(self, PROTOCOL, variant, "", rank=self.column)
        answers = Answers.of(of_all, rows, np.stack(predicted))
        add_accuracies(scores, figure, of_all, answers, size, guessing=False)  # a matching is no guess
        found.predictions += prediction_rows(figure, part, self.column, problem.names, answers)
        for text, group in (("old", is_old), ("new", ~is_old)):
            if group.any():
                alone = Answers.of(of_all, rows[group], np.stack(predicted)[:, group])
                of_group = replace(figure, variant=f"{variant}, {text}")
                add_accuracies(scores, of_group, of_all, alone, size, guessing=False)
        if variant == "corrected" and any(fewest < most for fewest, most in loose):
            low, high = (100 * np.mean(side) / max(1, is_old.sum()) for side in zip(*loose, strict=True))
            found.notes.append(
                f"{self.name}: corrected: several matchings are equally good; they give old classes "
                f"{low:.2f} to {high:.2f} % (all photos together: one figure)"
            )
