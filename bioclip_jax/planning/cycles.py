"""Where a TPU step's time goes, by the compiler's own estimate: cycles of its scheduled fusions, times the turns of the
loops they are in.

The estimate has no waiting for other devices, and none for copies that overlap with arithmetic. A custom kernel
carries no estimate: it takes at least what its arithmetic or its bytes take, and not less than the instructions of its
schedule, where they are known.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Mapping

from bioclip_jax.parallel.chips import Chip
from bioclip_jax.planning.hlo import Instruction, Module

_ESTIMATE = re.compile(r'"estimated_cycles":"(\d+)"')
_COST = re.compile(r'"cost_estimate":(\{[^{}]*\})')
# JAX puts its transformations before a kernel's name, and the compiler a number after it.
_KERNEL_NAME = re.compile(r"(?:transpose_|jvp_|_)*([a-z_]+_kernel)")
_PARTS = ("attention", "mlp", "norm")

Schedules = Mapping[tuple[str, int], Mapping[str, int]]
"""Cycles of a kernel's call by its name, for each part of the step and number of positions (rows times tokens)."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A custom kernel's call: its name and what it says of itself (0 where it says nothing)."""

    name: str
    times: int
    category: str
    positions: int
    """Rows times tokens of its result."""
    flops: int
    bytes: int


def category(op_name: str) -> str:
    """Which part of the step an operation belongs to, by the scopes in its name."""
    tower = next((name for name in ("vision", "text") if re.search(rf"\b{name}\b", op_name)), "")
    if tower:
        found = [part for part in _PARTS if re.search(rf"\b{part}\b", op_name)]
        return f"{tower} {found[-1] if found else 'other'}"
    if "shard_map" in op_name:
        return "loss"
    return "other" if "jvp" in op_name else "optimizer"


def fusion_cycles(module: Module) -> Counter[str]:
    """Estimated cycles of one step, per category."""
    cycles: Counter[str] = Counter()
    for instruction, times in module.runs():
        if found := _ESTIMATE.search(instruction.text):
            cycles[category(instruction.op_name)] += times * int(found.group(1))
    return cycles


def kernels(module: Module) -> list[Kernel]:
    """The custom kernels that a step calls."""
    return [
        _kernel(instruction, times)
        for instruction, times in module.runs()
        if 'custom_call_target="tpu_custom_call"' in instruction.text
    ]


def _kernel(instruction: Instruction, times: int) -> Kernel:
    found = _COST.search(instruction.text)
    cost = json.loads(found.group(1)) if found else {}
    name = _KERNEL_NAME.search(instruction.name)
    return Kernel(
        name.group(1) if name else instruction.name,
        times,
        category(instruction.op_name),
        math.prod(instruction.shapes[0].dimensions[:-1]) if instruction.shapes else 0,
        int(cost.get("flops", 0)),
        int(cost.get("bytes_accessed", 0)),
    )


def kernel_cycles(kernel: Kernel, chip: Chip, schedules: Schedules | None = None) -> tuple[int, int]:
    """Cycles of all calls of a kernel, from the lowest to the highest reading: the longer of its matrix products at
    peak and its bytes at full bandwidth; and the instructions of its schedule, where they are known and more.
    """
    arithmetic = kernel.flops * chip.clock / chip.device_flops_per_second
    transfers = kernel.bytes * chip.clock / (chip.bytes_per_second / chip.devices)
    low = round(max(arithmetic, transfers))
    scheduled = (schedules or {}).get((kernel.category, kernel.positions), {}).get(kernel.name, 0)
    return kernel.times * low, kernel.times * max(low, scheduled)


def part_seconds(module: Module, chip: Chip, schedules: Schedules | None = None) -> dict[str, tuple[float, float]]:
    """Seconds of one step by part, from the lowest to the highest reading; the longest first."""
    low = fusion_cycles(module)
    high = Counter(low)
    for kernel in kernels(module):
        least, most = kernel_cycles(kernel, chip, schedules)
        low[kernel.category] += least
        high[kernel.category] += most
    ordered = sorted(high, key=lambda part: -high[part])
    return {part: (low[part] / chip.clock, high[part] / chip.clock) for part in ordered}
