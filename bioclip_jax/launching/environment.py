"""Variables that are known to serve JAX, for each kind of machine, from one place. A user's own replace them."""

from __future__ import annotations

from collections.abc import Mapping

from bioclip_jax.launching.hardware import Hardware, TpuSlices

EVERYWHERE = {
    "PYTHONUNBUFFERED": "1",  # lines reach the log when they are written, the last ones before a crash included
}
# https://github.com/NVIDIA/JAX-Toolbox/blob/main/docs/GPU_performance.md (July 2026)
GPU = {
    "JAX_PLATFORMS": "cuda,cpu",  # without a driver an error, not a run on the machine's CPUs
    "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",  # of a GPU's memory; 0.75 without it, and NCCL wants some besides
    "JAX_OPTIMIZATION_LEVEL": "O1",  # hides exchanges behind arithmetic: replaces a list of flags by hand
    "NCCL_NVLS_ENABLE": "1",  # sums within NVSwitch, where there is one
}
HOPPER = {
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",  # exchanges are queued in order before the arithmetic that they overlap
}
TPU = {
    "JAX_PLATFORMS": "tpu,cpu",  # as above; the compiler's own defaults are good
}


def environment(hardware: Hardware, own: Mapping[str, str]) -> dict[str, str]:
    """The variables of a job: what serves the hardware, and over it the user's."""
    if isinstance(hardware, TpuSlices):
        known = TPU
    elif hardware.gpus_per_node:
        known = GPU | (HOPPER if hardware.gpu in ("h100", "h200") else {})
    else:
        known = {}
    return EVERYWHERE | known | dict(own)
