"""The steps of a run, and what comes between two of them.

The order of operations is a contract: a step's figures are on disk before its checkpoint is started, and the checkpoint
is started before the next step may donate its arrays. A run that is killed anywhere repeats what it would have done.
All processes of a run do the same at the same step: what one of them is asked for travels with a batch (`signals`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UserError
from bioclip_jax.parallel.agreement import gather
from bioclip_jax.parallel.distributed import RUN_AGAIN
from bioclip_jax.parallel.peers import Peers
from bioclip_jax.parallel.sharding import batch_sharding
from bioclip_jax.pipeline.loader import Loader
from bioclip_jax.training.checkpointing import Checkpoints
from bioclip_jax.training.compiling import CompiledStep
from bioclip_jax.training.data import zipped
from bioclip_jax.training.evaluating import Evaluation
from bioclip_jax.training.feed import DeviceFeed, place_nothing
from bioclip_jax.training.profiling import Profiler
from bioclip_jax.training.progress import StepProgress
from bioclip_jax.training.recording import Pending, Recorder
from bioclip_jax.training.requests import CTRL_C, Requests
from bioclip_jax.training.signals import ABORT, PROFILE, REPLACED, SAVE, STOP, WAITED, place_signals
from bioclip_jax.training.step import Program, TrainState

SETTLING_SECONDS = 120.0
"""How long a process that failed waits for a save that has begun: its peers may never end theirs."""


class Interrupted(UserError):
    """Ctrl-C or SIGTERM: the run stopped after a whole step and saved it.

    The exit code is 130 for Ctrl-C. For SIGTERM, by which a scheduler takes a machine away, it is 42: run me again.
    """

    def __init__(self, message: str, kind: int):
        super().__init__(message)
        self.exit_code = 130 if kind == CTRL_C else RUN_AGAIN


@dataclasses.dataclass
class Loop:
    """The steps of a run, and what comes between two of them."""

    config: TrainConfig
    mesh: Mesh
    program: Program
    compiled: CompiledStep
    streams: Mapping[str, Loader]
    checkpoints: Checkpoints
    evaluation: Evaluation
    recorder: Recorder
    progress: StepProgress
    profiler: Profiler
    requests: Requests
    peers: Peers

    def __post_init__(self) -> None:
        self.pending: Pending | None = None
        self.agreed: dict[int, int] = {}
        """Signals that all processes know of, since something was last done about them."""
        self.aborted: int | None = None
        """The first step that a process had no data for."""
        self.failure: UserError | None = None
        """Why this process has none."""
        self.last_saved = 0

    def steps(self, state: TrainState, first_step: int) -> TrainState:
        """Steps first_step .. total_steps - 1.

        Raises:
            Interrupted: Ctrl-C or SIGTERM.
            UserError: there are no more data, too many steps were not finite, or a checkpoint could not be written.
        """
        feed = DeviceFeed(zipped(self.streams, first_step, self.config.total_steps), batch_sharding(self.mesh))
        self.last_saved, ended_well = first_step, False
        with self.requests.listening():  # until the last save has ended, which no signal may cut off
            try:
                with self.progress.running(first_step):
                    for step in range(first_step, self.config.total_steps):
                        state = self._step(state, step, feed)
                        if self._pauses_after(step + 1):
                            self._pause(state, step + 1)
                ended_well = True
            except UserError:
                ended_well = self.peers.count == 1 or self.peers.agreed
                raise
            except Exception:
                if self.peers.count > 1:  # the others do not know of it, and a save that has begun is theirs, too
                    self.checkpoints.settle(SETTLING_SECONDS)
                raise
            finally:
                feed.close()
                try:
                    self.profiler.close()
                finally:
                    self._finish(ended_well)
        return state

    def _step(self, state: TrainState, step: int, feed: DeviceFeed) -> TrainState:
        """Sends one step to the devices, and fetches the figures of the one before while it computes."""
        alone = self.peers.count == 1
        rows, replaced = self._rows(state, step, feed)
        signals = {} if alone else self.requests.flags()
        signals |= {WAITED: self.recorder.waited_milliseconds, REPLACED: replaced}
        if self.failure is not None:
            signals[ABORT] = 1
        self.profiler.before(step)
        state, values = self.compiled.run(state, rows, place_signals(signals, self.mesh))
        self._record()
        self.pending = Pending(step, values)
        if alone:  # nobody has to be asked
            self._agree_on(self.requests.flags())
        if PROFILE in self.agreed:
            self.profiler.request(step + 1)
            del self.agreed[PROFILE]
        return state

    def _rows(
        self, state: TrainState, step: int, feed: DeviceFeed
    ) -> tuple[Mapping[str, Mapping[str, jax.Array]], int]:
        """A step's batch, and how many of its samples were replaced."""
        if self.failure is None:
            try:
                if not feed.is_ready:
                    self._record()  # so that waiting counts only once the devices have nothing to do
                with self.recorder.waiting():
                    batch = next(feed)
                for name, bad in self.recorder.bad.items():
                    bad.add(batch.samples[name], batch.replaced[name])
                return batch.streams, sum(map(len, batch.replaced.values()))
            except UserError as error:
                if self.peers.count == 1:
                    if step != self.last_saved:
                        self._record()
                        self._save(state, step)
                    raise
                # The others already wait for this process's rows, and learn of this with them.
                self.failure = error
        lengths = {name: loader.tokens for name, loader in self.streams.items()}
        return place_nothing(self.program.abstract_batch(lengths)), 0

    def _record(self) -> None:
        if self.pending is None:
            return
        signals = self.recorder.record(self.pending)
        if ABORT in signals and self.aborted is None:
            self.aborted = self.pending.step
        self.profiler.after(self.pending.step)
        self.pending = None
        self._agree_on(signals)

    def _agree_on(self, signals: Mapping[int, int]) -> None:
        for column, value in signals.items():
            if value:
                self.agreed[column] = max(value, self.agreed.get(column, 0))

    def _pauses_after(self, done: int) -> bool:
        """Whether anything is to be done between two steps; the same in all processes."""
        return (
            bool(self.agreed)
            or self.recorder.has_failed
            or self.checkpoints.due(done)
            or self.evaluation.due(done)
            or done == self.config.total_steps
        )

    def _pause(self, state: TrainState, done: int) -> None:
        """After `done` steps: saves, evaluates, and ends the run where that was agreed.

        The save comes first, and is written while the evaluation computes: whatever becomes of that, no step is lost.
        """
        self._record()
        if self.aborted is not None:
            self._give_up(state, self.aborted)
        total, agreed = self.config.total_steps, self.agreed
        self.agreed = {column: value for column, value in agreed.items() if column == PROFILE}
        ends = STOP in agreed or self.recorder.has_failed
        with self.recorder.pausing():
            is_measured = self.evaluation.due(done)  # what is measured might be the best
            if ends or SAVE in agreed or done == total or self.checkpoints.due(done) or is_measured:
                self._save(state, done)
            if is_measured and not ends:
                try:
                    if not self.evaluate(state, done):  # in all processes: some were asked to stop
                        agreed[STOP] = max(gather(self.requests.stop))
                except UserError:  # all processes have it
                    self.peers.agreed = True
                    raise
        if self.recorder.has_failed:
            self.peers.agreed = True
            raise UserError(self.recorder.report())
        if STOP in agreed and (done < total or self.evaluation.due(done)):
            self.peers.agreed = True
            raise Interrupted(
                f"stopped after step {done} of {total}, which is saved; run the same command to continue", agreed[STOP]
            )

    def evaluate(self, state: TrainState, done: int) -> bool:
        """Measures the weights after `done` steps; False if a stop that was asked for meanwhile left it undone."""
        figures = self.evaluation.run(state.weights, done, lambda: bool(self.requests.stop))
        if figures:
            self.recorder.write_evaluation(done, figures)
            self.recorder.flush()
            self.checkpoints.note_figures(done, figures)
        return bool(figures)

    def _save(self, state: TrainState, done: int) -> None:
        self.recorder.flush()
        self.checkpoints.save(state, done)
        self.last_saved = done
        self.requests.saved()

    def _give_up(self, state: TrainState, failed: int) -> None:
        """Ends the run in all processes because one has no data for step `failed`, nor have had any for those since."""
        if failed != self.last_saved:
            with jax.transfer_guard("allow"):
                count = jax.make_array_from_callback((), state.step.sharding, lambda _: np.asarray(failed, np.int32))
            self._save(dataclasses.replace(state, step=count), failed)
        self.peers.agreed = True
        raise self.failure or UserError("another process stopped: see its output")

    def _finish(self, ended_well: bool) -> None:
        """The last save ends before the process does, unless that could take for ever."""
        try:
            if ended_well or self.peers.count == 1:
                self.checkpoints.finish()
        except UserError:
            if ended_well:  # a save that a second Ctrl-C cut off is swept away by the next start
                raise
