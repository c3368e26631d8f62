"""What a compiler said about a step, as plain numbers: kept as JSON, and read by everything that plans."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device."""

    parameters: int
    optimizer: int
    """Moments, and the average where there is one."""
    batch: int
    """Images, tokens and signals of one step."""
    activations: int
    """What the forward pass keeps of each block for the backward pass, by the shapes that its loops hand on. A part of
    the compiler's temporaries."""
    temporaries: int
    """The rest of the compiler's temporaries: gradients, working copies, what is recomputed."""
    code: int
    peak: int
    """State and temporaries that live at the same time, at most."""

    @property
    def total(self) -> int:
        """What has to be there: buffers are laid out once, and not all space can be used twice."""
        return self.parameters + self.optimizer + self.batch + self.activations + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What devices exchange in a step, added up by kind, network and type."""

    kind: str
    """As all-gather, all-reduce, reduce-scatter."""
    network: Literal["fast", "slow"]
    """fast: within a TPU slice (ICI) or a node of GPUs (NVLink). slow: between them (data-centre network)."""
    dtype: str
    """As f32, bf16."""
    group: int
    """Devices that take part together."""
    times: int
    """In a step."""
    bytes: int
    """That each device holds afterwards, over all times."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """Whether a step fits, and what it does where it fits."""

    topology: str
    """In its long form, as v5e:16x16."""
    compiled_for: str
    """What was compiled and by what, in words."""
    fits: bool
    needed: int
    """Bytes on each device; of the temporaries alone, where they alone are too much."""
    available: int
    """Bytes that programs have on each device."""
    seconds: float
    """That tracing and compiling took."""
    memory: Memory | None = None
    """None where it does not fit and the compiler said no more than `needed`."""
    exchanges: tuple[Exchange, ...] = ()
    gradient_dtype: str = ""
    """Type in which gradients are added up over devices, as f32; '' where one device needs no sum."""
    parts: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """The compiler's estimate, by part of the step ('vision attention', 'text mlp', 'loss', 'optimizer'): seconds, from
    the lowest to the highest reading. Empty where a compiler estimates nothing, as for GPUs."""
    lacks: str = ""
    """What failed beside the compilation and may succeed another time, in words; such an answer is not kept."""
