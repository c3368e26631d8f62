"""A compiled program's text as computations and instructions: as much of HLO's grammar as counting needs.

`Module.runs()` gives every instruction that is executed as such, with how often: a loop's body as many times as it
turns (XLA for GPUs says so at the loop; for TPUs a scan's condition compares its counter with a constant).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

_HEADER = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>[^ ]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^  (?P<root>ROOT )?%(?P<name>[^ ]+) = (?P<rest>.*)$")
_OPCODE = re.compile(r" (?P<opcode>[a-z][a-z0-9-]*)\((?P<operands>[^)]*)\)")
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+\d+(?:e\d\w*)?)\[(?P<shape>[\d,]*)\]")
_CALLED = re.compile(r"\b(?P<role>condition|body|to_apply|calls|branch_computations)=(?P<names>\{[^}]*\}|%[^ ,]+)")
_OP_NAME = re.compile(r'metadata=\{[^}]*op_name="((?:[^"\\]|\\.)*)"')
_CONSTANT = re.compile(r"constant\((-?\d+)\)")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_COMMENT = re.compile(r"/\*.*?\*/")


@dataclasses.dataclass(frozen=True)
class Shape:
    """An array's element type (f32, bf16, ...) and size."""

    type: str
    dimensions: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """What it occupies without padding."""
        bits = 8 if self.type == "pred" else int(re.findall(r"\d+", self.type)[0])
        count = 1
        for dimension in self.dimensions:
            count *= dimension
        return -(-count * bits // 8)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]
    """Of the result: one array, or those of a tuple."""
    operands: tuple[str, ...]
    text: str
    is_root: bool

    @property
    def op_name(self) -> str:
        """Where it comes from in the traced program: a path of scopes, transformations and the primitive; or ''."""
        found = _OP_NAME.search(self.text)
        return found.group(1) if found else ""

    def called(self, role: str) -> tuple[str, ...]:
        """Names of the computations that it calls as condition, body, to_apply, calls or branch_computations."""
        for found in _CALLED.finditer(self.text):
            if found["role"] == role:
                return tuple(name.strip().removeprefix("%") for name in found["names"].strip("{}").split(","))
        return ()


@dataclasses.dataclass(frozen=True)
class Module:
    """All computations by name."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str

    def runs(self) -> Iterator[tuple[Instruction, int]]:
        """Every instruction outside fusions with the number of times it runs. Of a conditional all branches count."""
        yield from self._runs(self.entry, 1)

    def _runs(self, computation: str, times: int) -> Iterator[tuple[Instruction, int]]:
        for instruction in self.computations[computation]:
            yield instruction, times
            if instruction.opcode == "while":
                turns = times * self.trip_count(instruction)
                yield from self._runs(instruction.called("body")[0], turns)
            elif instruction.opcode in ("call", "async-start"):
                for name in instruction.called("to_apply") or instruction.called("calls"):
                    yield from self._runs(name, times)
            elif instruction.opcode == "conditional":
                for name in instruction.called("branch_computations"):
                    yield from self._runs(name, times)

    def trip_count(self, loop: Instruction) -> int:
        """How often a `while` turns, which it says itself or its condition does.

        Raises:
            ValueError: it does not say so, and its condition compares its counter with no constant.
        """
        if known := _TRIP_COUNT.search(loop.text):
            return int(known.group(1))
        condition = self.computations[loop.called("condition")[0]]
        root = next(instruction for instruction in condition if instruction.is_root)
        constants = [instruction for instruction in condition if instruction.name in root.operands]
        for instruction in constants:
            found = _CONSTANT.search(instruction.text)
            if instruction.opcode == "constant" and found:
                return int(found.group(1))
        raise ValueError(f"loop {loop.name} does not say how often it turns: {root.text.strip()}")


def parse(text: str) -> Module:
    """`jax.stages.Compiled.as_text()` as a `Module`."""
    computations: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    entry = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header["name"], [])
            entry = header["name"] if header["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            current.append(_instruction(found))
    return Module({name: tuple(lines) for name, lines in computations.items()}, entry)


def _instruction(found: re.Match[str]) -> Instruction:
    rest = _COMMENT.sub("", found["rest"])
    # Layouts hold calls such as T(8,128): they go before the opcode is looked for.
    end = rest.find(", metadata=")
    head = re.sub(r"\{[^{}]*\}", "", rest[: end if end >= 0 else len(rest)])
    opcode = _OPCODE.search(" " + head if head.startswith("(") else head)
    if opcode is None:
        raise ValueError(f"not an instruction of HLO: {found[0][:200]}")
    shapes = tuple(
        Shape(array["type"], tuple(int(n) for n in array["shape"].split(",") if n))
        for array in _ARRAY.finditer(head, 0, opcode.start())
    )
    operands = tuple(re.findall(r"%([^ ,)]+)", opcode["operands"]))
    return Instruction(found["name"], opcode["opcode"], shapes, operands, found["rest"], bool(found["root"]))
