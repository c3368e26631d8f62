"""NVIDIA GPUs that are not here: a description for XLA's CUDA compiler, which runs without a GPU and without NVIDIA's
libraries.

The figures are public: the CUDA C++ Programming Guide (technical specifications per compute capability, "Compute
Capabilities" 8.0 and 9.0), the architecture whitepapers of A100 and H100 (multiprocessors, caches, clocks) and the data
sheets (memory and its bandwidth). Nothing was read off a GPU.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from bioclip_jax.errors import UserError
from bioclip_jax.parallel.chips import Chip


@dataclasses.dataclass(frozen=True)
class _Architecture:
    """What the compiler asks of a multiprocessor, beyond what all have in common."""

    major: int
    """Of the compute capability; the minor is 0."""
    features: str
    """ACCELERATED_FEATURES: instructions of this capability alone, which XLA uses on Hopper."""
    multiprocessors: int
    float32_units: int
    shared_kib: int
    """Shared memory of a multiprocessor; a block may have all of it but one KiB."""
    cache_mib: int
    clock_ghz: float
    memory_gib: int


_ARCHITECTURES = {
    "a100-40": _Architecture(8, "NONE", 108, 64, 164, 40, 1.41, 40),
    "a100-80": _Architecture(8, "NONE", 108, 64, 164, 40, 1.41, 80),
    "h100": _Architecture(9, "ACCELERATED_FEATURES", 132, 128, 228, 50, 1.98, 80),
    "h200": _Architecture(9, "ACCELERATED_FEATURES", 132, 128, 228, 50, 1.98, 141),
}

COMPILER_OPTIONS = {"xla_gpu_enable_triton_gemm": False, "xla_gpu_autotune_level": 0}
"""Which kernel a product takes is found by timing several. Without a GPU every one is a call of cuBLAS."""


def target_config(chip: Chip) -> str:
    """XLA's GpuTargetConfigProto of a GPU, as text."""
    a = _ARCHITECTURES[chip.name]
    return f"""
gpu_device_info {{
  cuda_compute_capability {{ major: {a.major} feature_extension: {a.features} }}
  core_count: {a.multiprocessors}
  fpus_per_core: {a.float32_units}
  clock_rate_ghz: {a.clock_ghz}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: {2**16 - 1}
  block_dim_limit_z: {2**16 - 1}
  registers_per_core_limit: {2**16}
  registers_per_block_limit: {2**16}
  shared_memory_per_core: {a.shared_kib * 2**10}
  shared_memory_per_block: {48 * 2**10}
  shared_memory_per_block_optin: {(a.shared_kib - 1) * 2**10}
  l2_cache_size: {a.cache_mib * 2**20}
  device_memory_size: {a.memory_gib * 2**30}
  memory_bandwidth: {round(chip.bytes_per_second)}
}}
platform_name: "CUDA"
device_description_str: "{chip.device_kinds[0]}"
"""


def devices(chip: Chip, *, nodes: int, each: int) -> Sequence[Any]:
    """GPUs in nodes of `each`, to make a mesh of and to compile for.

    Raises:
        UserError: the compiler for CUDA is not installed.
    """
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(
            platform="cuda", target_config=target_config(chip), topology=f"1x{nodes}x{each}"
        ).devices
    except (RuntimeError, NotImplementedError) as error:  # JAX has several kinds of it here
        reason = str(error).splitlines()[0]
        if any(words in reason.lower() for words in ("not implemented", "not installed", "unknown backend")):
            reason = (
                "the compiler for CUDA is not installed; pip install 'bioclip-jax[cuda-compiler]' (x86 Linux only, no "
                "GPU needed)"
            )
        raise UserError(f"topology {chip.name}x{nodes * each}: {reason}") from None
