"""Measures one model on one benchmark: from features to everything that the results database keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.baseline import Baseline
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.evaluation.cache import ArrayCache, Warn
from bioclip_jax.evaluation.data import Data, add_baseline
from bioclip_jax.evaluation.encoder import Encoder
from bioclip_jax.evaluation.features import Samples, cached_encode_text
from bioclip_jax.evaluation.gallery import Pictures, species_map
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.measures.seen_unseen import SPLITS, measure_together
from bioclip_jax.evaluation.methods import DEFAULT_METHOD, METHODS
from bioclip_jax.evaluation.ranks import Prompts, measure_baseline, split_tasks
from bioclip_jax.evaluation.rows import Difference, Figure, GalleryItem, Prediction, Species, Thumbnail
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.shots import measure_few_shot
from bioclip_jax.evaluation.tasks.taxonomic import measure_split
from bioclip_jax.heads import PLAIN_TEMPLATES, TaxonHead
from bioclip_jax.text.captions import ALL_TEXT_TYPES


@dataclass(frozen=True)
class Settings:
    """How to measure; together with weights and data it says what a run is."""

    method: str = DEFAULT_METHOD
    """The way of making candidates that figures lead with; its predictions are kept and compared with the baseline."""
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
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} must not be negative")
        for name in ("text_types", "rank_text_types"):
            types = getattr(self, name)
            unknown = [text_type for text_type in types if text_type not in ALL_TEXT_TYPES]
            if unknown or not types:
                given = repr(unknown[0]) if unknown else "nothing"
                raise UsageError(f"{name.replace('_', ' ')}: {given} is not among {', '.join(ALL_TEXT_TYPES)}")
        if not self.templates:
            raise UsageError("templates: there are none")


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
    samples = data.encode(encoder, benchmark.model_splits(few_shot=settings.few_shot), cache, batch_size)
    measured = {name: split for name, split in benchmark.splits.items() if split in samples}
    if not measured:
        raise UserError(
            f"benchmark {benchmark.name}: {', '.join(benchmark.splits.values())} of {benchmark.dataset} have no photos"
        )
    colours: dict[str, Samples] = {}
    if settings.baseline and benchmark.train_split and len(data.sources[benchmark.train_split]):
        samples, colours = add_baseline(data, samples, cache, batch_size)
    known = {**colours, **samples}
    ranks = (*benchmark.ranks, *(rank for task in benchmark.few_shot for rank in task.ranks))
    labels = Labels.of({split: part.taxa for split, part in known.items()}, ranks)
    findings = Findings(data.hash)
    _describe(findings, benchmark, data, known, labels)
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
    """Counts photos and species, so that every denominator is known, and unseen species that training has."""
    species = {split: np.unique(labels.species[labels.member[split]]) for split in samples}
    species = {split: numbers[numbers >= 0] for split, numbers in species.items()}
    train = species.get(benchmark.train_split or "")
    for split, source in data.sources.items():
        part = samples.get(split)
        in_train = None if train is None or part is None else len(np.intersect1d(species[split], train))
        findings.splits[split] = {
            "records": len(source),
            "used": len(part) if part else 0,
            "unreadable": dict(part.unreadable) if part else {},
            "species": len(species[split]) if part else 0,
            "in_train": in_train,
        }
        if in_train and benchmark.splits.get("unseen") == split:
            findings.notes.append(
                f"split {split}: {in_train} of its {len(species[split])} unseen species are in {benchmark.train_split}"
            )
        if part and part.unreadable:
            reasons = ", ".join(f"{count} {reason}" for reason, count in part.unreadable.items())
            findings.notes.append(
                f"split {split}: {sum(part.unreadable.values())} photos could not be used ({reasons})"
            )
        elif not len(source):
            findings.notes.append(f"split {split} is empty and was left out")


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
    present = np.unique(np.concatenate([labels.member[split] for split in measured.values()]))
    head = prompts.head([labels.taxa[row] for row in present])
    for name, split in measured.items():
        scores = Scores(labels.clusters([split]), settings.resamples, settings.seed)
        rows = np.searchsorted(present, np.unique(labels.member[split]))
        part = TaxonHead(tuple(head.taxa[row] for row in rows), head.features[rows], head.logit_scale)
        ranks = benchmark.ranks
        found = measure_split(name, samples[split], labels, ranks, prompts, scores, head=part, method=settings.method)
        if colours:
            _, tasks, _ = split_tasks(name, samples[split], labels, ranks)
            found.predictions += measure_baseline(scores, tasks, colours[split], baselines)
        figures, differences = scores.finish(settings.method)
        findings.notes += found.notes
        findings.predictions += found.predictions
        findings.figures += figures + found.figures
        findings.differences += differences
    if set(SPLITS) <= set(measured):
        only = np.unique(np.concatenate([labels.member[measured[name]] for name in SPLITS]))
        rows = np.searchsorted(present, only)
        both = TaxonHead(tuple(head.taxa[row] for row in rows), head.features[rows], head.logit_scale)
        parts = {name: samples[measured[name]] for name in SPLITS}
        together = measure_together(
            parts,
            labels,
            benchmark.ranks,
            both,
            only,
            prompts,
            settings.method,
            resamples=settings.resamples,
            seed=settings.seed,
        )
        findings.figures += together[0]
        findings.differences += together[1]


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
