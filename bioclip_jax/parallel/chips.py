"""What accelerators are said to do: public figures of their makers, one table for whoever measures or plans.

TPUs: cloud.google.com/tpu/docs (v4, v5e, v5p, v6e, tpu7x; figures of chips, machine types and networks); of v4 the
links are jax-ml.github.io/scaling-book's, and between its hosts, of which no page says anything, v5p's figure stands.
GPUs: NVIDIA's data sheets of A100, H100 (SXM) and H200, and of DGX A100, H100 and H200 for hosts and networks.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One TPU chip or GPU, and the host that it usually has."""

    name: str
    vendor: Literal["google", "nvidia"]
    device_kinds: tuple[str, ...]
    """How `jax.Device.device_kind` begins."""
    memory: int
    """Bytes of HBM that programs have on each device. TPUs: the compiler's own limit. GPUs: nine tenths of the data
    sheet's, as XLA_PYTHON_CLIENT_MEM_FRACTION=0.9 leaves them (JAX takes three quarters unless told)."""
    flops_per_second: float
    """Of the chip, dense bfloat16."""
    bytes_per_second: float
    """Of the chip, to and from HBM."""
    fast_bytes_per_second: float
    """That a chip sends within a TPU slice (over all its links) or a node of GPUs."""
    slow_bytes_per_second: float
    """That a host sends to those of other slices or nodes."""
    chips_per_host: int
    cores: int
    """Of a host, as its operating system counts them."""
    flops_per_cycle: int = 0
    """Of a device's matrix units, which the compiler's cycles are read with; 0 where no compiler estimates cycles."""
    devices: int = 1
    """As JAX counts them on a chip: two where two cores have a memory each."""

    @property
    def device_flops_per_second(self) -> float:
        """Of what JAX counts as one device."""
        return self.flops_per_second / self.devices

    @property
    def clock(self) -> float:
        """Cycles of the compiler in a second: the rate at which its matrix units come to the public peak."""
        return self.device_flops_per_second / self.flops_per_cycle


def _tpu(name: str, kinds: tuple[str, ...], memory: float, **figures: float) -> Chip:
    return Chip(name, "google", kinds, int(memory * _GIB), chips_per_host=4, **figures)  # type: ignore[arg-type]


def _gpu(name: str, kind: str, memory: int, **figures: float) -> Chip:
    return Chip(name, "nvidia", (kind,), memory * _GIB * 9 // 10, chips_per_host=8, **figures)  # type: ignore[arg-type]


# A TPU's links: half of what the pages call bidirectional. MXUs of 128 x 128 (v4 to v5p: 8, 4 and 8 on a device), 256 x
# 256 later. No page says how many FLOPs v6e and tpu7x do in a cycle: with 2^19 a large product takes the compiler's own
# cycles at 92 and 96 % of the public peak, as the others do at 90 to 98 % (tests/planning/test_tpu_chips.py).
_ALL = (
    _tpu(
        "v4", ("TPU v4",), 30.75,
        flops_per_second=275e12, bytes_per_second=1228e9, fast_bytes_per_second=270e9, slow_bytes_per_second=25e9,
        cores=240, flops_per_cycle=2**18,
    ),
    _tpu(
        "v5e", ("TPU v5 lite", "TPU v5e"), 15.75,
        flops_per_second=197e12, bytes_per_second=819e9, fast_bytes_per_second=200e9, slow_bytes_per_second=12.5e9,
        cores=112, flops_per_cycle=2**17,
    ),
    _tpu(
        "v5p", ("TPU v5", "TPU v5p"), 95.74,
        flops_per_second=459e12, bytes_per_second=2765e9, fast_bytes_per_second=600e9, slow_bytes_per_second=25e9,
        cores=208, flops_per_cycle=2**18,
    ),
    _tpu(
        "v6e", ("TPU v6 lite", "TPU v6e"), 31.25,
        flops_per_second=918e12, bytes_per_second=1638e9, fast_bytes_per_second=400e9, slow_bytes_per_second=50e9,
        cores=180, flops_per_cycle=2**19,
    ),
    _tpu(
        "tpu7x", ("TPU7x",), 94.75,
        flops_per_second=2307e12, bytes_per_second=7380e9, fast_bytes_per_second=600e9, slow_bytes_per_second=50e9,
        cores=224, flops_per_cycle=2**19, devices=2,
    ),
    _gpu(
        "a100-40", "NVIDIA A100", 40,
        flops_per_second=312e12, bytes_per_second=1555e9, fast_bytes_per_second=300e9, slow_bytes_per_second=200e9,
        cores=256,
    ),
    _gpu(
        "a100-80", "NVIDIA A100", 80,
        flops_per_second=312e12, bytes_per_second=2039e9, fast_bytes_per_second=300e9, slow_bytes_per_second=200e9,
        cores=256,
    ),
    _gpu(
        "h100", "NVIDIA H100", 80,
        flops_per_second=989e12, bytes_per_second=3350e9, fast_bytes_per_second=450e9, slow_bytes_per_second=400e9,
        cores=224,
    ),
    _gpu(
        "h200", "NVIDIA H200", 141,
        flops_per_second=989e12, bytes_per_second=4800e9, fast_bytes_per_second=450e9, slow_bytes_per_second=400e9,
        cores=224,
    ),
)  # fmt: skip
CHIPS = {chip.name: chip for chip in _ALL}
"""By the names that topologies have."""


def chip_of(device_kind: str) -> Chip | None:
    """The chip of a device that is here, by what JAX calls it; None where it is not in the table.

    Slower siblings, as "NVIDIA H100 PCIe" and "NVIDIA H200 NVL", begin with the same words and are not in it.
    """
    if device_kind.endswith(("H100 PCIe", "NVL")):
        return None
    matches = [(len(kind), chip) for chip in _ALL for kind in chip.device_kinds if device_kind.startswith(kind)]
    return max(matches, key=lambda match: match[0])[1] if matches else None
