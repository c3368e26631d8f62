"""A published benchmark as a run measures it: its quick tasks, with the figures of `bioclip-jax eval`, no intervals."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.encoder import require_finite
from bioclip_jax.evaluation.measure import Findings
from bioclip_jax.evaluation.measure_tasks import run_tasks, usable
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.evaluation.task import Context
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark
from bioclip_jax.heads import EncodeText
from bioclip_jax.models import clip
from bioclip_jax.training.encoding import MeshEncoder, SplitPhotos


class TaskBenchmarkInRun:
    """A published benchmark whose photos are known; collective, as what it encodes them with.

    Probes, searches and clusterings take minutes and are left to `bioclip-jax eval`.

    Args:
        name: what its figures begin with.
        benchmark: as its recipe gives it.
        photos: of those of its splits that quick tasks need and that have any.
        keep: whether they stay in memory, decoded.
        zero_shot: whether the model knows texts.

    Raises:
        UserError: it has no quick task, or none of its photos can be used.
    """

    def __init__(
        self, name: str, benchmark: TaskBenchmark, photos: Mapping[str, SplitPhotos], *, keep: bool, zero_shot: bool
    ):
        quick = tuple(task for task in benchmark.tasks if task.quick)
        if not quick or not photos:
            raise UserError(
                "it has no photos of a task that is quick enough; measure checkpoints with bioclip-jax eval"
            )
        self.name, self._photos, self._zero_shot = name, photos, zero_shot
        self._benchmark = replace(benchmark, tasks=quick)
        self._slow = [task.name for task in benchmark.tasks if not task.quick]
        self.names: tuple[str, ...] = ()
        """Of its figures; known after `rehearse`."""
        self._samples = {split: part.first_look(keep=keep) for split, part in photos.items()}

    def rehearse(self, encoder: MeshEncoder) -> list[str]:
        """Learns which figures there are, by measuring features of zeros; returns what is worth saying.

        Raises:
            UserError: there are none.
        """
        nothing = {split: encoder.no_features(part.keys) for split, part in self._samples.items()}
        figures, notes = self._measure(nothing, encoder.no_features, 1.0)
        self.names = tuple(figures)
        notes += [f"task {name} takes too long for a run and is left to bioclip-jax eval" for name in self._slow]
        notes += [
            f"split {split}: {sum(part.unreadable.values())} photos cannot be used"
            for split, part in self._samples.items()
            if part.unreadable
        ]
        return notes

    def figures(
        self, encoder: MeshEncoder, weights: clip.Parameters, model: str, before_batch: Callable[[], None]
    ) -> dict[str, float]:
        """The figures of `weights`, which messages call `model`."""
        features = {}
        for split, photos in self._photos.items():
            found = encoder.encode_images(weights, photos, before_batch, normalize=False)
            features[split] = require_finite(found, self._samples[split].keys, model)

        def encode_text(texts: list[str]) -> np.ndarray:
            return require_finite(encoder.encode_texts(weights, texts), texts, model)

        logit_scale = float(np.exp(np.asarray(jax.device_get(weights["logit_scale"]), np.float64)))
        measured, _ = self._measure(features, encode_text, logit_scale)
        return {name: measured.get(name, float("nan")) for name in self.names}

    def _measure(
        self, features: Mapping[str, np.ndarray], encode_text: EncodeText, logit_scale: float
    ) -> tuple[dict[str, float], list[str]]:
        """Figures by name, and a line for everything that cannot be measured."""
        samples = {
            split: usable(self._benchmark.splits[split], replace(part, features=features[split]))
            for split, part in self._samples.items()
        }
        findings = Findings("", notes=list(self._benchmark.notes))
        known = encode_text if self._zero_shot else _no_texts
        run_tasks(findings, self._benchmark, samples, Context(known, logit_scale, resamples=0))
        return {self._figure_name(figure): figure.value for figure in findings.figures}, findings.notes

    def _figure_name(self, figure: Figure) -> str:
        variant = re.sub(r"[ ,-]+", "_", figure.variant)
        return f"{self.name}/{figure.split}/{figure.protocol}/{variant}/{figure.rank}/{figure.metric}"


def _no_texts(texts: list[str]) -> np.ndarray:
    raise UserError("this run trains no texts")
