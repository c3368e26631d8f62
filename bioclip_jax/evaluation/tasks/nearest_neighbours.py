"""k-nearest-neighbour classification by cosine similarity.

Neighbours vote with weight exp(similarity / 0.07), as in DINO (Caron et al. 2021, `eval_knn.py`), after Wu et al. 2018
("Unsupervised feature learning via non-parametric instance discrimination", section 3.4).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bioclip_jax.errors import UsageError
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

PROTOCOL = "knn"
TEMPERATURE = 0.07
SIMILARITIES = 1 << 24
"""At most so many are held at once (64 MiB)."""


@partial(jax.jit, static_argnames=("k", "classes", "chunk"))
def _votes(
    train: Float[Array, "n d"], labels: Int[Array, " n"], test: Float[Array, "m d"], k: int, classes: int, chunk: int
) -> tuple[Int[Array, " m"], Int[Array, " m"], Float[Array, " m"]]:
    def one_chunk(queries: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        products = jnp.matmul(queries, train.T, precision=jax.lax.Precision.HIGHEST)
        similarity, rows = jax.lax.top_k(products, k)
        neighbours = labels[rows]
        weights = jnp.exp((similarity - similarity[:, :1]) / TEMPERATURE)
        votes = jnp.zeros((len(queries), classes)).at[jnp.arange(len(queries))[:, None], neighbours].add(weights)
        return neighbours[:, 0], votes.argmax(axis=1), votes.max(axis=1) / weights.sum(axis=1)

    padded = jnp.pad(test, ((0, -len(test) % chunk), (0, 0)))
    parts = jax.lax.map(one_chunk, padded.reshape(-1, chunk, test.shape[1]))
    nearest, voted, share = (part.reshape(-1)[: len(test)] for part in parts)
    return nearest, voted, share


def knn(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The class of the nearest, the class that the k nearest vote for, and its share of their weight, each `[m]`.

    Equal similarities stand in the order of the training photos, equal votes in that of the classes.

    Args:
        train: float32 `[n, d]`, L2-normalised.
        labels: int `[n]`, in 0 .. classes - 1.
        test: float32 `[m, d]`, L2-normalised.
        classes: number of classes.
        k: neighbours, at most n.
    """
    chunk = max(1, min(len(test), SIMILARITIES // len(train)))
    nearest, voted, share = _votes(train, labels.astype(np.int32), test, k, classes, chunk)
    return np.asarray(nearest, np.int64), np.asarray(voted, np.int64), np.asarray(share)


@dataclass(frozen=True)
class KNN:
    """Neighbours from one split, asked about another: balanced and micro accuracy, variants `k=20` and `k=1`."""

    quick: ClassVar[bool] = True
    name: str
    train: str
    test: str
    column: str = "class"
    k: int = 20

    def __post_init__(self) -> None:
        if self.k < 1:
            raise UsageError(f"task {self.name}: k {self.k} must be at least 1")

    @property
    def splits(self) -> tuple[str, ...]:
        """Both splits."""
        return (self.train, self.test)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Measures the vote and the nearest neighbour alone."""
        train = checked(self.name, samples, self.train, self.column)
        test = checked(self.name, samples, self.test, self.column)
        shared = SharedClasses.of(self.name, train, test, self.column)
        found = Outcome(notes=list(shared.notes))
        known, rows = np.flatnonzero(shared.train >= 0), np.flatnonzero(shared.test >= 0)
        k = min(self.k, len(known))
        if k < self.k:
            found.notes.append(f"{self.name}: k = {k}, not {self.k}: split {self.train} has no more photos")
        nearest, voted, share = knn(
            train.unit_features[known], shared.train[known], test.unit_features[rows], len(shared.names), k
        )
        scores = Scores(cluster_numbers(test.clusters(self.column)), context.resamples, context.seed)
        for variant, predicted in {f"k={k}": voted, "k=1": nearest}.items():
            figure = task_figure(self, PROTOCOL, variant, "", rank=self.column)
            answers = Answers.of(shared.test, rows, predicted[None])
            add_accuracies(scores, figure, shared.test, answers, len(shared.names))
            probability = None
            if predicted is voted:
                probability = np.zeros(len(test))
                probability[rows] = share
            found.predictions += prediction_rows(figure, test, self.column, shared.names, answers, probability)
        found.figures, _ = scores.finish("")
        return found
