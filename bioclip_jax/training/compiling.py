"""Compiles a run's step before it begins, keeps compiled programs for the next start, and says what the step takes."""

from __future__ import annotations

import dataclasses
import os
import platform
import time
from collections.abc import Mapping
from typing import Any

import jax

from bioclip_jax.checkpoints import first_line
from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.file_cache import cache_folder
from bioclip_jax.training.step import Program


@dataclasses.dataclass(frozen=True)
class CompiledStep:
    """A step that is ready to run."""

    run: Any
    """(state, batch, signals) -> (state, metrics); the state is donated."""
    seconds: float
    """How long the compiler took."""
    device_bytes: int | None
    """Memory that the step takes on each device, by the compiler; None where it does not say."""


def compile_step(program: Program, tokens: Mapping[str, int]) -> CompiledStep:
    """The step for batches whose captions have so many tokens in each stream."""
    start = time.perf_counter()
    lowered = program.step.lower(program.abstract_state, program.abstract_batch(tokens), program.abstract_signals)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"the step does not fit into the devices' memory ({first_line(error)}); try --remat-policy full, "
            "--micro-batches, --mesh.shard-optimizer, or a smaller batch"
        ) from None
    return CompiledStep(compiled, time.perf_counter() - start, _device_bytes(compiled.memory_analysis()))


def _device_bytes(analysis: Any) -> int | None:
    if analysis is None:
        return None
    whole = analysis.argument_size_in_bytes + analysis.output_size_in_bytes + analysis.temp_size_in_bytes
    return int(whole - analysis.alias_size_in_bytes)  # what is donated would count twice


def keep_compiled_programs() -> None:
    """Programs compiled by one start are found by the next, in the user's cache folder unless JAX was given another.

    Where that folder cannot be written, nothing is kept.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    folder = cache_folder() / "compiled"
    if jax.default_backend() == "cpu":
        folder /= platform.node()  # programs for one CPU may not run on another that shares the home directory
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
