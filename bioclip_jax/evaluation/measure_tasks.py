"""Measures one model on a published benchmark: features of its photos first, then one task after the other.

Features are computed once and kept; a task that cannot be measured is a note and stops no other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.cache import ArrayCache, Warn, digest
from bioclip_jax.evaluation.encoder import Encoder, gives_raw_features
from bioclip_jax.evaluation.features import NoUsablePhoto, Samples, cached_encode_text, image_features
from bioclip_jax.evaluation.measure import Findings, Settings
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.heads import species_name
from bioclip_jax.pipeline.progress import RecordProgress


def photos_hash(benchmark: TaskBenchmark) -> str:
    """Stands for the photos of all splits, whatever their labels."""
    return digest("photos", {split: photos.hash for split, photos in benchmark.splits.items()})


def measure_tasks(
    encoder: Encoder,
    benchmark: TaskBenchmark,
    settings: Settings,
    *,
    cache_folder: Path | None,
    warn: Warn = lambda line: None,
    say: Warn = lambda line: None,
    batch_size: int = 256,
) -> Findings:
    """Runs every task of a benchmark on one model.

    Args:
        encoder: the model.
        benchmark: what to measure it on.
        settings: how; of them, tasks know `resamples` and `seed`.
        cache_folder: where features and what tasks keep lie; None keeps none.
        warn: is given one line for everything that is worth saying and stops nothing.
        say: is given lines of progress.
        batch_size: photos encoded at once.

    Raises:
        UserError: no task can be measured, or features are not finite.
    """
    cache = ArrayCache(cache_folder, warn)
    findings = Findings(photos_hash(benchmark), notes=[f"{benchmark.name}: {note}" for note in benchmark.notes])
    samples = _samples(findings, encoder, benchmark, cache, batch_size)
    if not gives_raw_features(encoder):
        findings.notes.append(f"{encoder.name} has normalised features only, so tasks that ask for others see those")
    context = Context(
        encode_text=cached_encode_text(encoder, cache),
        logit_scale=encoder.logit_scale,
        resamples=settings.resamples,
        seed=settings.seed,
        cache=cache,
        fingerprint=encoder.fingerprint,
        say=say,
    )
    run_tasks(findings, benchmark, samples, context)
    for note in findings.notes:
        warn(note)
    return findings


def run_tasks(
    findings: Findings, benchmark: TaskBenchmark, samples: Mapping[str, TaskSamples], context: Context
) -> None:
    """Adds what the tasks find to `findings`.

    Raises:
        UserError: no task can be measured.
    """
    for task in benchmark.tasks:
        if missing := [split for split in task.splits if split not in samples]:
            findings.notes.append(f"{task.name}: not measured, split {missing[0]} has no photo that can be used")
            continue
        context.say(f"{benchmark.name}: {task.name}")
        try:
            outcome = task.measure(samples, context)
        except UserError as error:
            findings.notes.append(f"{task.name}: not measured: {error}")
            continue
        for figure in outcome.figures:
            if math.isfinite(figure.value):
                findings.figures.append(figure)
            else:
                place = f"{figure.split}: {figure.variant}: {figure.metric} of {figure.rank}"
                findings.notes.append(f"{place} is not a number and was left out")
        findings.predictions += outcome.predictions
        findings.differences += outcome.differences
        findings.notes += outcome.notes
    if not findings.figures:
        raise UserError(f"benchmark {benchmark.name}: nothing can be measured; {'; '.join(findings.notes)}")


def _samples(
    findings: Findings, encoder: Encoder, benchmark: TaskBenchmark, cache: ArrayCache, batch_size: int
) -> dict[str, TaskSamples]:
    """The usable photos of every split that tasks need; the others are counted in `findings`."""
    wanted = dict.fromkeys(split for task in benchmark.tasks for split in task.splits)
    total = sum(len(benchmark.splits[split]) for split in wanted)
    samples = {}
    with RecordProgress(total, f"{benchmark.name}: {encoder.name}", unit="photos") as progress:
        for split in wanted:
            photos = benchmark.splits[split]
            unreadable: Mapping[str, int] = {}
            if len(photos):
                try:
                    found = image_features(
                        encoder,
                        photos,
                        split,
                        data=photos.stamps,
                        cache=cache,
                        batch_size=batch_size,
                        normalize=False,
                        advance=progress.advance,
                        skip=progress.skip,
                    )
                    samples[split] = usable(photos, found)
                    unreadable = found.unreadable
                except NoUsablePhoto as error:
                    unreadable = error.unreadable
            _describe(findings, split, photos, samples.get(split), unreadable)
    return samples


def _describe(
    findings: Findings, split: str, photos: PhotoList, samples: TaskSamples | None, unreadable: Mapping[str, int]
) -> None:
    """Counts photos, so that every denominator is known."""
    species = {species_name(taxon) for taxon in samples.taxa} if samples else set()
    findings.splits[split] = {
        "records": len(photos),
        "used": len(samples) if samples else 0,
        "unreadable": dict(unreadable),
        "species": len(species - {""}),
        "in_train": None,
    }
    if unreadable:
        reasons = ", ".join(f"{count} {reason}" for reason, count in unreadable.items())
        findings.notes.append(
            f"split {split}: {sum(unreadable.values())} of {len(photos)} photos could not be used ({reasons})"
        )
    elif not len(photos):
        findings.notes.append(f"split {split} is empty")
    if samples and (lost := _classes_without_photo(photos, samples)):
        findings.notes.append(f"split {split}: without a photo that can be used: {', '.join(lost)}")


def _classes_without_photo(photos: PhotoList, samples: TaskSamples) -> list[str]:
    """`N of M classes in 'COLUMN'` for every column of names that has such classes, and for species."""
    known = {
        f"classes in {name!r}": (set(classes), {str(value) for value in samples.columns[name]})
        for name, classes in photos.classes.items()
        if np.asarray(photos.columns[name]).dtype.kind in "UO"
    }
    if photos.taxa:
        all_species, there = ({species_name(taxon) for taxon in part.taxa} for part in (photos, samples))
        known["species"] = (all_species - {""}, there)
    return [f"{len(every - there)} of {len(every)} {what}" for what, (every, there) in known.items() if every - there]


def usable(photos: PhotoList, found: Samples) -> TaskSamples:
    """The photos that `found` has features of, with their labels."""
    return TaskSamples(
        split=found.split,
        keys=found.keys,
        features=found.features,
        columns={name: np.asarray(values)[found.rows] for name, values in photos.columns.items()},
        taxa=tuple(photos.taxa[row] for row in found.rows) if photos.taxa else (),
        unreadable=found.unreadable,
        candidates=photos.classes,
    )
