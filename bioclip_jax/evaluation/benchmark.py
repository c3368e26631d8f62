"""What a benchmark recipe returns: which data are measured, whose they are, and how.

A recipe `evals/NAME.py` defines `benchmark(root: str | None) -> Benchmark`; `root` is the dataset directory given on
the command line, or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bioclip_jax.errors import UsageError
from bioclip_jax.text.taxonomy import RANKS


@dataclass(frozen=True)
class FewShotTask:
    """Few-shot classification: k images per class are drawn from the support splits, the query splits are classified.

    Where `support` and `query` are the same splits, they are one pool, as in BioCLIP 2's protocol: what is not drawn
    is the query. Where they differ, every query image is classified in every fold, so nothing that a model was
    trained on is asked for.
    """

    name: str
    support: tuple[str, ...]
    query: tuple[str, ...]
    ranks: tuple[str, ...] = ("species",)

    @property
    def is_pool(self) -> bool:
        """Whether support and query are drawn from the same images."""
        return self.support == self.query


@dataclass(frozen=True)
class Benchmark:
    """A data set with its labels and the protocol it is measured by."""

    name: str
    description: str
    license: str
    citation: str
    dataset: str
    """A dataset directory written by `bioclip-jax data build`, or the name or path of a data recipe, which is then
    read live."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the data recipe."""
    splits: Mapping[str, str] = field(default_factory=lambda: {"seen": "test", "unseen": "test_unseen"})
    """What is measured: name in the results -> split of the data set."""
    train_split: str | None = "train"
    """What the baseline learns from; None leaves the baseline out."""
    few_shot: tuple[FewShotTask, ...] = (
        FewShotTask("seen", support=("train",), query=("test",)),
        FewShotTask("unseen", support=("test_unseen",), query=("test_unseen",)),
    )
    shots: tuple[int, ...] = (1, 5)
    folds: int = 5
    ranks: tuple[str, ...] = RANKS
    max_images: int | None = None
    """At most so many images of each measured split (a fixed random choice); None takes all."""
    max_train_images: int | None = None
    """The same for `train_split`. A baseline that learns from fewer photos than the model did is an unfair one."""

    def __post_init__(self) -> None:
        for name in ("name", "dataset", "splits", "ranks"):
            if not getattr(self, name):
                raise UsageError(f"benchmark {self.name!r}: {name} is empty")
        unknown = {*self.ranks, *(rank for task in self.few_shot for rank in task.ranks)} - set(RANKS)
        if unknown:
            raise UsageError(f"benchmark {self.name!r}: ranks {sorted(unknown)} are not among {', '.join(RANKS)}")
        for name in ("max_images", "max_train_images"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise UsageError(f"benchmark {self.name!r}: {name} {limit} must be at least 1, or None for all")
        if self.train_split in self.splits.values():
            raise UsageError(f"benchmark {self.name!r}: split {self.train_split!r} cannot be both train and measured")
        for task in self.few_shot:
            if not task.is_pool and set(task.support) & set(task.query):
                raise UsageError(
                    f"benchmark {self.name!r}: few-shot {task.name!r}: support {task.support} and query {task.query} "
                    "must be the same splits, or have none in common"
                )
        if self.folds < 1 or any(shot < 1 for shot in self.shots):
            raise UsageError(f"benchmark {self.name!r}: folds {self.folds} and shots {self.shots} must be at least 1")

    def limit(self, split: str) -> int | None:
        """How many images of a split are used at most."""
        return self.max_train_images if split == self.train_split else self.max_images

    def split_names(self) -> tuple[str, ...]:
        """Every split that may be read, the measured ones first."""
        train = (self.train_split,) if self.train_split else ()
        return tuple(dict.fromkeys((*self.model_splits(few_shot=True), *train)))

    def model_splits(self, *, few_shot: bool) -> tuple[str, ...]:
        """The splits whose photos the model must see: the measured ones, then those of few-shot tasks."""
        others = (name for task in self.few_shot for name in (*task.query, *task.support)) if few_shot else ()
        return tuple(dict.fromkeys((*self.splits.values(), *others)))
