"""Weights straight to the devices of a mesh: all processes together read a file once, and none holds a whole tensor.

A file's layout is not ours (matrices are transposed, layers apart), so what a device will hold lies scattered over the
file. So each device first gets an equal part of every tensor, as it lies in the file; a compiled program then changes
the layout and moves every part to where it belongs, over the devices' own network. Where parameters are replicated,
too, 64 hosts read one file and not 64 (if its sizes divide by the factors of the mesh: `share_dimensions`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bioclip_jax.convert.names import Layout, Parameter, Shape, parameters_of, to_ours
from bioclip_jax.convert.orbax import OrbaxWeights
from bioclip_jax.convert.tensors import listed
from bioclip_jax.convert.weights import FileWeights, Source, flatten, unflatten, widest
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.models import clip
from bioclip_jax.parallel.sharding import ShardingRules

Leading = Literal["layers", "one", "none"]
"""The first axis of an array as it is read: all layers, one layer where the parameter has none, or no such axis."""


def load_on_mesh(source: Source, mesh: Mesh, rules: ShardingRules | None = None) -> clip.Parameters:
    """A model's parameters in float32, placed as training places them. Every process of the mesh calls it.

    Args:
        source: an opened model; every process sees the same files.
        mesh: the devices, of all processes.
        rules: which dimension lies along which axis of the mesh; one that the mesh lacks splits nothing.

    Raises:
        UserError: numbers that are not finite, or files that cannot be read.
    """
    if not isinstance(mesh, Mesh):
        raise UsageError(
            f"mesh is a {type(mesh).__name__}; it has to be a jax.sharding.Mesh, as of parallel.mesh.make_mesh"
        )
    # `jax.make_mesh` gives Explicit axes unless told otherwise; the towers leave placement to the compiler.
    mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    _, shapes, axes = clip.abstract(source.config)
    targets: dict[str, NamedSharding] = flatten((rules or ShardingRules()).tree(mesh, axes, shapes))
    parameters, finite = {}, {}
    failures: list[UserError] = []
    for path, layout, leading, rows in _rows(source, targets, failures):
        program = layout_program(layout, leading, targets[path])
        # One at a time: memory holds one array twice and not all of them.
        parameters[path], finite[path] = jax.block_until_ready(program(rows))
    bad = [path for path, value in jax.device_get(finite).items() if not value]
    if failures:
        raise failures[0]
    if bad:
        raise UserError(
            f"{source.where}: NaN or infinity in {listed(bad)}, or another process could not read the file; "
            "its own message says"
        )
    return unflatten(parameters)


def share_dimensions(shape: Shape, axes: Mapping[str, int], *, has_layers: bool = True) -> list[tuple[str, ...]]:
    """For each dimension of an array the axes of a mesh over which it is split when it is read, if sizes divide.

    Each axis in turn is given to the first dimension that it divides. Rows, which lie together in a file, come before
    columns, and a leading axis of layers (`has_layers`) comes last. An axis that divides nothing is left out: its
    devices read the same.
    """
    dimensions = [*range(1, len(shape)), 0] if has_layers and shape else range(len(shape))
    shares: list[int] = [1] * len(shape)
    names: list[list[str]] = [[] for _ in shape]
    for name, size in axes.items():
        for dimension in dimensions:
            if shape[dimension] % (shares[dimension] * size) == 0:
                shares[dimension] *= size
                names[dimension].append(name)
                break
    return [tuple(axes) for axes in names]


def factored(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The prime factors of each axis: 512 devices in a row divide less than nine times two do."""
    factors: dict[str, tuple[int, ...]] = {}
    for name, size in sizes.items():
        primes, divisor = [], 2
        while size > 1:
            while size % divisor == 0:
                primes.append(divisor)
                size //= divisor
            divisor += 1
        factors[name] = tuple(primes)
    return factors


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How an array is read whose place in the end is `target`: on the same devices, their mesh in prime factors."""

    target: NamedSharding
    has_layers: bool

    def first(self, shape: Shape) -> NamedSharding:
        """Every device has an equal part."""
        return self._sharding(share_dimensions(shape, self._axes(), has_layers=self.has_layers))

    def gathered(self, shape: Shape) -> NamedSharding:
        """Devices that will hold the same of `target` have the same: each the parts of all of them."""
        kept = [
            tuple(n for n in names if n in self._kept())
            for names in share_dimensions(shape, self._axes(), has_layers=self.has_layers)
        ]
        return self._sharding(kept)

    def _axes(self) -> dict[str, int]:
        """Factors, those first over which `target` is split."""
        sizes = {f"{n}.{i}": f for n, fs in factored(self.target.mesh.shape).items() for i, f in enumerate(fs)}
        return dict(sorted(sizes.items(), key=lambda item: item[0] not in self._kept()))

    def _kept(self) -> set[str]:
        used = {n for part in self.target.spec if part for n in ((part,) if isinstance(part, str) else part)}
        return {f"{n}.{i}" for n, fs in factored(self.target.mesh.shape).items() if n in used for i in range(len(fs))}

    def _sharding(self, names: list[tuple[str, ...]]) -> NamedSharding:
        factors = factored(self.target.mesh.shape)
        axes = [f"{name}.{i}" for name, parts in factors.items() for i in range(len(parts))]
        devices = self.target.mesh.devices.reshape([size for parts in factors.values() for size in parts])
        mesh = Mesh(devices, axes, axis_types=(AxisType.Auto,) * len(axes))
        return NamedSharding(mesh, PartitionSpec(*(part or None for part in names)))


@lru_cache(maxsize=256)
def layout_program(layout: Layout, leading: Leading, target: NamedSharding) -> Callable[[jax.Array], Any]:
    """The program from an array as it was read to a parameter on its devices, and whether all of it is finite."""

    def change(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        # First each device gathers as much as it will hold, then these shares are exchanged. In one step the compiler,
        # for some meshes, gathers the whole array on every device.
        reading = _Reading(target, leading != "none")
        rows = jax.lax.with_sharding_constraint(rows, reading.gathered(rows.shape))
        ours = to_ours(rows, layout, leading=1).astype(jnp.float32)
        return (ours[0] if leading == "one" else ours), jnp.isfinite(ours).all()

    replicated = NamedSharding(target.mesh, PartitionSpec())
    return jax.jit(change, out_shardings=(target, replicated))


def reading_sharding(target: NamedSharding, shape: Shape, leading: Leading) -> NamedSharding:
    """How the devices share the reading of an array that `layout_program` brings to `target`."""
    return _Reading(target, leading != "none").first(shape)


def _rows(
    source: Source, targets: Mapping[str, NamedSharding], failures: list[UserError]
) -> Iterator[tuple[str, Layout, Leading, jax.Array]]:
    """(path, layout, its first axis, array) of every parameter as it is stored, shared among the devices."""
    weights = source.weights
    if isinstance(weights, OrbaxWeights):
        kinds: dict[str, Leading] = {path: "layers" if "/blocks/" in path else "none" for path in weights.structs}
        arrays = weights.load(
            {
                path: reading_sharding(targets[path], struct.shape, kinds[path])
                for path, struct in weights.structs.items()
            },
            jnp.float32,
        )
        for path, array in flatten(arrays).items():
            yield path, "same", kinds[path], array
    elif isinstance(weights, FileWeights):
        for parameter in parameters_of(source.config):
            kind: Leading = "one" if parameter.layers is None else "layers"
            shape = (len(parameter.layer_indices()), *parameter.file_shape(weights.form))
            dtype = jnp.result_type(widest(weights.dtype(parameter, layer) for layer in parameter.layer_indices()))
            read = partial(_read, weights, parameter, shape, dtype, failures)
            sharding = reading_sharding(targets[parameter.path], shape, kind)
            rows = jax.make_array_from_callback(shape, sharding, read)
            yield parameter.path, parameter.layouts[weights.form], kind, rows
    else:
        raise TypeError(f"{type(weights).__name__} lies in memory; place it with jax.device_put")


def _read(
    weights: FileWeights, parameter: Parameter, shape: Shape, dtype: Any, failures: list[UserError], index: Any
) -> np.ndarray:
    """The part `index` of stacked tensors as they lie in the file, [layers, rows, ...].

    A file that cannot be read is NaN here: the other processes then hear of it, where an exception would leave them
    waiting for this one.
    """
    layers, *rest = (range(size)[part] for part, size in zip(index, shape, strict=True))
    stack = np.empty([len(layers), *map(len, rest)], dtype)
    try:
        for i, layer in enumerate(layers):
            if rest:
                rows = weights.read_rows(parameter, layer, rest[0].start, rest[0].stop)
                stack[i] = rows[(slice(None), *index[2:])]
            else:
                stack[i] = weights.read(parameter, layer)
    except UserError as error:
        failures.append(error)
        stack.fill(np.nan)
    return stack
