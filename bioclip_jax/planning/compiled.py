"""The very step that the trainer runs, compiled for devices that are not here: does it fit, and what does it do?

Running out of memory is an answer: `compile_step` returns what the compiler needed. Nothing is allocated and nothing
computed; docs/plan.md says how long a full-size model takes.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from bioclip_jax.config import TrainConfig
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.planning import gpus, hlo, topology
from bioclip_jax.training.step import Program, make_program

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([BKMGT]?)"
# libtpu has several messages. Of other memories (vmem, smem) a batch has no say, so those stay errors.
_NEEDED = (re.compile(rf"(?:required|temporaries)[^(]*\({_SIZE}\)"), re.compile(rf"Used {_SIZE} of \S+ hbm"))
_AVAILABLE = (re.compile(rf"available HBM \({_SIZE}\)"), re.compile(rf"Used \S+ of {_SIZE} hbm"))


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Bytes on each device, by the compiler."""

    state: int
    """Parameters, optimiser state and the batch; the new state takes the old one's place."""
    temporaries: int
    """Activations, gradients and working copies."""
    code: int
    peak: int
    """State and temporaries that live at the same time, at most."""

    @property
    def total(self) -> int:
        """What has to be there: buffers are laid out once, and not all space can be used twice."""
        return self.state + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Fits:
    """A step that compiled."""

    memory: Sizes
    seconds: float
    """That the compilation took."""
    text: str
    """The optimised program."""

    @functools.cached_property
    def module(self) -> hlo.Module:
        """The program's computations."""
        return hlo.parse(self.text)


@dataclasses.dataclass(frozen=True)
class OutOfMemory:
    """A step that needs more than the devices have."""

    needed: int
    """Bytes on each device; of the temporaries alone, where they alone are too much."""
    available: int
    seconds: float


def compile_step(config: TrainConfig, mesh: Mesh, tokens: Mapping[str, int]) -> Fits | OutOfMemory:
    """Compiles the config's step for the mesh's devices; `tokens`: the length of each stream's captions.

    Raises:
        UsageError: a batch that does not divide over the devices.
    """
    return compile_program(make_program(config, mesh), tokens)


def compile_program(program: Program, tokens: Mapping[str, int]) -> Fits | OutOfMemory:
    """The same for a program that is made already."""
    arguments = (program.abstract_state, program.abstract_batch(tokens), program.abstract_signals)
    is_gpu = program.abstract_signals.sharding.mesh.devices.flat[0].platform == "gpu"
    return compile_function(program.step, *arguments, options=gpus.COMPILER_OPTIONS if is_gpu else None)


def compile_function(function: Any, *arguments: Any, options: Mapping[str, Any] | None = None) -> Fits | OutOfMemory:
    """The same for any jitted function of abstract arrays that have shardings."""
    start = time.perf_counter()
    lowered = function.lower(*arguments)
    try:
        compiled = lowered.compile(compiler_options=dict(options) if options else None)
    except jax.errors.JaxRuntimeError as error:
        return _out_of_memory(error, time.perf_counter() - start)
    return Fits(_sizes(compiled), time.perf_counter() - start, compiled.as_text())


def mesh_of(name: str, config: TrainConfig) -> Mesh:
    """The config's mesh on a topology's devices.

    Raises:
        UsageError: not a topology, or the mesh's sizes do not multiply to its devices.
        UserError: the compiler is not installed.
    """
    return make_mesh(config.mesh.data, config.mesh.fsdp, topology.devices(topology.parse(name)))


def _sizes(compiled: Any) -> Sizes:
    sizes = compiled.memory_analysis()
    state = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    temporaries, code = sizes.temp_size_in_bytes, sizes.generated_code_size_in_bytes
    peak = getattr(sizes, "peak_memory_in_bytes", 0) or state + temporaries
    return Sizes(state, temporaries, code, peak)


def _out_of_memory(error: Exception, seconds: float) -> OutOfMemory:
    message = str(error)
    for of_needed, of_available in zip(_NEEDED, _AVAILABLE, strict=True):
        needed, available = of_needed.search(message), of_available.search(message)
        if "RESOURCE_EXHAUSTED" in message and needed and available:
            return OutOfMemory(_bytes(needed), _bytes(available), seconds)
    raise error


def _bytes(found: re.Match[str]) -> int:
    return int(float(found.group(1)) * _UNITS[found.group(2)])
