"""Few-shot accuracy of a benchmark's few-shot tasks, model and baseline features on the same folds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bioclip_jax.evaluation.benchmark import Benchmark, FewShotTask
from bioclip_jax.evaluation.few_shot import Folds, pool_folds, simple_shot, split_folds
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.rows import Difference, Figure
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.tasks.answers import Answers, add_accuracies

SplitFeatures = Mapping[str, np.ndarray]
"""Split -> float32 `[n, d]`."""


def measure_few_shot(
    benchmark: Benchmark,
    task: FewShotTask,
    labels: Labels,
    learners: Mapping[str, SplitFeatures],
    resamples: int,
    seed: int,
) -> tuple[list[Figure], list[Difference], list[str]]:
    """Figures and differences of one task at its ranks and numbers of shots, and a line for each not measured."""
    figures: list[Figure] = []
    differences: list[Difference] = []
    notes: list[str] = []
    for rank in task.ranks:
        query_labels = np.concatenate([labels.true(split, rank) for split in task.query])
        if task.is_pool:
            folds_of = pool_folds(query_labels, benchmark.shots, benchmark.folds)
        else:
            support_labels = np.concatenate([labels.true(split, rank) for split in task.support])
            folds_of = split_folds(support_labels, query_labels, benchmark.shots, benchmark.folds)
        for shots, folds in folds_of.items():
            if len(folds.classes) < 2:
                notes.append(
                    f"few-shot {task.name}: {rank} with {shots} shots is not measured, "
                    f"{len(folds.classes)} taxa have enough photos"
                )
                continue
            scores = Scores(labels.clusters(task.query), resamples, seed)
            for learner, features in learners.items():
                _add(scores, learner, task, rank, shots, folds, query_labels, features)
            found, paired = scores.finish("")
            figures += found
            differences += paired
    return figures, differences, notes


def _add(
    scores: Scores,
    learner: str,
    task: FewShotTask,
    rank: str,
    shots: int,
    folds: Folds,
    query_labels: np.ndarray,
    features: SplitFeatures,
) -> None:
    query = np.concatenate([features[split] for split in task.query])
    support = query if task.is_pool else np.concatenate([features[split] for split in task.support])
    answers = Answers.of(query_labels, folds.query, simple_shot(support, query, folds))
    figure = Figure(
        learner=learner,
        protocol="few_shot",
        variant=f"{shots}-shot",
        split=task.name,
        rank=rank,
        metric="",
        value=float("nan"),
        low=float("nan"),
        high=float("nan"),
        spread=None,
        chance=float("nan"),
        majority=None,
        samples=0,
        classes=0,
        clusters=0,
        left_out=folds.left_out,
    )
    add_accuracies(scores, figure, query_labels, answers, len(folds.classes))
