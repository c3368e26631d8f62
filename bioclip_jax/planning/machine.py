"""The machine that a topology stands for, as the numbers that plans are made with."""

from __future__ import annotations

import dataclasses

from bioclip_jax.planning.chips import CHIPS
from bioclip_jax.planning.topology import Topology


@dataclasses.dataclass(frozen=True)
class Machine:
    """Chips, hosts and networks; public figures, from `planning.chips`."""

    topology: str
    """In its long form, as v5e:16x16."""
    chip: str
    """Its name, as v5e or h100."""
    chips: int
    devices: int
    """As JAX counts them: where a chip has two cores of their own memory, twice the chips."""
    hosts: int
    networks: int
    """Slices of TPUs, or nodes of GPUs: chips of one exchange over the fast network."""
    flops: float
    """bfloat16 FLOP/s of a chip."""
    fast: float
    """Bytes/s of a chip to others of its network."""
    slow: float
    """Bytes/s of a host to other hosts."""
    cores: int
    """CPU cores of a host."""


def machine_of(topology: Topology) -> Machine:
    """The figures of a topology."""
    chip = topology.chip
    return Machine(
        topology=str(topology),
        chip=chip.name,
        chips=topology.chips,
        devices=topology.devices,
        hosts=topology.hosts,
        networks=topology.slices,
        flops=chip.flops_per_second,
        fast=chip.fast_bytes_per_second,
        slow=chip.slow_bytes_per_second,
        cores=chip.cores,
    )


def chip_names() -> tuple[str, ...]:
    """Of all chips that are known."""
    return tuple(CHIPS)
