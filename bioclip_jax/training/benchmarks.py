"""A benchmark as a run measures it: the figures of `bioclip-jax eval`, without intervals, baseline and pictures."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.evaluation.data import Data
from bioclip_jax.evaluation.encoder import require_finite
from bioclip_jax.evaluation.features import chosen_rows
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.metrics import METRICS
from bioclip_jax.evaluation.ranks import Prompts, best_candidates, split_tasks
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.shots import measure_few_shot
from bioclip_jax.evaluation.suite import open_benchmark
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark
from bioclip_jax.heads import EncodeText
from bioclip_jax.models import clip
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.training.encoding import MeshEncoder, SplitPhotos

SETTINGS = Settings()
"""How `bioclip-jax eval` measures by default."""


class BenchmarkInRun:
    """A benchmark whose photos and names are known; collective, as what it encodes them with.

    Args:
        name: what its figures begin with.
        benchmark: with the limits of the run.
        photos: of those of its splits that have any.
        keep: whether they stay in memory, decoded.
        zero_shot: whether the model knows texts.

    Raises:
        UserError: none of its photos can be used.
    """

    def __init__(
        self, name: str, benchmark: Benchmark, photos: Mapping[str, SplitPhotos], *, keep: bool, zero_shot: bool
    ):
        self.name, self.benchmark, self._photos, self._zero_shot = name, benchmark, photos, zero_shot
        self.names: tuple[str, ...] = ()
        """Of its figures; known after `rehearse`."""
        self._samples = {split: part.first_look(keep=keep) for split, part in photos.items()}
        measured = [split for split in benchmark.splits.values() if split in self._samples]
        if not measured:
            raise UserError(f"its splits {', '.join(benchmark.splits.values())} have no photos")
        ranks = (*benchmark.ranks, *(rank for task in benchmark.few_shot for rank in task.ranks))
        self._labels = Labels.of({split: part.taxa for split, part in self._samples.items()}, ranks)

    def rehearse(self, encoder: MeshEncoder) -> list[str]:
        """Learns which figures there are, by measuring features of zeros; returns what is worth saying.

        Raises:
            UserError: there are none.
        """
        nothing = {split: encoder.no_features(part.keys) for split, part in self._samples.items()}
        figures, notes = self._measure(nothing, encoder.no_features, 1.0)
        notes += [
            f"split {split}: {sum(part.unreadable.values())} photos cannot be used"
            for split, part in self._samples.items()
            if part.unreadable
        ]
        if not figures:
            raise UserError(f"nothing can be measured; {'; '.join(notes)}")
        self.names = tuple(figures)
        return notes

    def figures(
        self, encoder: MeshEncoder, weights: clip.Parameters, model: str, before_batch: Callable[[], None]
    ) -> dict[str, float]:
        """The figures of `weights`, which messages call `model`."""
        features = {}
        for split, photos in self._photos.items():
            found = encoder.encode_images(weights, photos, before_batch)
            features[split] = require_finite(found, self._samples[split].keys, model)

        def encode_text(texts: list[str]) -> np.ndarray:
            return require_finite(encoder.encode_texts(weights, texts), texts, model)

        logit_scale = float(np.exp(np.asarray(jax.device_get(weights["logit_scale"]), np.float64)))
        return self._measure(features, encode_text, logit_scale)[0]

    def _measure(
        self, features: Mapping[str, np.ndarray], encode_text: EncodeText, logit_scale: float
    ) -> tuple[dict[str, float], list[str]]:
        """Figures by name, and a line for everything that cannot be measured."""
        figures: list[Figure] = []
        notes: list[str] = []
        if self._zero_shot:
            prompts = Prompts(
                encode_text,
                logit_scale=logit_scale,
                text_types=SETTINGS.text_types,
                rank_text_types=SETTINGS.rank_text_types,
                templates=SETTINGS.templates,
            )
            for name, split in self.benchmark.splits.items():
                if split in features:
                    found, left_out = self._zero_shot_figures(name, split, features[split], prompts)
                    figures += found
                    notes += left_out
        for task in self.benchmark.few_shot:
            if all(split in features for split in (*task.query, *task.support)):
                learners = {"model": features}
                shots = measure_few_shot(self.benchmark, task, self._labels, learners, resamples=0, seed=0)
                figures += shots[0]
                notes += shots[2]
        return {self._figure_name(figure): figure.value for figure in figures}, notes

    def _zero_shot_figures(
        self, name: str, split: str, features: np.ndarray, prompts: Prompts
    ) -> tuple[list[Figure], list[str]]:
        taxa, tasks, notes = split_tasks(name, self._samples[split], self._labels, self.benchmark.ranks)
        if not tasks:
            return [], notes
        scores = Scores(self._labels.clusters([split]), resamples=0)
        groups = [task.groups for task in tasks]
        rankings = best_candidates(SETTINGS.method, features, groups, prompts.head(taxa), prompts, k=1)
        for task, ranking in zip(tasks, rankings, strict=True):
            task.add(scores, "model", SETTINGS.method, ranking.top[:, 0], METRICS)
        return scores.finish(SETTINGS.method)[0], notes

    def _figure_name(self, figure: Figure) -> str:
        protocol = figure.protocol if figure.protocol == "zero_shot" else figure.variant.replace("-", "_")
        micro = "/micro" if figure.metric == "micro_accuracy" else ""
        return f"{self.name}/{figure.split}/{protocol}/{figure.rank}{micro}"


def open_benchmarks(config: TrainConfig) -> dict[str, Data | TaskBenchmark]:
    """The data of each benchmark by its recipe's bare name; those of data sets limited to `max_images` of a split."""
    opened: dict[str, Data | TaskBenchmark] = {}
    most = config.evaluation.max_images
    for recipe, root in config.evaluation.benchmarks.items():
        name = Path(recipe).stem if recipe.endswith(".py") else recipe
        if name in opened:
            raise UsageError(f"evaluation.benchmarks has two called {name}; rename the file of one")
        with naming(f"evaluation.benchmarks {recipe}"):
            benchmark = open_benchmark(recipe, root or None)
            if isinstance(benchmark, TaskBenchmark):
                opened[name] = benchmark
                continue
            limits = (benchmark.max_images, benchmark.max_train_images)
            images, train_images = (min(most, limit) if limit else most for limit in limits)
            opened[name] = Data.open(dataclasses.replace(benchmark, max_images=images, max_train_images=train_images))
    return opened


def photos_of(opened: Data | TaskBenchmark, most: int) -> dict[str, tuple[RecordSource, np.ndarray]]:
    """By split, the records that a run looks at and which rows of them; splits without any are left out."""
    chosen: dict[str, tuple[RecordSource, np.ndarray]]
    if isinstance(opened, TaskBenchmark):
        wanted = dict.fromkeys(split for task in opened.tasks if task.quick for split in task.splits)
        chosen = {split: (opened.splits[split], chosen_rows(len(opened.splits[split]), most)) for split in wanted}
    else:
        wanted = dict.fromkeys(opened.benchmark.model_splits(few_shot=True))
        limit = opened.benchmark.limit
        chosen = {
            split: (source, chosen_rows(len(source), limit(split)))
            for split, source in opened.sources.items()
            if split in wanted
        }
    return {split: (source, rows) for split, (source, rows) in chosen.items() if len(rows)}


@contextlib.contextmanager
def naming(field: str) -> Iterator[None]:
    """Says in front of an error which field of the config it is about."""
    try:
        yield
    except UserError as error:
        kind = UsageError if error.exit_code == UsageError.exit_code else UserError
        raise kind(f"{field}: {error}") from None
