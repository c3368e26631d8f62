"""What becomes of a step's figures: fetched one step late, joined with its times, written, shown, and judged."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax

from bioclip_jax.config import TrainConfig
from bioclip_jax.models.flops import step_flops
from bioclip_jax.pipeline.bad_samples import BadSamples
from bioclip_jax.pipeline.loader import Loader
from bioclip_jax.training.goodput import Goodput
from bioclip_jax.training.metrics import MetricsWriter
from bioclip_jax.training.progress import StepProgress
from bioclip_jax.training.signals import ABORT, REPLACED, WAITED
from bioclip_jax.training.throughput import device_memory, peak_flops

_REMEMBERED = 5


class Pending(NamedTuple):
    """A step that was sent to the devices."""

    step: int
    values: dict[str, jax.Array]


class Recorder:
    """Records the steps of a run.

    Args:
        config: of the run.
        streams: its data.
        progress: shows them.
        metrics: where they are written; None on all processes but the first.
        goodput: likewise.
        skipped: steps that were skipped by earlier starts.

    Attributes:
        bad: of each stream, the samples that could not be used.
    """

    def __init__(
        self,
        config: TrainConfig,
        streams: Mapping[str, Loader],
        progress: StepProgress,
        metrics: MetricsWriter | None,
        goodput: Goodput | None,
        skipped: int,
    ):
        self._config, self._progress, self._metrics, self._goodput = config, progress, metrics, goodput
        self._pairs = sum(loader.global_batch_size for loader in streams.values())
        self._flops, self._peak = step_flops(config, {name: one.tokens for name, one in streams.items()}), peak_flops()
        self.bad = {name: BadSamples(loader.sample.data.max_bad_share) for name, loader in streams.items()}
        self._told = dict.fromkeys(streams, 0)
        self._skipped = skipped
        self._not_finite: list[str] = []
        self._waited = self._paused = 0.0
        self._clock = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time inside is spent on waiting for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @property
    def waited_milliseconds(self) -> int:
        """How long this process has waited for data since a step was last recorded."""
        return round(1000 * self._waited)

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Time inside is no step's."""
        start = time.perf_counter()
        yield
        self._paused += time.perf_counter() - start

    def record(self, pending: Pending) -> dict[int, int]:
        """Writes and shows a step's figures; its times are those since the step before was recorded.

        Returns:
            the signals that all processes agreed on with it, by column. A step with ABORT is not recorded.
        """
        values = jax.device_get(pending.values)
        signals = {column: int(value) for column, value in enumerate(values.pop("signals")) if value}
        # The devices of all wait for the process whose data come last.
        self._waited = max(self._waited, signals.pop(WAITED, 0) / 1000)
        replaced = signals.pop(REPLACED, 0)
        if ABORT in signals:
            return signals
        figures = {name: float(value) for name, value in values.items()}
        figures["skipped"] = skipped = int(values["skipped"])
        figures |= {"replaced_samples": replaced, **self._times()}
        if self._metrics is not None:
            self._metrics.write(pending.step, figures)
        self._progress.advance(pending.step, figures)
        if skipped > self._skipped:
            self._tell_skipped(pending.step, figures)
        self._skipped = skipped
        for name, bad in self.bad.items():
            if bad.count > 2 * self._told[name]:  # at 1, 3, 7, ... of them: the metrics have all
                self._told[name] = bad.count
                self._progress.say(f"{name}: {bad.in_words()}")
        return signals

    def flush(self) -> None:
        """Everything recorded so far is on disk."""
        if self._metrics is not None:
            self._metrics.flush()

    def write_evaluation(self, done: int, figures: Mapping[str, float]) -> None:
        """What was measured after so many steps."""
        if self._metrics is not None:
            self._metrics.write_evaluation(done - 1, figures)

    @property
    def has_failed(self) -> bool:
        """Whether more steps were not finite than may be, the last of them by this start."""
        return bool(self._not_finite) and self._skipped > self._config.max_skipped_steps

    def report(self) -> str:
        """Why a run of steps that are not finite ends, and what to try."""
        return (
            f"{self._skipped} steps were skipped because their loss or gradient was not finite, more than "
            f"max_skipped_steps {self._config.max_skipped_steps}; the last were {', '.join(self._not_finite)}. What "
            "they would have changed is not in the checkpoint, which is saved. Try a lower optimizer.learning_rate or "
            "a longer optimizer.warmup_steps in another run, or dtype float32; a larger max_skipped_steps continues "
            "this one"
        )

    def _tell_skipped(self, step: int, figures: Mapping[str, float]) -> None:
        what = f"step {step} (loss {figures['loss']:g}, gradient norm {figures['gradient_norm']:g})"
        self._not_finite = [*self._not_finite, what][-_REMEMBERED:]
        self._progress.say(
            f"WARNING: {what} is not finite and changes nothing; {int(figures['skipped'])} steps were skipped so far, "
            f"and the run stops beyond {self._config.max_skipped_steps}"
        )

    def _times(self) -> dict[str, float]:
        now = time.perf_counter()
        seconds = max(now - self._clock - self._paused, 1e-9)
        waited = min(self._waited, seconds)
        self._clock, self._waited, self._paused = now, 0.0, 0.0
        rate, memory = self._pairs / seconds, device_memory()
        times = {
            "images_per_second": rate,
            "images_per_second_per_device": rate / jax.device_count(),
            "mfu": self._flops / seconds / self._peak,
            "data_wait_share": waited / seconds,
            "seconds": seconds,
        }
        if self._goodput is not None:
            times["goodput"] = self._goodput.add(seconds - waited)
        return times if memory is None else times | {"device_memory_bytes": memory}
