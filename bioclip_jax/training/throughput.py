"""Model FLOPs utilisation: the arithmetic the model needs, over what the devices could have done in the same time."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

from bioclip_jax.parallel.chips import chip_of


def peak_flops() -> float:
    """FLOP/s of the devices of all processes: the data sheet's where known, else measured by a matrix product."""
    if chip := chip_of(jax.local_devices()[0].device_kind):
        return chip.device_flops_per_second * jax.device_count()
    # CPU devices share one machine's cores, so all those of a process are as fast as one.
    return _measured_peak() * (jax.process_count() if jax.default_backend() == "cpu" else jax.device_count())


def device_memory() -> int | None:
    """The most bytes that any of this process's devices has held; None where devices do not count them."""
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in jax.local_devices()]
    return max((peak for peak in peaks if peak is not None), default=None)


def _measured_peak(repeats: int = 5) -> float:
    """Best of several products on one device: of float32 on a CPU, on others of bfloat16 and large enough for them."""
    multiply = jax.jit(jnp.dot)
    size, dtype = (1024, jnp.float32) if jax.default_backend() == "cpu" else (8192, jnp.bfloat16)
    matrix = jnp.ones((size, size), dtype)
    multiply(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
