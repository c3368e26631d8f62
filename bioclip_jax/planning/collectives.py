"""What devices exchange in one step, from the compiled program: how often, which kind, type and size, and over which
network.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from bioclip_jax.planning.answer import Exchange
from bioclip_jax.planning.groups import groups_of, spans
from bioclip_jax.planning.hlo import Instruction, Module, Shape

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all", "recv")
_TRANSFER = re.compile(r'_xla_megascale_transfer_type="(\w+)"')
_SLICES = re.compile(r'_xla_megascale_target="\{([\d,]+)\}')
_SUMS = ("all-reduce", "reduce-scatter")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange; `shapes` are what each device has afterwards (of a combined exchange, several)."""

    kind: str
    """recv: between TPU slices, which the line's attributes tell more of."""
    shapes: tuple[Shape, ...]
    times: int
    op_name: str
    text: str = dataclasses.field(default="", repr=False)
    """The whole line."""

    @property
    def bytes(self) -> int:
        """Per device and step."""
        return self.times * sum(shape.bytes for shape in self.shapes)


def collectives(module: Module) -> list[Collective]:
    """Every exchange of a compiled step, those inside fusions included.

    An exchange that is spread over several fusions, to overlap with arithmetic, counts once.
    """
    found = []
    seen = set()
    for outer, times in module.runs():
        for instruction in _exchanges(module, outer):
            if instruction is not outer and (key := _chain(instruction)):
                if key in seen:
                    continue
                seen.add(key)
            kind = instruction.opcode.removesuffix("-start")
            found.append(Collective(kind, _results(instruction), times, instruction.op_name, instruction.text))
    return found


def exchanges(found: Iterable[Collective], networks: Sequence[int]) -> tuple[Exchange, ...]:
    """The same added up; the largest first.

    Args:
        found: all exchanges of a step.
        networks: the slice or node of each device, in the order of the mesh.
    """
    times: Counter[tuple[str, str, str, int]] = Counter()
    sizes: Counter[tuple[str, str, str, int]] = Counter()
    for each in found:
        kind, network, group = _place(each, networks)
        if group == 1:
            continue
        for dtype in {shape.type for shape in each.shapes}:
            key = (kind, network, dtype, group)
            times[key] += each.times
            sizes[key] += each.times * sum(shape.bytes for shape in each.shapes if shape.type == dtype)
    ordered = sorted(sizes, key=lambda key: -sizes[key])
    return tuple(
        Exchange(key[0], "slow" if key[1] == "slow" else "fast", *key[2:], times[key], sizes[key]) for key in ordered
    )


def gradient_dtype(found: Iterable[Collective]) -> str:
    """The type in which most bytes are added up over devices: the parameters' gradients, beside which the rest is
    little (the loss adds up gradients of texts and some vectors). '' where nothing is added up.
    """
    sizes: Counter[str] = Counter()
    for each in found:
        if (_transfer(each) if each.kind == "recv" else each.kind) in _SUMS and "shard_map" not in each.op_name:
            for shape in each.shapes:
                if len(shape.dimensions) > 1:
                    sizes[shape.type] += each.times * shape.bytes
    return max(sizes, key=lambda dtype: sizes[dtype], default="")


def _place(each: Collective, networks: Sequence[int]) -> tuple[str, str, int]:
    """Kind, network, and how many take part."""
    if each.kind == "recv":
        slices = _SLICES.search(each.text)
        return _transfer(each), "slow", len(slices[1].split(",")) if slices else len(set(networks))
    groups = groups_of(each.text, len(networks))
    members = max(len(group) for group in groups)
    # Of several slices, each runs a program of its own, whose groups are of its own devices.
    per_slice = members * len(groups) < len(networks) and len(set(networks)) > 1
    return each.kind, "slow" if spans(groups, networks) and not per_slice else "fast", members


def _transfer(each: Collective) -> str:
    found = _TRANSFER.search(each.text)
    return found[1].lower().replace("_", "-") if found else "recv"


def _results(instruction: Instruction) -> tuple[Shape, ...]:
    """What a device has afterwards, without what it had before, and without counters and tokens."""
    shapes, opcode = instruction.shapes, instruction.opcode
    if opcode in ("recv", "collective-permute-start"):
        return shapes[:1]  # an array; what it was, and counters, come after it
    if opcode.endswith("-start") and opcode != "all-reduce-start" and len(shapes) > 1:
        return shapes[len(shapes) // 2 :]  # operands come first
    return shapes


def _exchanges(module: Module, outer: Instruction) -> list[Instruction]:
    candidates = [outer]
    if outer.opcode == "fusion":
        candidates += module.computations[outer.called("calls")[0]]
    return [instruction for instruction in candidates if instruction.opcode.removesuffix("-start") in KINDS]


def _chain(instruction: Instruction) -> tuple[object, ...] | None:
    found = re.search(r'chain_id="(\d+)"', instruction.text)
    return found and (found.group(1), instruction.opcode, instruction.shapes, instruction.op_name)
