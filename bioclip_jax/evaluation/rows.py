"""What the results database holds: each dataclass is a table, its fields the columns. Structures are JSON texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """One model measured on one benchmark."""

    identity: str
    """Hash of what was measured: weights, data, benchmark, settings. One run of each is kept."""
    model: str
    weights: str
    """The encoder's fingerprint."""
    benchmark: str
    description: str
    license: str
    citation: str
    dataset: str
    dataset_hash: str
    settings: str
    """JSON object."""
    splits: str
    """JSON object: split -> {"records", "used", "unreadable": {reason: count}, "species", "in_train"}.

    `in_train`: how many of its species the training photos have; null where that is not known."""
    notes: str
    """JSON array of lines: what was left out and why."""
    command: str
    versions: str
    """JSON object: package -> version."""
    device: str
    started: str
    """ISO 8601, UTC."""
    seconds: float


@dataclass(frozen=True)
class Figure:
    """One figure with its 95 % interval and what guessing gives."""

    learner: str
    """`model` or `baseline`."""
    protocol: str
    """`zero_shot`, `few_shot`, or a task's kind."""
    variant: str
    """Zero-shot at ranks: how candidates were made (`sum`, `prototype`, `prefix`), `regression` for the baseline.

    Few-shot: the shots. Of a task: `paper` or `corrected`, and what else tells figures apart after a comma."""
    split: str
    """The benchmark's name for what was measured (`seen`, `unseen`), or its few-shot task."""
    rank: str
    metric: str
    value: float
    low: float
    high: float
    spread: float | None
    """Few-shot: population standard deviation over folds."""
    chance: float
    """Of a uniform guess; NaN where that has no meaning."""
    majority: float | None
    """Micro accuracy of always answering the largest class."""
    samples: int
    classes: int
    clusters: int
    """Species that the bootstrap draws, with all their photos; a photo of unknown species counts as one."""
    left_out: int
    """Zero-shot: photos without a name at this rank. Few-shot: classes with too few photos."""


@dataclass(frozen=True)
class Difference:
    """Model less baseline on the same samples."""

    protocol: str
    variant: str
    split: str
    rank: str
    metric: str
    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Prediction:
    """What a learner said of one photo, in one variant of one protocol (of zero-shot at ranks, the leading one)."""

    learner: str
    """`model`; `baseline` (decided for balanced accuracy) or `baseline_micro` (for micro accuracy)."""
    protocol: str
    variant: str
    split: str
    rank: str
    """Of a taxonomic label; the label's column elsewhere."""
    key: str
    cluster: str
    """What the bootstrap draws: the photo's species, or its class; empty where it is one of its own."""
    true: str
    predicted: str
    """Empty where the learner knows none of the candidates. In several folds: what was said most often."""
    correct: float
    """0 or 1; in several folds, the share of those that asked for it that were right."""
    score: float | None
    """The model's probability of what it predicted."""


@dataclass(frozen=True)
class Species:
    """Where a species lies: the mean of its photos' features."""

    split: str
    label: str
    taxon: str
    """JSON object of the ranks and names."""
    images: int
    embedding: bytes
    """float32, little-endian, L2-normalised."""


@dataclass(frozen=True)
class GalleryItem:
    """One picture of a gallery; place 0 is the photo that is asked about, the others are its answers."""

    kind: str
    """`neighbours` or `failures`."""
    item: int
    place: int
    split: str
    key: str
    taxon: str
    """JSON object; in a failure's place 1 it is the taxon predicted."""
    score: float | None
    """Neighbours: cosine similarity. Failures: the probability of the prediction."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture, shared by all runs on one data set."""

    dataset_hash: str
    key: str
    jpeg: bytes


@dataclass(frozen=True)
class Measurement:
    """Everything that one run leaves behind."""

    run: Run
    figures: Sequence[Figure]
    differences: Sequence[Difference]
    predictions: Sequence[Prediction]
    species: Sequence[Species]
    gallery: Sequence[GalleryItem]
    thumbnails: Sequence[Thumbnail]
