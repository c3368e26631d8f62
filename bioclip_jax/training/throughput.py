"""Model FLOPs utilisation: the arithmetic the model needs, over what the devices could have done in the same time."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp

PEAK_BFLOAT16 = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}
"""Dense bfloat16 FLOP/s of one device by the start of its `device_kind`; vendors' data sheets."""


def peak_flops() -> float:
    """FLOP/s of all local devices: the data sheet's where the device is known, else measured by a matrix product."""
    kind = jax.local_devices()[0].device_kind
    matches = [name for name in PEAK_BFLOAT16 if kind.startswith(name)]
    if matches:
        return PEAK_BFLOAT16[max(matches, key=len)] * jax.local_device_count()
    # CPU devices share one machine's cores, so all of them are as fast as one.
    return _measured_peak() * (1 if jax.default_backend() == "cpu" else jax.local_device_count())


def _measured_peak(size: int = 1024, repeats: int = 5) -> float:
    """Best of several float32 products on one device."""
    multiply = jax.jit(jnp.dot)
    matrix = jnp.ones((size, size), jnp.float32)
    multiply(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        multiply(matrix, matrix).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
