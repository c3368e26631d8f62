"""Devices that are not here: TPU slices or nodes of GPUs, by the names that their makers or users give them.

Needs the compiler (`jax[tpu]`, or the CUDA plugin without NVIDIA's libraries) and no device of its kind. Tracing runs
on this machine's CPU.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Sequence
from typing import Any

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.planning import gpus
from bioclip_jax.planning.chips import CHIPS, Chip, nearest_first

GENERATIONS = tuple(name for name, chip in CHIPS.items() if chip.vendor == "google")
GPUS = tuple(name for name, chip in CHIPS.items() if chip.vendor == "nvidia")
_FLAT = ("v5e", "v6e")  # a torus of two dimensions; the others' have three
_CORES_PER_CHIP = {"v4": 2, "v5p": 2}  # v5p-128 counts TensorCores; v5e-256 counts chips
_LARGEST_FLAT = 256
_MOST_SLICES, _MOST_CHIPS = 1024, 131_072
_LONGEST_NAME = 40
_TPU_NAME = re.compile(rf"(?:(\d+)x)?({'|'.join(GENERATIONS)})(?::(\d+(?:x\d+)+)|-(\d+))")
_GPU_NAME = re.compile(rf"({'|'.join(GPUS)})x(\d+)")
_EXAMPLES = "as v5e-256, v5p:4x4x4, 2xv6e-64 (two slices) or h100x32 (four nodes of 8)"


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several TPU slices of the same shape, or nodes of GPUs."""

    generation: str
    """The chip's name, as v5e or h100."""
    shape: tuple[int, ...]
    """Chips along each dimension of a slice; of GPUs, those of a node."""
    slices: int = 1
    """Of TPUs; of GPUs, nodes. Chips of one have a fast network among themselves."""

    @property
    def chip(self) -> Chip:
        """Its public figures."""
        return CHIPS[self.generation]

    @property
    def is_gpu(self) -> bool:
        """Whether these are nodes of GPUs."""
        return self.chip.vendor == "nvidia"

    @property
    def chips(self) -> int:
        """Over all slices or nodes."""
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """The same as JAX counts them."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Machines, with a process or more each. v5e and v6e have machines of 8 chips for slices of 2x4, else of 4."""
        each = math.prod(self.shape)
        single = self.is_gpu or each <= self.chip.chips_per_host or (self.generation in _FLAT and self.shape == (2, 4))
        return self.slices * (1 if single else -(-each // self.chip.chips_per_host))

    def __str__(self) -> str:
        if self.is_gpu:
            return f"{self.generation}x{self.chips}"
        return f"{self.slices}x" * (self.slices > 1) + f"{self.generation}:{'x'.join(map(str, self.shape))}"


def parse(name: str) -> Topology:
    """`v5e:16x16` by its shape, `v5e-256` or `v5p-128` by Cloud TPU's name, `2x` before it for two slices; `h100x32`
    for 32 GPUs, in nodes of 8.

    Raises:
        UsageError: not such a name, or a number of chips that there is not.
    """
    if len(name) > _LONGEST_NAME:
        raise UsageError(f"topology {name[:_LONGEST_NAME]!r}...: expected one {_EXAMPLES}")
    if found := _GPU_NAME.fullmatch(name):
        topology = _nodes(name, found[1], int(found[2]))
    elif found := _TPU_NAME.fullmatch(name):
        topology = _slices(name, *found.groups())
    else:
        word = re.sub(r"^\d+x(?=[a-z])", "", name.lower())
        word = re.split(r"[:-](?!\d+x)|x\d", word)[0] if word not in CHIPS else word
        raise UsageError(f"topology {name!r}: expected one {_EXAMPLES}; chips: {', '.join(nearest_first(word))}")
    if topology.chips > _MOST_CHIPS or topology.slices > _MOST_SLICES:
        raise UsageError(f"topology {name!r}: {topology.chips:,} chips are more than there are in one place")
    return topology


def _nodes(name: str, generation: str, count: int) -> Topology:
    """GPUs in whole nodes, or some of one node."""
    each = CHIPS[generation].chips_per_host
    if count < 1 or (count > each and count % each):
        raise UsageError(f"topology {name!r}: a number of GPUs up to {each}, or a multiple of {each}")
    return Topology(generation, (min(count, each),), max(1, count // each))


def _slices(name: str, slices: str, generation: str, shape: str, count: str) -> Topology:
    if shape:
        sizes = tuple(int(size) for size in shape.split("x"))
        if len(sizes) != (2 if generation in _FLAT else 3) or 0 in sizes:
            dimensions = "two" if generation in _FLAT else "three"
            raise UsageError(f"topology {name!r}: {generation} slices have {dimensions} dimensions, none of them 0")
    else:
        sizes = _shape_of(name, generation, int(count))
    if slices and not int(slices):
        raise UsageError(f"topology {name!r}: there has to be at least one slice")
    return Topology(generation, sizes, int(slices or 1))


def _shape_of(name: str, generation: str, count: int) -> tuple[int, ...]:
    """The most cubic shape of powers of two, as Cloud TPU has them: 16 chips are 4x4 or 2x2x4."""
    chips, rest = divmod(count, _CORES_PER_CHIP.get(generation, 1))
    if rest or chips < 1 or chips & (chips - 1) or (generation in _FLAT and chips > _LARGEST_FLAT):
        raise UsageError(f"topology {name!r}: there is no such slice; name its shape, as {generation}:2x4")
    sizes = [1] * (2 if generation in _FLAT else 3)
    while chips > 1:
        smallest = len(sizes) - 1 - sizes[::-1].index(min(sizes))
        sizes[smallest] *= 2
        chips //= 2
    return tuple(sorted(sizes, key=lambda size: (size == 1, size)))


def devices(topology: Topology) -> Sequence[Any]:
    """Its devices, to make a mesh of. Nothing can be computed on them; programs can be compiled for them.

    Raises:
        UserError: the compiler is not installed, or has no such topology.
    """
    if topology.is_gpu:
        return gpus.devices(topology.chip, nodes=topology.slices, each=topology.shape[0])
    _prepare()
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": topology.slices} if topology.slices > 1 else {}
    if topology.generation == "v4":
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1)}
    elif topology.chips == topology.slices:
        options |= {"chips_per_host_bounds": (1, 1, 1)}
    shape = f"{topology.generation}:{'x'.join(map(str, topology.shape))}"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=shape, **options).devices
    except RuntimeError as error:  # JAX has several kinds of it here
        reason = str(error).splitlines()[0]
        if "not installed" in reason:
            reason = "the compiler for TPUs is not installed; pip install 'bioclip-jax[tpu]' (x86 Linux only)"
        raise UserError(f"topology {topology}: {reason}") from None


def _prepare() -> None:
    # Several processes may compile at once, and nothing here asks a cloud's metadata server which machine this is.
    for name, value in {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_SKIP_MDS_QUERY": "1"}.items():
        os.environ.setdefault(name, value)
