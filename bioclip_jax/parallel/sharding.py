"""Logical axes to mesh axes: one frozen table, applied to any tree of arrays."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bioclip_jax.parallel.mesh import BATCH_AXES


@dataclasses.dataclass(frozen=True)
class ShardingRules:
    """Each field is a logical axis of some parameter; its value the mesh axis it is split over, None for whole."""

    embed: str | None = "fsdp"
    heads: str | None = None
    mlp: str | None = None
    joint: str | None = None
    vocab: str | None = None
    patch: str | None = None
    layers: str | None = None

    def sharding(self, mesh: Mesh, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> NamedSharding:
        """Where an array of logical `axes` and `shape` lies. A dimension that does not divide stays whole."""
        names = [getattr(self, axis) if axis else None for axis in axes]
        spec = [
            name if name in mesh.shape and size % mesh.shape[name] == 0 else None
            for name, size in zip(names, shape, strict=True)
        ]
        return NamedSharding(mesh, PartitionSpec(*spec))

    def tree(self, mesh: Mesh, axes: Any, shapes: Any) -> Any:
        """The same for a tree of shapes and the tree of their logical axes."""
        return jax.tree.map(lambda leaf, names: self.sharding(mesh, names, leaf.shape), shapes, axes)


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first dimension split over all devices."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def split_further(sharding: NamedSharding, leaf: Any, axis: str = "data") -> NamedSharding:
    """`sharding` of an array with its longest whole dimension split over `axis`, too, if one divides (ZeRO-1)."""
    spec = [*sharding.spec, *[None] * (len(leaf.shape) - len(sharding.spec))]
    parts = sharding.mesh.shape[axis]
    free = [place for place, name in enumerate(spec) if name is None and leaf.shape[place] % parts == 0]
    if not free or parts == 1:
        return sharding
    spec[max(free, key=lambda place: leaf.shape[place])] = axis
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def rows_here(sharding: NamedSharding, rows: int) -> list[int]:
    """Which of the first dimension's `rows` lie on this process's devices, ascending."""
    indices = sharding.addressable_devices_indices_map((rows,)).values()
    return sorted({row for index in indices if index is not None for row in range(*index[0].indices(rows))})
