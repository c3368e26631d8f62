"""A model's weights wherever they lie, a parameter at a time: what every reader gives and every writer takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bioclip_jax.config import CLIPConfig, Preprocessing
from bioclip_jax.convert.names import Format, Parameter, Shape, expected_shapes, parameters_of, to_ours
from bioclip_jax.convert.tensors import DTYPES, Tensors, check_names, listed
from bioclip_jax.errors import UserError

MODEL_NAME = "model.json"
"""What a folder of `convert.orbax` is known by; here, because that module brings JAX."""


class Weights(Protocol):
    """Reads parameters in our layout."""

    def dtype(self, parameter: Parameter, layer: int = 0) -> np.dtype:
        """The type in which one layer of it is stored."""
        ...

    def name(self, parameter: Parameter, layer: int = 0) -> str:
        """What one layer of it is called where it is stored."""
        ...

    def read(self, parameter: Parameter, layer: int = 0) -> np.ndarray:
        """One layer of it, shape `parameter.shape`."""
        ...


@dataclass(frozen=True)
class Source:
    """A model on disk: what it is, and how to read it."""

    where: str
    """What the user calls it."""
    kind: str
    """What it is, in words."""
    config: CLIPConfig
    preprocessing: Preprocessing
    weights: Weights
    name: str
    """Without the way to it."""


class FileWeights:
    """Weights in somebody else's format."""

    def __init__(self, tensors: Tensors, form: Format, config: CLIPConfig, where: str):
        """Checks names, shapes and types.

        Raises:
            UserError: lists all that is missing, unexpected or of another shape.
        """
        check_names(tensors.specs, expected_shapes(config, form), form, where)
        self.tensors, self.form, self.where = tensors, form, where

    def dtype(self, parameter: Parameter, layer: int = 0) -> np.dtype:
        """See `Weights.dtype`."""
        return widest(DTYPES[self.tensors.specs[key].dtype] for key in parameter.keys(self.form, layer))

    def name(self, parameter: Parameter, layer: int = 0) -> str:
        """See `Weights.name`."""
        return " or ".join(parameter.keys(self.form, layer))

    def read(self, parameter: Parameter, layer: int = 0) -> np.ndarray:
        """See `Weights.read`."""
        rows = self.read_rows(parameter, layer).reshape(parameter.file_shape(self.form))
        return to_ours(rows, parameter.layouts[self.form])  # type: ignore[no-any-return]

    def read_rows(self, parameter: Parameter, layer: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Rows start .. stop - 1 of one layer, in the file's layout, its parts below one another."""
        keys = parameter.keys(self.form, layer)
        if len(keys) == 1:
            return self.tensors.read(keys[0], start, stop)
        part = self.tensors.specs[keys[0]].shape[0]
        start, stop, _ = slice(start, stop).indices(part * len(keys))
        pieces = [
            self.tensors.read(key, max(start - i * part, 0), min(stop - i * part, part))
            for i, key in enumerate(keys)
            if start < (i + 1) * part and i * part < stop
        ]
        dtype = self.dtype(parameter, layer)
        return np.concatenate([piece.astype(dtype, copy=False) for piece in pieces])


def widest(types: Iterable[np.dtype]) -> np.dtype:
    """The type that holds all of them exactly: float32 where float16 and bfloat16 meet."""
    different = set(types)
    if len(different) == 1:
        return different.pop()
    return DTYPES["float64" if DTYPES["float64"] in different else "float32"]


class TreeWeights:
    """Weights that are in memory already, as our nested dict of arrays."""

    def __init__(self, parameters: Any):
        """`parameters` as `models.clip.split` gives them."""
        self._leaves = flatten(parameters)

    def dtype(self, parameter: Parameter, layer: int = 0) -> np.dtype:
        """See `Weights.dtype`."""
        return np.dtype(self._leaves[parameter.path].dtype)

    def name(self, parameter: Parameter, layer: int = 0) -> str:
        """See `Weights.name`."""
        return parameter.path

    def read(self, parameter: Parameter, layer: int = 0) -> np.ndarray:
        """See `Weights.read`."""
        leaf = self._leaves[parameter.path]
        return np.asarray(leaf if parameter.layers is None else leaf[layer])


def layers_of(config: CLIPConfig) -> Iterator[tuple[Parameter, int]]:
    """Every layer of every parameter of a model."""
    for parameter in parameters_of(config):
        for layer in parameter.layer_indices():
            yield parameter, layer


class Cast:
    """Changes the type of arrays on their way, and remembers which are not finite."""

    def __init__(self, dtype: str | None = None, advance: Callable[[], None] = lambda: None):
        """`dtype`: a name of `DTYPES`, None keeps each array's own; `advance` is called for each array."""
        self.target, self.advance = (DTYPES[dtype] if dtype else None), advance
        self._not_finite: list[str] = []
        self._too_large: list[str] = []

    def __call__(self, array: np.ndarray, name: str) -> np.ndarray:
        """The array in the type asked for."""
        self.advance()
        is_finite = _finite(array)
        if not is_finite:
            self._not_finite.append(name)
        if self.target is not None and array.dtype != self.target:
            with np.errstate(over="ignore", invalid="ignore"):
                array = array.astype(self.target)
            if is_finite and not _finite(array):
                self._too_large.append(name)
        return array

    def check(self, where: str) -> None:
        """Raises UserError where any array that came through was not finite; the message names all of them."""
        if self._not_finite:
            raise UserError(f"{where}: NaN or infinity in {listed(self._not_finite)}; these weights are damaged")
        if self._too_large:
            instead = "bfloat16 or float32" if self.target == DTYPES["float16"] else "the weights' own type"
            raise UserError(
                f"{where}: values in {listed(self._too_large)} are too large for {self.target}; use {instead}"
            )


def _finite(array: np.ndarray) -> bool:
    # A sum is not finite if an addend is not, and needs no second array; that it overflows is rare and then looked at.
    if array.dtype in (np.float32, np.float64):
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(array.sum()) or np.isfinite(array).all())
    exponent = np.uint16(0x7C00 if array.dtype == np.float16 else 0x7F80)  # all ones: NaN or infinity
    bits = array.view(np.uint16) if array.ndim else array.reshape(1).view(np.uint16)
    return not ((bits & exponent) == exponent).any()


def read_tree(source: Source, cast: Cast, place: Callable[[np.ndarray], Any] = lambda array: array) -> dict[str, Any]:
    """All parameters as our nested dict of arrays; each goes through `place` as soon as it is read.

    Raises:
        UserError: numbers that are not finite, or files that cannot be read.
    """
    flat = {}
    for parameter in parameters_of(source.config):
        if parameter.layers is None:
            array = np.array(cast(source.weights.read(parameter), source.weights.name(parameter)), order="C")
        else:
            types = {source.weights.dtype(parameter, layer) for layer in parameter.layer_indices()}
            array = np.empty(parameter.full_shape, cast.target or widest(types))
            for layer in parameter.layer_indices():
                name = source.weights.name(parameter, layer)
                array[layer] = cast(source.weights.read(parameter, layer), name)
        flat[parameter.path] = place(array)
    cast.check(source.where)
    return unflatten(flat)


def write_all(source: Source, cast: Cast, write: Callable[[Parameter, int, np.ndarray], None]) -> None:
    """Hands every layer of every parameter to `write`, in our layout.

    Raises:
        UserError: numbers that are not finite, or files that cannot be read.
    """
    for parameter, layer in layers_of(source.config):
        write(parameter, layer, cast(source.weights.read(parameter, layer), source.weights.name(parameter, layer)))
    cast.check(source.where)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A nested dict as {path: leaf}."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(flatten(value, path + "/") if isinstance(value, dict) else {path: value})
    return flat


def unflatten(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def shapes_of(config: CLIPConfig) -> dict[str, Shape]:
    """Our full shape of every parameter, by path."""
    return {parameter.path: parameter.full_shape for parameter in parameters_of(config)}
