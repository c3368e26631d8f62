"""The training loop, top to bottom.

The order of operations is a contract: a step's figures are on disk before its checkpoint is started, and the checkpoint
is started before the next step may donate its arrays. A run that is killed anywhere repeats what it would have done.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console
from rich.markup import escape

from bioclip_jax.config import TrainConfig
from bioclip_jax.convert.weights import Source
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.models.flops import train_flops
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.parallel.sharding import batch_sharding
from bioclip_jax.pipeline.bad_samples import BadSamples
from bioclip_jax.pipeline.loader import Loader
from bioclip_jax.pipeline.lock import exclusive
from bioclip_jax.training.checkpointing import Checkpoints, check_dataset_note, finished_steps, prepare_work_dir
from bioclip_jax.training.data import dataset_note, open_streams, zipped
from bioclip_jax.training.feed import DeviceFeed
from bioclip_jax.training.initial import load_initial, open_initial
from bioclip_jax.training.metrics import MetricsWriter
from bioclip_jax.training.progress import StepProgress
from bioclip_jax.training.step import Program, TrainState, make_program
from bioclip_jax.training.throughput import peak_flops


class Interrupted(UserError):
    """Ctrl-C or SIGTERM: the run stopped after a whole step and saved it."""

    exit_code = 130


def train(config: TrainConfig, work_dir: Path, console: Console | None = None) -> TrainState:
    """Trains, or continues the run that `work_dir` holds, and returns the last state.

    Raises:
        UserError: bad data, config or directory; a checkpoint that could not be written.
        Interrupted: the user stopped it; running the same command again continues.
    """
    console = console or Console(stderr=True)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    check_devices(config)
    streams = open_streams(config, mesh)
    is_new = not finished_steps(work_dir)
    initial = open_initial(config) if config.initial_weights and is_new else None  # before anything is written
    prepare_work_dir(work_dir, config)
    with exclusive(work_dir / "lock", f"{work_dir}: another process is training here now"):
        check_dataset_note(work_dir, dataset_note(config), is_new)
        return _train(config, work_dir, streams, mesh, console, initial)


def _train(
    config: TrainConfig,
    work_dir: Path,
    streams: Mapping[str, Loader],
    mesh: Mesh,
    console: Console,
    initial: Source | None,
) -> TrainState:
    program = make_program(config, mesh)
    checkpoints = Checkpoints(work_dir, config)
    state = checkpoints.restore_latest(program.abstract_state)
    if state is None and initial is not None:
        console.print(escape(f"starting from the weights of {config.initial_weights}"), soft_wrap=True)
        state = program.start(load_initial(initial, config, mesh, console))
    elif state is None:
        state = program.init()
    first_step = int(jax.device_get(state.step))
    if first_step:
        console.print(f"continuing from step {first_step} of {config.total_steps}")
    if first_step >= config.total_steps:
        console.print("this run is finished")
        return state
    metrics = MetricsWriter(work_dir, first_step)
    run = _Run(config, mesh, program, streams, checkpoints, metrics, console)
    try:
        with jax.transfer_guard("disallow"):
            return run.steps(state, first_step)
    finally:
        metrics.close()


def check_devices(config: TrainConfig) -> None:
    """Raises UsageError where these devices cannot run the config."""
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UsageError("dtype float64 needs the environment variable JAX_ENABLE_X64=1")
    if config.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UsageError(f"attention cudnn needs an NVIDIA GPU; the devices here are {jax.default_backend()}")


class _Run:
    """The parts of a run between its first and last step."""

    def __init__(
        self,
        config: TrainConfig,
        mesh: Mesh,
        program: Program,
        streams: Mapping[str, Loader],
        checkpoints: Checkpoints,
        metrics: MetricsWriter,
        console: Console,
    ):
        self.config, self.mesh, self.program, self.streams = config, mesh, program, streams
        self.checkpoints, self.metrics = checkpoints, metrics
        self.pairs = sum(loader.global_batch_size for loader in streams.values())
        self.flops = step_flops(config, streams)
        self.bad = {name: BadSamples(loader.sample.data.max_bad_share) for name, loader in streams.items()}
        self.told = dict.fromkeys(streams, 0)
        self.peak = peak_flops()
        self.progress = StepProgress(config, console)
        self.stop_requested = False
        self.waited = 0.0

    def steps(self, state: TrainState, first_step: int) -> TrainState:
        """Steps first_step .. total_steps - 1."""
        total = self.config.total_steps
        feed = DeviceFeed(zipped(self.streams, first_step, total), batch_sharding(self.mesh))
        pending: tuple[int, int, dict[str, jax.Array]] | None = None
        previous_signals, at_once = self._listen(), False
        self.clock = time.perf_counter()
        try:
            with self.progress.running(first_step):
                for step in range(first_step, total):
                    waiting = time.perf_counter()
                    try:
                        batch = next(feed)
                        for name, bad in self.bad.items():
                            bad.add(batch.samples[name], batch.replaced[name])
                    except UserError:
                        # A process that saved alone would wait for the others.
                        if pending is not None and jax.process_count() == 1:
                            self._save(state, step, pending)
                        raise
                    self.waited += time.perf_counter() - waiting
                    state, values = self.program.step(state, batch.streams)
                    # The figures of the step before are fetched while this one computes.
                    self._record(pending)
                    pending = (step, sum(map(len, batch.replaced.values())), values)
                    done, stop = step + 1, self.stop_requested
                    if self.checkpoints.due(done) or done == total or stop:
                        self._save(state, done, pending)
                        pending = None
                    if stop and done < total:
                        raise Interrupted(
                            f"stopped after step {done} of {total}, which is saved; run the same command to continue"
                        )
        except KeyboardInterrupt:
            at_once = True
            raise
        finally:
            feed.close()
            try:
                self.checkpoints.finish()  # the last save ends before a signal can end the process
            except UserError:
                if not at_once:  # a save that a second Ctrl-C cut off is swept away by the next start
                    raise
            finally:
                self._restore(previous_signals)
        return state

    def _save(self, state: TrainState, done: int, pending: tuple[int, int, dict[str, jax.Array]]) -> None:
        self._record(pending)
        self.metrics.flush()
        self.checkpoints.save(state, done)

    def _record(self, pending: tuple[int, int, dict[str, jax.Array]] | None) -> None:
        """Figures of a step; its times are those since the step before was recorded."""
        if pending is None:
            return
        step, replaced, values = pending
        figures = {name: float(value) for name, value in jax.device_get(values).items()}
        figures["replaced_samples"] = replaced
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        waited, self.waited = self.waited, 0.0
        if not np.isfinite(figures["loss"]):
            raise UserError(f"the loss of step {step} is {figures['loss']}; the last checkpoint is from before")
        figures["images_per_second"] = self.pairs / seconds
        figures["mfu"] = self.flops / seconds / self.peak
        figures["data_wait_share"] = waited / seconds
        figures["seconds"] = seconds
        self.metrics.write(step, figures)
        self.progress.advance(step, figures)
        for name, bad in self.bad.items():
            if bad.count > 2 * self.told[name]:  # at 1, 3, 7, ... of them: the metrics have all
                self.told[name] = bad.count
                self.progress.say(f"{name}: {bad.in_words()}")

    def _listen(self) -> dict[int, Any]:
        """The first Ctrl-C or SIGTERM ends the run after its step; a second Ctrl-C ends it at once."""

        def request(number: int, frame: FrameType | None) -> None:
            if self.stop_requested:
                raise KeyboardInterrupt
            self.stop_requested = True
            # Not through rich: the main thread may be in the middle of writing.
            os.write(2, b"\nstopping after this step; once more to stop at once\n")

        try:
            return {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the caller's signals are its own
            return {}

    @staticmethod
    def _restore(handlers: Mapping[int, Callable[..., Any] | int | None]) -> None:
        for number, handler in handlers.items():
            if handler is not None:  # one that was not installed from Python cannot be put back
                signal.signal(number, handler)


def step_flops(config: TrainConfig, streams: Mapping[str, Loader]) -> float:
    """Model FLOPs of a step on all streams."""
    return sum(train_flops(config.model, one.global_batch_size, one.tokens) for one in streams.values())
