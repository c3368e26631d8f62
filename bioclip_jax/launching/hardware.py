"""What a job runs on: TPU slices as GKE and Cloud TPU name them, or machines with GPUs.

Names and numbers are those of https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus,
https://cloud.google.com/tpu/docs/runtimes and https://cloud.google.com/tpu/docs/v5e (v5p, v6e, tpu7x likewise).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from bioclip_jax.errors import UsageError
from bioclip_jax.parallel.chips import CHIPS


@dataclasses.dataclass(frozen=True)
class _Generation:
    gke: str
    """Value of the node label cloud.google.com/gke-tpu-accelerator."""
    cloud: str
    """First part of Cloud TPU's name of a slice; '' where Cloud TPU's own interface does not have the generation."""
    xpk: str
    runtime: str
    """TPU software version for JAX."""
    cores: int
    """TensorCores of a chip, which some names count."""
    flat: bool
    """A torus of two dimensions, whose slices of up to 8 chips are one host; otherwise of three."""


_FLAT_SHAPES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_SMALL_SHAPES = ((2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4))
"""Of three dimensions; larger ones have multiples of 4, in ascending order."""
_GENERATIONS = {
    "v4": _Generation("tpu-v4-podslice", "v4", "v4", "tpu-ubuntu2204-base", 2, False),
    "v5e": _Generation("tpu-v5-lite-podslice", "v5litepod", "v5litepod", "v2-alpha-tpuv5-lite", 1, True),
    "v5p": _Generation("tpu-v5p-slice", "v5p", "v5p", "v2-alpha-tpuv5", 2, False),
    "v6e": _Generation("tpu-v6e-slice", "v6e", "v6e", "v2-alpha-tpuv6e", 1, True),
    "tpu7x": _Generation("tpu7x", "", "tpu7x", "", 2, False),
}


@dataclasses.dataclass(frozen=True)
class TpuSlices:
    """One or several TPU slices of one shape."""

    generation: str
    shape: tuple[int, ...]
    slices: int = 1
    kind: Literal["tpu"] = "tpu"

    def __post_init__(self) -> None:
        if self.generation not in _GENERATIONS:
            raise UsageError(f"no TPU is called {self.generation!r}; there are {', '.join(_GENERATIONS)}")
        if self._facts.flat:
            is_sold = self.shape in _FLAT_SHAPES
            known = ", ".join(map(_written, _FLAT_SHAPES))
        else:
            large = list(self.shape) == sorted(self.shape) and not any(size % 4 for size in self.shape)
            single_chip = self.generation == "tpu7x" and self.shape == (1, 1, 1)
            is_sold = self.shape in _SMALL_SHAPES or large or single_chip
            known = ", ".join(map(_written, _SMALL_SHAPES)) + ", and multiples of 4 in ascending order"
        if not is_sold:
            raise UsageError(f"--topology {self}: no such slice can be had; there are {known}")

    @property
    def _facts(self) -> _Generation:
        return _GENERATIONS[self.generation]

    @property
    def chips(self) -> int:
        """Of one slice."""
        return math.prod(self.shape)

    @property
    def chips_per_host(self) -> int:
        """4, or the whole slice where one host has it."""
        usual = CHIPS[self.generation].chips_per_host
        most = 8 if self._facts.flat else usual
        return self.chips if self.chips <= most else usual

    @property
    def hosts(self) -> int:
        """Of one slice."""
        return -(-self.chips // self.chips_per_host)

    @property
    def devices(self) -> int:
        """Over all slices, as JAX counts them."""
        return self.slices * self.devices_per_slice

    @property
    def devices_per_slice(self) -> int:
        """As JAX counts them."""
        return self.chips * CHIPS[self.generation].devices

    @property
    def gke_accelerator(self) -> str:
        """Value of cloud.google.com/gke-tpu-accelerator."""
        return self._facts.gke

    @property
    def gke_topology(self) -> str:
        """Value of cloud.google.com/gke-tpu-topology."""
        return _written(self.shape)

    @property
    def accelerator_type(self) -> str:
        """Cloud TPU's name of a slice, as v5litepod-256 or v5p-128.

        Raises:
            UsageError: Cloud TPU's interface does not have this generation, or means another shape by the name.
        """
        if not self._facts.cloud:
            raise UsageError(f"{self.generation} is on GKE only; launch it by gke-jobset or gke-xpk")
        name = self._name(self._facts.cloud)
        if not self._is_most_cubic:
            raise UsageError(f"--topology {self}: {name} is a slice of as many chips, but more cubic; use gke-jobset")
        return name

    @property
    def xpk_type(self) -> str:
        """xpk's name of a slice, by its shape where the number of chips means another one."""
        return self._name(self._facts.xpk) if self._is_most_cubic else f"{self._facts.xpk}-{self.gke_topology}"

    def _name(self, generation: str) -> str:
        return f"{generation}-{self.chips * self._facts.cores}"

    @property
    def _is_most_cubic(self) -> bool:
        """Of powers of two; of other numbers there is one shape each."""
        is_power = not self.chips & (self.chips - 1)
        return self._facts.flat or self.shape == (2, 2, 1) or not is_power or max(self.shape) <= 2 * min(self.shape)

    @property
    def runtime_version(self) -> str:
        """TPU software version for JAX."""
        return self._facts.runtime

    def __str__(self) -> str:
        return f"{self.slices}x" * (self.slices > 1) + f"{self.generation}:{self.gke_topology}"


def _written(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


@dataclasses.dataclass(frozen=True)
class Machines:
    """Machines of their own, with GPUs or with CPUs only."""

    nodes: int = 1
    gpus_per_node: int = 0
    """0: their CPUs are one device each, and so are those of a machine whose GPUs are not counted."""
    gpu: str = ""
    """Kind, as h100, where it is known."""
    kind: Literal["machines"] = "machines"

    def __post_init__(self) -> None:
        if self.nodes < 1 or self.gpus_per_node < 0:
            raise UsageError(f"--nodes is {self.nodes}, with {self.gpus_per_node} GPUs each; there has to be one node")

    @property
    def devices(self) -> int:
        """Over all machines."""
        return self.nodes * max(1, self.gpus_per_node)

    @property
    def devices_per_slice(self) -> int:
        """Of one machine: JAX takes a node of GPUs for a slice."""
        return max(1, self.gpus_per_node)

    def __str__(self) -> str:
        if not self.gpus_per_node:
            return "1 machine" if self.nodes == 1 else f"{self.nodes} machines"
        return f"{self.nodes}x{self.gpus_per_node} {self.gpu or 'GPU'}s"


Hardware = TpuSlices | Machines
