"""Weights straight to the devices of a mesh: all processes together read a file once, and none holds a whole tensor.

A file's layout is not ours (matrices are transposed, layers apart), so what a device will hold lies scattered over the
file. So each device first gets an equal run of rows of every tensor, as they lie in the file; a compiled program then
changes the layout and moves every part to where it belongs, over the devices' own network. Where parameters are
replicated, too, 64 hosts read one file and not 64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bioclip_jax.convert.names import Layout, Parameter, Shape, parameters_of, to_ours
from bioclip_jax.convert.orbax import OrbaxWeights
from bioclip_jax.convert.weights import FileWeights, Source, flatten, unflatten
from bioclip_jax.errors import UserError
from bioclip_jax.models import clip
from bioclip_jax.parallel.sharding import ShardingRules


def load_on_mesh(source: Source, mesh: Mesh, rules: ShardingRules | None = None) -> clip.Parameters:
    """A model's parameters in float32, placed as training places them. Every process of the mesh calls it.

    Args:
        source: an opened model; every process sees the same files.
        mesh: the devices, of all processes.
        rules: which dimension lies along which axis of the mesh.

    Raises:
        UserError: numbers that are not finite, or files that cannot be read.
    """
    _, shapes, axes = clip.abstract(source.config)
    shardings: dict[str, NamedSharding] = flatten((rules or ShardingRules()).tree(mesh, axes, shapes))
    if isinstance(source.weights, OrbaxWeights):
        parameters = flatten(source.weights.load(shardings, jnp.float32))
        finite = {path: _is_finite(leaf) for path, leaf in parameters.items()}
    elif isinstance(source.weights, FileWeights):
        parameters, finite = {}, {}
        for parameter in parameters_of(source.config):
            path = parameter.path
            parameters[path], finite[path] = _load(source.weights, parameter, mesh, shardings[path])
    else:
        raise TypeError(f"{type(source.weights).__name__} lies in memory; place it with jax.device_put")
    bad = [path for path, value in jax.device_get(finite).items() if not value]
    if bad:
        raise UserError(f"{source.where}: NaN or infinity in {', '.join(bad)}; these weights are damaged")
    return unflatten(parameters)


def rows_sharding(mesh: Mesh, shape: Shape) -> NamedSharding:
    """How the devices share the reading of stacked tensors [layers, rows, ...] of a file: equally, by rows.

    Where the rows do not divide, another dimension is shared, and what is small and odd is read by all.
    """
    spec: list[Any] = [None] * len(shape)
    for axis in range(1, len(shape)):
        if shape[axis] % mesh.size == 0:
            spec[axis] = mesh.axis_names
            break
    return NamedSharding(mesh, PartitionSpec(*spec))


@lru_cache(maxsize=256)
def layout_program(layout: Layout, is_stacked: bool, target: NamedSharding) -> Callable[[jax.Array], Any]:
    """The program from stacked rows of a file to a parameter on its devices, and whether all of it is finite."""

    def change(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        ours = to_ours(rows, layout, leading=1).astype(jnp.float32)
        return (ours if is_stacked else ours[0]), jnp.isfinite(ours).all()

    replicated = NamedSharding(target.mesh, PartitionSpec())
    return jax.jit(change, out_shardings=(target, replicated))


@jax.jit
def _is_finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _load(weights: FileWeights, parameter: Parameter, mesh: Mesh, target: NamedSharding) -> tuple[jax.Array, jax.Array]:
    layers = parameter.layer_indices()
    shape = (len(layers), *parameter.file_shape(weights.form))
    dtype = jnp.result_type(*{weights.dtype(parameter, layer) for layer in layers})

    def read(index: Any) -> np.ndarray:
        stack = np.empty([len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True)], dtype)
        rows = index[1] if len(index) > 1 else slice(None)
        for layer in layers:
            array = weights.read_rows(parameter, layer, rows.start or 0, rows.stop)
            stack[layer] = array[(slice(None), *index[2:])] if len(index) > 1 else array
        return stack

    rows = jax.make_array_from_callback(shape, rows_sharding(mesh, shape), read)
    program = layout_program(parameter.layouts[weights.form], parameter.layers is not None, target)
    return program(rows)
