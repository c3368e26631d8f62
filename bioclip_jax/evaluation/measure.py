"""Measures one model on one benchmark: from features to everything that the results database keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.baseline import Baseline, ColourFeatures, Standardiser
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.evaluation.cache import ArrayCache, Warn
from bioclip_jax.evaluation.encoder import Encoder, ImageEncoder
from bioclip_jax.evaluation.features import Samples, cached_encode_text, chosen_rows, dataset_hash, image_features
from bioclip_jax.evaluation.gallery import Pictures, species_map
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.ranks import Prompts, measure_baseline, measure_model, split_tasks
from bioclip_jax.evaluation.rows import Difference, Figure, GalleryItem, Prediction, Species, Thumbnail
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.shots import measure_few_shot
from bioclip_jax.evaluation.zero_shot import METHODS
from bioclip_jax.heads import PLAIN_TEMPLATES
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.pipeline.record import RecordSource


@dataclass(frozen=True)
class Settings:
    """How to measure; together with weights and data it says what a run is."""

    method: str = "sum"
    """The way of making candidates that figures lead with, that predictions are kept of and that is compared with the
    baseline."""
    text_types: tuple[str, ...] = ("taxon_com",)
    """Texts of a species; several are averaged."""
    rank_text_types: tuple[str, ...] = ("taxon",)
    """Texts of a higher taxon for the method `prefix`: `taxon` is its lineage, `sci` its own name."""
    templates: tuple[str, ...] = PLAIN_TEMPLATES
    resamples: int = 1000
    seed: int = 0
    baseline: bool = True
    few_shot: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"method {self.method!r} is not one of {', '.join(METHODS)}")
        if self.resamples < 2:
            raise UsageError(f"resamples {self.resamples} must be at least 2")


@dataclass
class Findings:
    """What was measured."""

    data_hash: str
    splits: dict[str, dict[str, object]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    species: list[Species] = field(default_factory=list)
    gallery: list[GalleryItem] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)


@dataclass(frozen=True)
class Data:
    """A benchmark's data, opened."""

    benchmark: Benchmark
    sources: Mapping[str, RecordSource]
    hash: str

    @classmethod
    def open(cls, benchmark: Benchmark) -> Data:
        """Raises `UsageError` if a split that is to be measured does not exist."""
        found = open_dataset(benchmark.dataset, benchmark.arguments)
        missing = [split for split in benchmark.split_names() if split not in found]
        if missing:
            raise UsageError(
                f"benchmark {benchmark.name}: {benchmark.dataset} has no split {missing[0]!r}, only {', '.join(found)}"
            )
        sources = {split: found[split] for split in benchmark.split_names()}
        return cls(benchmark, sources, dataset_hash(benchmark.dataset, benchmark.arguments, sources))

    def encode(self, encoder: ImageEncoder, cache: ArrayCache, batch_size: int) -> dict[str, Samples]:
        """Features of all splits that have photos, with progress; empty splits are left out."""
        total = sum(
            len(chosen_rows(len(source), self.benchmark.limit(split))) for split, source in self.sources.items()
        )
        with RecordProgress(total, f"{self.benchmark.name}: {encoder.name}") as progress:
            return {
                split: image_features(
                    encoder,
                    source,
                    split,
                    data=self.hash,
                    limit=self.benchmark.limit(split),
                    cache=cache,
                    batch_size=batch_size,
                    advance=progress.advance,
                )
                for split, source in self.sources.items()
                if len(source)
            }


def measure(
    encoder: Encoder,
    benchmark: Benchmark,
    settings: Settings,
    *,
    cache_folder: Path | None,
    warn: Warn = lambda line: None,
    batch_size: int = 256,
) -> Findings:
    """Runs every protocol of a benchmark on one model.

    Args:
        encoder: the model.
        benchmark: what to measure it on.
        settings: how.
        cache_folder: where features are kept; None keeps none.
        warn: is given one line for everything that is worth saying and stops nothing.
        batch_size: photos encoded at once.

    Raises:
        UserError: there is nothing to measure (no photos, no names), or features are not finite.
    """
    data = Data.open(benchmark)
    cache = ArrayCache(cache_folder, warn)
    samples = data.encode(encoder, cache, batch_size)
    measured = {name: split for name, split in benchmark.splits.items() if split in samples}
    if not measured:
        raise UserError(
            f"benchmark {benchmark.name}: {', '.join(benchmark.splits.values())} of {benchmark.dataset} have no photos"
        )
    labels = Labels.of(list(samples.values()), benchmark.ranks)
    findings = Findings(data.hash)
    _describe(findings, benchmark, data, samples, labels)
    colours = (
        _colours(data, samples, cache, batch_size) if settings.baseline and benchmark.train_split in samples else {}
    )
    _zero_shot(findings, encoder, benchmark, settings, cache, measured, samples, labels, colours)
    if settings.few_shot:
        learners = {"model": {split: part.features for split, part in samples.items()}}
        if colours:
            learners["baseline"] = {split: part.features for split, part in colours.items()}
        for task in benchmark.few_shot:
            if all(split in samples for split in (*task.query, *task.support)):
                found = measure_few_shot(benchmark, task, labels, learners, settings.resamples, settings.seed)
                findings.figures += found[0]
                findings.differences += found[1]
                findings.notes += found[2]
    if not findings.figures:
        raise UserError(f"benchmark {benchmark.name}: nothing can be measured; {'; '.join(findings.notes)}")
    if "species" in benchmark.ranks:
        _pictures(findings, data, measured, samples, labels)
    for note in findings.notes:
        warn(note)
    return findings


def _describe(
    findings: Findings, benchmark: Benchmark, data: Data, samples: Mapping[str, Samples], labels: Labels
) -> None:
    """Counts photos, so that every denominator is known."""
    for split, source in data.sources.items():
        part = samples.get(split)
        usable = len(part) if part else 0
        species = labels.true(split, "species") if part and "species" in benchmark.ranks else np.zeros(0)
        findings.splits[split] = {
            "records": len(source),
            "used": usable,
            "unreadable": dict(part.unreadable) if part else {},
            "species": len(np.unique(species[species >= 0])),
        }
        if part and part.unreadable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in part.unreadable.items())
            findings.notes.append(
                f"split {split}: {sum(part.unreadable.values())} photos could not be used ({reasons})"
            )
        elif part is None:
            findings.notes.append(f"split {split} is empty and was left out")


def _colours(data: Data, samples: Mapping[str, Samples], cache: ArrayCache, batch_size: int) -> dict[str, Samples]:
    """The baseline's features of the same photos, standardised by those of the training split."""
    found = data.encode(ColourFeatures(), cache, batch_size)
    standardise = Standardiser.fit(found[data.benchmark.train_split or ""].features)
    for split, part in found.items():
        if part.keys != samples[split].keys:
            raise UserError(
                f"split {split}: model and baseline could not read the same photos; evaluate without the baseline"
            )
    return {split: replace(part, features=standardise(part.features)) for split, part in found.items()}


def _zero_shot(
    findings: Findings,
    encoder: Encoder,
    benchmark: Benchmark,
    settings: Settings,
    cache: ArrayCache,
    measured: Mapping[str, str],
    samples: Mapping[str, Samples],
    labels: Labels,
    colours: Mapping[str, Samples],
) -> None:
    prompts = Prompts(
        cached_encode_text(encoder, cache),
        logit_scale=encoder.logit_scale,
        text_types=settings.text_types,
        rank_text_types=settings.rank_text_types,
        templates=settings.templates,
    )
    baselines = {}
    if colours and benchmark.train_split:
        train = colours[benchmark.train_split]
        for rank in benchmark.ranks:
            true = labels.true(benchmark.train_split, rank)
            known = true >= 0
            names = [labels.groups[rank].labels[group] for group in true[known]]
            if len(set(names)) > 1:
                baselines[rank] = Baseline.fit(train.features[known], names, cache)
    for name, split in measured.items():
        scores = Scores(len(samples[split]), settings.resamples, settings.seed)
        taxa, tasks, notes = split_tasks(name, samples[split], labels, benchmark.ranks)
        findings.notes += notes
        findings.predictions += measure_model(scores, tasks, samples[split], taxa, prompts, settings.method)
        if colours:
            findings.predictions += measure_baseline(scores, tasks, colours[split], baselines)
        figures, differences = scores.finish(settings.method)
        findings.figures += figures
        findings.differences += differences


def _pictures(
    findings: Findings, data: Data, measured: Mapping[str, str], samples: Mapping[str, Samples], labels: Labels
) -> None:
    pictures = Pictures(list(samples.values()), labels)
    for turn, (name, split) in enumerate(measured.items()):
        part, first = samples[split], 1000 * turn
        findings.species += species_map(name, part, labels)
        findings.gallery += pictures.neighbours(part, first_item=first)
        species = [p for p in findings.predictions if (p.learner, p.split, p.rank) == ("model", name, "species")]
        findings.gallery += pictures.failures(part, labels, species, first_item=first)
    findings.thumbnails += pictures.thumbnails(findings.gallery, samples, data.sources, data.hash)
