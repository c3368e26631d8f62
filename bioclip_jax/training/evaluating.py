"""Measures a run while it trains: benchmarks of `evals/`, and the loss on held-out records.

Every process takes part: each decodes and encodes its share, and all of them have the same figures at the same step. A
figure's name is BENCHMARK/SPLIT/zero_shot/RANK or BENCHMARK/TASK/SHOTS_shot/RANK for balanced accuracy, the same with
/micro for micro accuracy; a published benchmark's are BENCHMARK/TASK/PROTOCOL/VARIANT/RANK/METRIC. Besides there are
validation_loss and validation_accuracy. The figures of benchmarks are those of `bioclip-jax eval`, in the arithmetic of
the run's `dtype` instead of float32, without intervals.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark
from bioclip_jax.models import clip
from bioclip_jax.parallel.agreement import gather, together
from bioclip_jax.parallel.sharding import batch_sharding
from bioclip_jax.pipeline.loader import Batch, Loader
from bioclip_jax.training.benchmarks import BenchmarkInRun, naming, open_benchmarks, photos_of
from bioclip_jax.training.data import BIO, open_validation
from bioclip_jax.training.encoding import MeshEncoder, SplitPhotos
from bioclip_jax.training.feed import place
from bioclip_jax.training.step import Program
from bioclip_jax.training.task_benchmarks import TaskBenchmarkInRun

KEPT_BYTES = 2 * 10**9
"""Decoded photos stay in memory between evaluations up to this size, in each process."""
VALIDATION = {"validation_loss": "loss", "validation_accuracy": "accuracy"}
"""Figures of the validation split, and what they are called among the metrics of a step."""


class _GivenUp(Exception):
    """Some process wants to stop."""


class Evaluation:
    """What a run measures of itself. All processes of a run make one and call the same methods at the same steps.

    The benchmarks' photos are read when it is made, so that whatever is wrong with them is said before training.

    Args:
        config: of the run.
        mesh: of its devices.
        program: of its step.
        console: where progress is said.
        species: the training data's classes, for `loss.kind` species.

    Raises:
        UsageError: a benchmark, its root, a split or `checkpoint.best_metric` that there is not, or nothing to measure.
        UserError: data that cannot be read or measured.
    """

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh,
        program: Program,
        console: Console,
        species: Mapping[str, int] | None = None,
    ):
        self._config, self._program, self._console = config, program, console
        self._sharding = batch_sharding(mesh)
        self._benchmarks: list[BenchmarkInRun | TaskBenchmarkInRun] = []
        self._validation: Loader | None = None
        c = config.evaluation
        if c.every_steps:
            if not c.benchmarks and not c.validation_split:
                raise UsageError(
                    f"evaluation.every_steps is {c.every_steps}, but nothing is to be measured; name "
                    "evaluation.benchmarks or a validation_split"
                )
            with jax.transfer_guard("allow"):
                self._open(mesh, species)
        if config.checkpoint.best_metric not in ("", *self.names()):
            known = ", ".join(self.names()) or "none, because evaluation.every_steps is 0"
            raise UsageError(
                f"checkpoint.best_metric {config.checkpoint.best_metric!r} is not measured; known: {known}"
            )

    def due(self, done: int) -> bool:
        """Whether there is an evaluation after `done` steps."""
        every = self._config.evaluation.every_steps
        return every > 0 and (done % every == 0 or done == self._config.total_steps)

    def names(self) -> tuple[str, ...]:
        """All figures that `run` returns."""
        return (
            *(name for benchmark in self._benchmarks for name in benchmark.names),
            *(VALIDATION if self._validation else ()),
        )

    def run(
        self, weights: clip.Parameters, done: int, interrupted: Callable[[], bool] | None = None
    ) -> dict[str, float]:
        """All figures of `weights`, the same in every process; collective.

        Args:
            weights: placed on the mesh as training has them, replicated or split; nothing is copied to the host.
            done: how many steps they have been trained for.
            interrupted: is asked between batches; where it is true in any process, all give the evaluation up.

        Returns:
            the figures by name; none if it was interrupted.

        Raises:
            UserError: features that are not finite, or data that can no longer be read.
        """
        start = time.monotonic()

        def check() -> None:
            if interrupted is not None and any(gather(interrupted())):
                raise _GivenUp

        figures: dict[str, float] = {}
        try:
            with jax.transfer_guard("allow"):
                for benchmark in self._benchmarks:
                    self._say(f"evaluating at step {done}: benchmark {benchmark.name}")
                    figures |= benchmark.figures(self._encoder, weights, f"step {done}", check)
                if self._validation:
                    self._say(f"evaluating at step {done}: split {self._config.evaluation.validation_split}")
                    figures |= self._validate(self._validation, weights, check)
                # Of one process: which checkpoint is the best may hang on a last digit.
                agreed: dict[str, float] = gather(figures)[0]
        except _GivenUp:
            self._say(f"the evaluation at step {done} was given up")
            return {}
        self._say(f"step {done}: {self._in_words(agreed)} ({time.monotonic() - start:.0f} s)")
        return agreed

    def _open(self, mesh: Mesh, species: Mapping[str, int] | None) -> None:
        config = self._config
        opened = together(lambda: open_benchmarks(config))
        if split := config.evaluation.validation_split:
            with naming(f"evaluation.validation_split {split}"):
                self._validation = together(lambda: open_validation(config, mesh, species))
        if not opened:
            return
        chosen = {
            (name, split): found
            for name, data in opened.items()
            for split, found in photos_of(data, config.evaluation.max_images).items()
        }
        self._encoder = MeshEncoder(config, mesh, max((len(rows) for _, rows in chosen.values()), default=1))
        photos = {
            (name, split): SplitPhotos(split, source, rows, config, mesh, self._encoder.batch_size)
            for (name, split), (source, rows) in chosen.items()
        }
        keep = sum(part.nbytes for part in photos.values()) <= KEPT_BYTES
        has_captions = config.loss.kind != "species"
        if not has_captions:
            self._say("note: loss.kind species trains no texts, so zero-shot is not measured")
        for name, data in opened.items():
            own = {split: part for (owner, split), part in photos.items() if owner == name}
            with naming(f"evaluation.benchmarks {name}"):
                benchmark: BenchmarkInRun | TaskBenchmarkInRun
                if isinstance(data, TaskBenchmark):
                    benchmark = TaskBenchmarkInRun(name, data, own, keep=keep, zero_shot=has_captions)
                else:
                    benchmark = BenchmarkInRun(name, data.benchmark, own, keep=keep, zero_shot=has_captions)
                notes = benchmark.rehearse(self._encoder)
            self._benchmarks.append(benchmark)
            for note in notes:
                self._say(f"note: benchmark {name}: {note}")

    def _validate(self, loader: Loader, weights: clip.Parameters, check: Callable[[], None]) -> dict[str, float]:
        sums = dict.fromkeys(VALIDATION, 0.0)
        steps = self._config.evaluation.validation_steps
        batches: Generator[Batch] = loader.batches(0, steps)
        try:
            for _ in range(steps):
                check()
                batch = together(lambda: next(batches))
                rows = {
                    name: place(part, self._sharding)
                    for name, part in batch._asdict().items()
                    if isinstance(part, np.ndarray)
                }
                metrics = jax.device_get(self._program.losses(weights, {BIO: rows}))
                for name, metric in VALIDATION.items():
                    sums[name] += float(metrics[metric]) / steps
        finally:
            batches.close()
        return sums

    def _in_words(self, figures: Mapping[str, float]) -> str:
        """The figures at species rank, of the validation split and the one that decides; metrics have the others."""
        wanted = (self._config.checkpoint.best_metric, *VALIDATION)
        chosen = {name: value for name, value in figures.items() if name in wanted or name.endswith("/species")}
        return ", ".join(f"{name} {value:.3f}" for name, value in (chosen or figures).items())

    def _say(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)
