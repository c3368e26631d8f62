"""One question to a compiler: does this config's step fit those devices, and what does it do there?

The step is the trainer's own; nothing is allocated and nothing computed. On GPUs that are not here XLA's attention
stands in for cuDNN's, which cannot be compiled without a GPU, and nobody says that memory is too little: what the
program needs is compared with what a GPU has.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from bioclip_jax.checkpoints import first_line
from bioclip_jax.config import TextConfig, TrainConfig, VisionConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.planning import compiled, cycles, memory
from bioclip_jax.planning.answer import Answer
from bioclip_jax.planning.collectives import collectives, exchanges, gradient_dtype
from bioclip_jax.planning.kernel_schedule import Call, schedules
from bioclip_jax.planning.topology import Topology, devices
from bioclip_jax.training.step import make_program

_NO_SCHEDULES = (
    "the schedules of the attention kernels: compiling them alone failed or took too long, so that the high reading of "
    "attention is its low one; the same command tries again"
)
_SPECIES_UNKNOWN = 1  # a classifier of species is as wide as the data have species, which only the data say


def ask(config: TrainConfig, topology: Topology, tokens: Mapping[str, int]) -> Answer:
    """What the compiler says of the config's step on a topology; `tokens`: the length of each stream's captions.

    Raises:
        UsageError: the batch does not divide, the mesh does not match the devices, or the config cannot run there.
        UserError: the compiler is not installed, knows no such topology, or failed.
    """
    start = time.perf_counter()
    config = _compilable(config, topology)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, devices(topology))
    program = make_program(config, mesh, _SPECIES_UNKNOWN)
    with ThreadPoolExecutor(1) as aside:  # a compiler begins with what takes one core
        schedules_found = aside.submit(_schedules, config, topology, tokens)
        try:
            found = compiled.compile_program(program, tokens)
        except jax.errors.JaxRuntimeError as error:
            raise UserError(f"topology {topology}: the compiler failed: {first_line(error)}") from None
    said: dict[str, Any] = {"topology": str(topology), "compiled_for": _compiled_for(config, topology)}
    if isinstance(found, compiled.OutOfMemory):
        seconds = time.perf_counter() - start
        return Answer(**said, fits=False, needed=found.needed, available=found.available, seconds=seconds)
    summed = collectives(found.module)
    kinds = memory.by_kind(found.memory, found.module, program, config, tokens)
    known = schedules_found.result()
    return Answer(
        **said,
        fits=not topology.is_gpu or kinds.total <= topology.chip.memory,
        needed=kinds.total,
        available=topology.chip.memory,
        memory=kinds,
        exchanges=exchanges(summed, networks(topology, mesh)),
        gradient_dtype=gradient_dtype(summed) if mesh.size > 1 else "",
        parts={} if topology.is_gpu else cycles.part_seconds(found.module, topology.chip, known),
        lacks=_NO_SCHEDULES if known is None and cycles.kernels(found.module) else "",
        seconds=time.perf_counter() - start,
    )


def networks(topology: Topology, mesh: Mesh) -> list[int]:
    """The slice or node of each device of a mesh, whose devices have a fast network among themselves."""
    name = "process_index" if topology.is_gpu else "slice_index"
    return [getattr(device, name, 0) for device in mesh.devices.flat]


def _compilable(config: TrainConfig, topology: Topology) -> TrainConfig:
    """The config as its step can be compiled here."""
    if config.dtype == "float64":
        raise UsageError(f"dtype float64 is for CPUs; {topology} has bfloat16 and float32")
    if topology.is_gpu:
        if config.attention == "pallas":
            raise UsageError(f"attention pallas is a kernel for TPUs; {topology} takes auto, cudnn or xla")
        _check_nodes(config, topology)
        return dataclasses.replace(config, attention="xla")
    if config.attention == "cudnn":
        raise UsageError(f"attention cudnn is NVIDIA's; {topology} takes auto, pallas or xla")
    return config


def _check_nodes(config: TrainConfig, topology: Topology) -> None:
    # A mesh asks JAX for the nodes of its devices; those of a description are one to it.
    if config.mesh.fsdp < 1 or (topology.slices > 1 and topology.shape[0] % config.mesh.fsdp):
        raise UsageError(
            f"mesh.fsdp is {config.mesh.fsdp}, which does not divide the {topology.shape[0]} GPUs of a node of "
            f"{topology}; shares of the parameters stay within one"
        )


def _compiled_for(config: TrainConfig, topology: Topology) -> str:
    devices = f"{topology.devices} device" + "s" * (topology.devices > 1)
    if not topology.is_gpu:
        said = f"{devices} of {topology}, by XLA for TPUs (libtpu {_version('libtpu')})"
    else:
        plugin = next((name for name in ("jax-cuda13-pjrt", "jax-cuda12-pjrt") if _version(name)), "jax-cuda13-pjrt")
        said = (
            f"{devices} of {topology}, by XLA for CUDA ({plugin} {_version(plugin)}) from a description of the GPU by "
            "public figures; attention is XLA's, which takes more memory than cuDNN's, and nothing was tuned on a GPU"
        )
    if config.loss.kind == "species":
        said += "; the classifier counts as one species"
    return said


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _schedules(config: TrainConfig, topology: Topology, tokens: Mapping[str, int]) -> cycles.Schedules | None:
    """Instructions of the attention kernels' schedules, where a step may have such kernels; None where that failed."""
    if topology.is_gpu or config.attention == "xla" or config.dtype != "bfloat16":
        return {}
    calls = attention_calls(config, tokens, topology.devices)
    found = schedules(topology.generation, tuple(calls.values()))
    return None if found is None else dict(zip(calls, found, strict=True))


def attention_calls(config: TrainConfig, tokens: Mapping[str, int], devices: int) -> dict[tuple[str, int], Call]:
    """The attention of each way through a tower, by its part of the step and positions."""
    towers: dict[str, VisionConfig | TextConfig] = {"vision": config.model.vision, "text": config.model.text}
    found = {}
    for one in memory.passes(config, tokens, devices):
        tower = towers[one.tower]
        call = Call(one.rows, one.tokens, tower.heads, tower.width // tower.heads, one.tower == "text")
        found[f"{one.tower} attention", one.rows * one.tokens] = call
    return found
