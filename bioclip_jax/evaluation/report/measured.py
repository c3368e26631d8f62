"""What the results databases hold of one run, and the runs that belong on one page."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from bioclip_jax.evaluation.methods import DEFAULT_METHOD, METHODS
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Difference, Figure, GalleryItem, Prediction, Run, Species
from bioclip_jax.text.taxonomy import RANKS

BEYOND = ("hierarchical", "calibration", "selective", "back_off", "joint", "retrieval")
"""Protocols with a section of their own, besides zero-shot and few-shot."""
AT_RANKS = (*METHODS, "regression")
"""Variants of zero-shot at the ranks of a taxonomy; those of a task are others, and its label may be called class."""


@dataclass(frozen=True)
class Measured:
    """A run with everything it left behind, read when it is asked for."""

    results: Results
    number: int
    run: Run
    label: str = ""
    """What a page calls the model: its name, told apart from others of that name."""

    @cached_property
    def figures(self) -> Sequence[Figure]:
        """Every figure; what is not known is NaN."""
        return [_without_none(row) for row in self.results.rows(Figure, self.number)]

    @cached_property
    def differences(self) -> Sequence[Difference]:
        """Model less baseline, and seen less unseen."""
        return self.results.rows(Difference, self.number)

    @cached_property
    def predictions(self) -> Sequence[Prediction]:
        """Those of the model."""
        return [row for row in self.results.rows(Prediction, self.number) if row.learner == "model"]

    @cached_property
    def gallery(self) -> Sequence[GalleryItem]:
        """The pictures to show."""
        return self.results.rows(GalleryItem, self.number)

    @cached_property
    def species(self) -> Sequence[Species]:
        """Where species lie."""
        return self.results.rows(Species, self.number)

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """How it was measured."""
        return dict(json.loads(self.run.settings))

    @cached_property
    def notes(self) -> Sequence[str]:
        """What was left out, and quirks followed."""
        return list(json.loads(self.run.notes))

    @property
    def method(self) -> str:
        """The way of making candidates that the run leads with."""
        return str(self.settings.get("method", DEFAULT_METHOD))

    def thumbnail(self, key: str) -> bytes | None:
        """The JPEG of a photo, if it was kept."""
        return self.results.thumbnail(self.run.dataset_hash, key)

    def splits(self) -> list[str]:
        """The splits (or tasks) that zero-shot measured at ranks of the taxonomy."""
        return list(dict.fromkeys(f.split for f in self.figures if is_at_rank(f)))

    def zero_shot(self, split: str, rank: str, metric: str, learner: str = "model", way: str = "") -> Figure | None:
        """A zero-shot figure; the model's in the run's main way unless another is asked for."""
        variant = "regression" if learner == "baseline" else way or self.method
        return self.figure("zero_shot", variant, split, rank, metric, learner)

    def figure(
        self, protocol: str, variant: str, split: str, rank: str, metric: str, learner: str = "model"
    ) -> Figure | None:
        """The figure of that place."""
        return self._figures.get((learner, protocol, variant, split, rank, metric))

    @cached_property
    def _figures(self) -> Mapping[tuple[str, ...], Figure]:
        return {(f.learner, f.protocol, f.variant, f.split, f.rank, f.metric): f for f in self.figures}

    def difference(self, figure: Figure) -> Difference | None:
        """Model less baseline for a figure of the model."""
        wanted = (figure.protocol, figure.variant, figure.split, figure.rank, figure.metric)
        for d in self.differences:
            if (d.protocol, d.variant, d.split, d.rank, d.metric) == wanted:
                return d
        return None

    def answers(self, split: str, rank: str) -> list[Prediction]:
        """The zero-shot predictions at a rank."""
        return self._answers.get((split, rank), [])

    @cached_property
    def _answers(self) -> Mapping[tuple[str, str], list[Prediction]]:
        found: dict[tuple[str, str], list[Prediction]] = {}
        for p in self.predictions:
            if is_at_rank(p):
                found.setdefault((p.split, p.rank), []).append(p)
        return found

    def task_figures(self) -> list[Figure]:
        """Figures of tasks of published benchmarks: those that no section of its own shows."""
        return [
            f
            for f in self.figures
            if f.learner == "model" and f.protocol not in (*BEYOND, "few_shot") and not is_at_rank(f)
        ]


def is_at_rank(row: Figure | Prediction) -> bool:
    """Whether a row is of zero-shot classification at a rank of a taxonomy."""
    return row.protocol == "zero_shot" and row.variant in AT_RANKS and row.rank in RANKS


def _without_none(figure: Figure) -> Figure:
    """SQLite keeps NaN as NULL."""
    value, low, high, chance = (
        math.nan if number is None else number for number in (figure.value, figure.low, figure.high, figure.chance)
    )
    return replace(figure, value=value, low=low, high=high, chance=chance)


def runs_of(databases: Iterable[Results]) -> list[Measured]:
    """All runs of several databases, newest first; one that two of them hold is there once, as it was measured last."""
    found: dict[str, Measured] = {}
    for results in databases:
        for number, run in results.runs().items():
            if run.identity not in found or run.started > found[run.identity].run.started:
                found[run.identity] = Measured(results, number, run)
    return sorted(found.values(), key=lambda measured: (measured.run.started, measured.number), reverse=True)


def labelled(runs: Sequence[Measured]) -> list[Measured]:
    """The same with labels that tell them apart: names, with weights and settings where names are the same."""

    def apart(names: Sequence[str], more: Callable[[Measured], str]) -> list[str]:
        count = Counter(names)
        return [f"{name}, {more(run)}" if count[name] > 1 else name for name, run in zip(names, runs, strict=True)]

    names = apart([run.run.model for run in runs], lambda run: run.run.weights[:8])
    names = apart(names, lambda run: run.method)
    names = apart(names, lambda run: run.run.started.replace("T", " ")[:16])
    return [replace(run, label=name) for name, run in zip(names, runs, strict=True)]
