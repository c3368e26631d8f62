"""A run from its command to its last step: opens the data, claims the work directory, continues what is there."""

from __future__ import annotations

import contextlib
import math
import secrets
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import jax
from jax.sharding import Mesh
from rich.console import Console

from bioclip_jax.config import TrainConfig
from bioclip_jax.convert.weights import Source
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.models.flops import step_flops
from bioclip_jax.parallel.agreement import gather, together
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.parallel.peers import Peers
from bioclip_jax.pipeline.loader import Loader
from bioclip_jax.pipeline.local_paths import require_local
from bioclip_jax.training.checkpointing import (
    Checkpoints,
    check_dataset_note,
    claimed_work_dir,
    common_fields,
    has_checkpoints,
    require_same_run,
    restore_latest,
)
from bioclip_jax.training.compiling import CompiledStep, compile_step, keep_compiled_programs
from bioclip_jax.training.data import BIO, dataset_note, open_streams, species_of
from bioclip_jax.training.evaluating import Evaluation
from bioclip_jax.training.goodput import Goodput, first_start
from bioclip_jax.training.initial import load_initial, open_initial
from bioclip_jax.training.loop import Loop
from bioclip_jax.training.metrics import MetricsWriter, read_evaluations
from bioclip_jax.training.profiling import Profiler
from bioclip_jax.training.progress import StepProgress
from bioclip_jax.training.recording import Recorder
from bioclip_jax.training.requests import Requests, ended_by_sigterm
from bioclip_jax.training.step import Program, TrainState, check_batch, make_program

MEETING, MEETING_SECONDS = "meeting", 10.0
"""A file by which the processes of a run see that they share its directory, and how long a network file system may take
to show it."""


def train(
    config: TrainConfig, work_dir: Path, console: Console | None = None, profile_steps: range = range(0)
) -> TrainState:
    """Trains, or continues the run that `work_dir` holds, and returns the last state. All processes call this.

    Args:
        config: of the run.
        work_dir: the same directory for all processes.
        console: where the first process shows what it does; the terminal if not given.
        profile_steps: of which a profile is written.

    Raises:
        UsageError: `work_dir` lies in an object store.
        UserError: bad data, config or directory; a checkpoint that could not be written.
        Interrupted: somebody stopped it; running the same command again continues.
    """
    require_local(work_dir, "--work-dir")
    console = console or Console(stderr=True)
    keep_compiled_programs()
    with Peers() as peers, contextlib.ExitStack() as held, ended_by_sigterm():
        try:
            mesh = together(partial(_open_mesh, config))
            # Not in all: a network file system would remember for a while that there is no such folder.
            is_new = gather(not has_checkpoints(work_dir) if peers.is_first else None)[0]
            streams = together(partial(open_streams, config, mesh))
            start = bool(config.initial_weights) and is_new
            initial = together(partial(open_initial, config)) if start else None  # before anything is written
            note = together(partial(dataset_note, config))
            _claim(work_dir, config, note, is_new, held)
        except UserError:
            peers.agreed = True  # each of these fails in all processes or in none
            raise
        shown = console if peers.is_first else Console(quiet=True)
        return _train(config, work_dir, streams, mesh, shown, initial, peers, profile_steps)


def _claim(
    work_dir: Path, config: TrainConfig, note: tuple[str, str] | None, is_new: bool, held: contextlib.ExitStack
) -> None:
    """The first process prepares the directory and holds it; the others look whether they see the same one."""
    notes = gather(note)
    if any(other != notes[0] for other in notes):
        raise UserError(f"the processes have different data: {', '.join(sorted({str(other) for other in notes}))}")
    configs = gather(common_fields(config))
    if any(other != configs[0] for other in configs):
        raise UserError("the processes have different configs; start all of them with the same command")
    token = gather(secrets.token_hex(8))[0]
    meeting = work_dir / MEETING

    def prepare() -> None:
        if jax.process_index() == 0:
            held.enter_context(claimed_work_dir(work_dir, config))
            check_dataset_note(work_dir, note, is_new)
            first_start(work_dir)
            meeting.write_text(token, encoding="utf-8")

    def meet() -> None:
        deadline = time.monotonic() + MEETING_SECONDS
        while not meeting.exists() or meeting.read_text(encoding="utf-8") != token:
            if time.monotonic() > deadline:
                raise UserError(f"--work-dir {work_dir} is not shared between the hosts; give a folder that all see")
            time.sleep(0.1)
        require_same_run(work_dir, config)

    together(prepare)
    together(meet)
    if jax.process_index() == 0:
        meeting.unlink(missing_ok=True)


def _train(
    config: TrainConfig,
    work_dir: Path,
    streams: Mapping[str, Loader],
    mesh: Mesh,
    console: Console,
    initial: Source | None,
    peers: Peers,
    profile_steps: range,
) -> TrainState:
    progress = StepProgress(config, console)
    program = make_program(config, mesh, species_of(streams))
    state = restore_latest(work_dir, program.abstract_state, progress.say)
    checkpoints = Checkpoints(work_dir, config.checkpoint)
    if state is None and initial is not None:
        progress.say(f"starting from the weights of {config.initial_weights}")
        state = program.start(load_initial(initial, config, mesh, console))
    elif state is None:
        state = program.init()
    first_step, skipped = (int(x) for x in jax.device_get((state.step, state.skipped)))
    evaluation = Evaluation(config, mesh, program, console, streams[BIO].sample.species)
    measured = gather([row for row in read_evaluations(work_dir) if row["step"] < first_step])[0]
    is_missing = first_step > 0 and evaluation.due(first_step) and first_step - 1 not in [x["step"] for x in measured]
    if first_step:
        progress.say(f"continuing from step {first_step} of {config.total_steps}")
    if first_step >= config.total_steps and not is_missing:
        progress.say("this run is finished")
        return state
    compiled = compile_step(program, {name: loader.tokens for name, loader in streams.items()})
    progress.say(_in_words(config, mesh, program, compiled, streams))
    metrics = MetricsWriter(work_dir, first_step) if peers.is_first else None
    try:
        goodput = None if metrics is None else Goodput(first_start(work_dir), metrics.kept)
        recorder = Recorder(config, streams, progress, metrics, goodput, skipped)
        requests = Requests(config.checkpoint.every_minutes if peers.is_first else 0.0)
        profiler = Profiler(work_dir, profile_steps, progress.say)
        parts = (checkpoints, evaluation, recorder, progress, profiler, requests, peers)
        loop = Loop(config, mesh, program, compiled, streams, *parts)
        for row in measured:
            checkpoints.note_figures(row["step"] + 1, row)
        with jax.transfer_guard("disallow"):
            if is_missing:  # a stop came in between
                with recorder.pausing():
                    loop.evaluate(state, first_step)
            return loop.steps(state, first_step) if first_step < config.total_steps else state
    finally:
        if metrics is not None:
            metrics.close()


def _open_mesh(config: TrainConfig) -> Mesh:
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    check_devices(config)
    check_batch(config, mesh)
    return mesh


def check_devices(config: TrainConfig) -> None:
    """Raises UsageError where these devices cannot run the config."""
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UsageError("dtype float64 needs the environment variable JAX_ENABLE_X64=1")
    if config.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UsageError(f"attention cudnn needs an NVIDIA GPU; the devices here are {jax.default_backend()}")


def _in_words(
    config: TrainConfig, mesh: Mesh, program: Program, compiled: CompiledStep, streams: Mapping[str, Loader]
) -> str:
    """One line about what is about to run."""
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.abstract_state.parameters))
    axes = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
    hosts = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    batch = " + ".join(f"{loader.global_batch_size:,} {name}" for name, loader in streams.items())
    memory = (
        "" if compiled.device_bytes is None else f"; {compiled.device_bytes / 2**30:.3g} GiB on each by the compiler"
    )
    flops = step_flops(config, {name: loader.tokens for name, loader in streams.items()}) / 1e12
    return (
        f"{parameters / 1e6:.1f} M parameters on {mesh.size} {jax.devices()[0].device_kind} devices{hosts} ({axes})"
        f"{memory}; {batch} pairs and {flops:.3g} TFLOP a step in {config.dtype}; compiled in {compiled.seconds:.0f} s"
    )
