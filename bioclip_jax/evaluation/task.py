"""What a benchmark's tasks are given, and what they leave behind.

A task is one protocol on labelled photos: it sees features and label columns, never pixels, and returns figures. So
every task runs on the features of any model, and on features that a test made up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np

from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.rows import Difference, Figure, Prediction
from bioclip_jax.heads import EncodeText, species_name
from bioclip_jax.text.taxonomy import Taxon


@dataclass(frozen=True)
class TaskSamples:
    """The usable photos of one split, in the order of the benchmark's own files."""

    split: str
    keys: tuple[str, ...]
    features: np.ndarray
    """float32 `[n, d]`, as the model's projector gives them: not normalised."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Labels by name: `[n]` of str ('' where unknown) or int, or `[n, labels]` of 0 and 1."""
    taxa: tuple[Taxon, ...] = ()
    """One per photo where the benchmark has a taxonomy, else empty."""
    unreadable: Mapping[str, int] = field(default_factory=dict)
    """How many photos could not be used, by reason. They are in no figure."""
    candidates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By column, all labels of the split in order of first appearance, those without a usable photo too."""

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def unit_features(self) -> np.ndarray:
        """float32 `[n, d]`, L2-normalised (norm at least 1e-12, as PyTorch's `F.normalize`)."""
        norms = np.linalg.norm(self.features, axis=1, keepdims=True)
        return (self.features / np.maximum(norms, np.float32(1e-12))).astype(np.float32)

    def classes(self, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
        """int64 `[n]`, class numbers in order of first appearance (-1 where the label is ''), and the classes.

        Classes that no usable photo is of are among them, so that a partial download is not asked less.
        """
        values = [str(value) for value in self.columns[column]]
        names = dict.fromkeys([*self.candidates.get(column, ()), *(value for value in values if value)])
        number = {value: place for place, value in enumerate(names)}
        return np.array([number.get(value, -1) for value in values], np.int64), tuple(number)

    def clusters(self, column: str) -> tuple[str, ...]:
        """What the bootstrap draws: each photo's species where there is a taxonomy, else its class."""
        if self.taxa:
            return tuple(species_name(taxon) for taxon in self.taxa)
        return tuple(str(value) for value in self.columns[column])


@dataclass(frozen=True)
class Context:
    """What tasks may use besides samples."""

    encode_text: EncodeText
    """Texts to float32 `[m, d]`, L2-normalised; heads made with it are kept."""
    logit_scale: float = 1.0
    """The multiplier of similarities."""
    resamples: int = 1000
    """Of the bootstrap; 0 leaves intervals out."""
    seed: int = 0
    cache: ArrayCache = field(default_factory=lambda: ArrayCache(None))
    fingerprint: str = ""
    """Of the model: what a task keeps in the cache is keyed by it."""
    say: Callable[[str], None] = lambda line: None
    """Is given a line of progress now and then by tasks that take more than seconds."""


@dataclass
class Outcome:
    """What a task found."""

    figures: list[Figure] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """Lines for the reader: quirks of the paper's protocol that were followed, classes left out, and why."""

    def extend(self, other: Outcome) -> None:
        """Adds what another task found."""
        self.figures += other.figures
        self.predictions += other.predictions
        self.differences += other.differences
        self.notes += other.notes


class Task(Protocol):
    """One protocol with its settings: a frozen dataclass, whose fields are part of what identifies a result."""

    quick: ClassVar[bool]
    """Whether it takes seconds, so that a run can measure it while it trains."""

    @property
    def name(self) -> str:
        """Unique within a benchmark; the `split` of its figures."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the benchmark that it needs."""
        ...

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Measures features.

        Args:
            samples: by split; those named by `splits` are there and not empty.
            context: the model's text side, and how to measure.

        Raises:
            UserError: nothing can be measured: the line says why.
        """
        ...


def task_figure(
    task: Task,
    protocol: str,
    variant: str,
    metric: str,
    *,
    rank: str = "class",
    learner: str = "model",
    value: float = float("nan"),
    low: float = float("nan"),
    high: float = float("nan"),
    spread: float | None = None,
    chance: float = float("nan"),
    majority: float | None = None,
    samples: int = 0,
    classes: int = 0,
    clusters: int = 0,
    left_out: int = 0,
) -> Figure:
    """A figure of `task`; what is not given is not known (yet): `Scores.add` fills in values and intervals."""
    return Figure(
        learner=learner,
        protocol=protocol,
        variant=variant,
        split=task.name,
        rank=rank,
        metric=metric,
        value=value,
        low=low,
        high=high,
        spread=spread,
        chance=chance,
        majority=majority,
        samples=samples,
        classes=classes,
        clusters=clusters,
        left_out=left_out,
    )
