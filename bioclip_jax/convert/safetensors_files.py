"""Safetensors files, read and written a tensor at a time, so that memory holds one of them and not the model.

The format: eight bytes little-endian length, a JSON header of {name: {dtype, shape, data_offsets}}, the tensors' bytes
(github.com/huggingface/safetensors). The published package reads and writes whole models (or maps the file into
memory, which counts as memory too). A file written here is byte for byte what it would have written.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bioclip_jax.convert.tensors import DTYPES, Spec
from bioclip_jax.errors import UserError

INDEX_SUFFIX = ".index.json"
MAX_HEADER_BYTES = 100_000_000
"""The published package's own limit."""

_NAMES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
_CODES = {name: code for code, name in _NAMES.items()}


@dataclass(frozen=True)
class _Place:
    path: Path
    begin: int


class SafetensorsFiles:
    """The tensors of one file, or of several named by an index; only headers are read at first."""

    def __init__(self, path: Path):
        """`path`: a .safetensors file, or a model.safetensors.index.json whose files lie beside it.

        Raises:
            UserError: a file is missing, truncated or damaged, or the index names a file outside its folder.
        """
        self.path = path
        self.specs: dict[str, Spec] = {}
        self._places: dict[str, _Place] = {}
        if path.name.endswith(INDEX_SUFFIX):
            self._open_index(path)
        else:
            self._open(path)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """See `Tensors.read`."""
        spec, place = self.specs[key], self._places[key]
        rows = spec.shape[0] if spec.shape else 1
        start, stop, _ = slice(start, stop).indices(rows)
        array = np.empty((stop - start, *spec.shape[1:]) if spec.shape else (), DTYPES[spec.dtype])
        row_bytes = DTYPES[spec.dtype].itemsize * math.prod(spec.shape[1:])
        view = array.reshape(-1).view(np.uint8).data
        try:
            with place.path.open("rb", buffering=0) as file:
                file.seek(place.begin + start * row_bytes)
                _read_into(file, view, place.path)
        except OSError as error:
            raise UserError(f"{place.path}: cannot be read ({error.strerror})") from None
        return array

    def _open(self, path: Path) -> None:
        specs, begins = _read_header(path)
        twice = self.specs.keys() & specs.keys()
        if twice:
            raise UserError(f"{path}: tensor {min(twice)!r} is also in another file of {self.path.name}")
        self.specs |= specs
        self._places |= {key: _Place(path, begin) for key, begin in begins.items()}

    def _open_index(self, path: Path) -> None:
        index = read_json(path)
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise UserError(f"{path}: there is no weight_map that names a file for each tensor")
        for name in sorted(set(weight_map.values())):
            if name in (".", "..") or Path(name).name != name:
                raise UserError(f"{path}: names the file {name!r}, which is not in its own folder")
            self._open(path.parent / name)
        wrong = [
            key for key, name in weight_map.items() if key not in self.specs or self._places[key].path.name != name
        ]
        if wrong or len(weight_map) != len(self.specs):
            example = wrong[0] if wrong else min(self.specs.keys() - weight_map.keys())
            raise UserError(f"{path}: disagrees with its files, about the tensor {example!r} for one")


def _read_into(file: BinaryIO, view: memoryview, path: Path) -> None:
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + 2**30])  # type: ignore[attr-defined]  # Linux reads 2 GiB at most
        if not count:
            raise UserError(f"{path}: ends early; it has changed since it was opened, or is truncated")
        done += count


def _read_header(path: Path) -> tuple[dict[str, Spec], dict[str, int]]:
    """Specs, and where in the file each tensor begins."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise UserError(f"{path}: not a safetensors file, or truncated within its header ({size} bytes)")
            header = json.loads(file.read(length))
        return _parse_header(header, 8 + length, size, path)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{path}: not a safetensors file (its header is damaged)") from None


def _parse_header(header: dict[str, Any], data: int, size: int, path: Path) -> tuple[dict[str, Spec], dict[str, int]]:
    specs, begins, spans = {}, {}, []
    for key, entry in header.items():
        if key == "__metadata__":
            continue
        code, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
            raise ValueError
        name = _NAMES.get(code, code)
        if name in DTYPES and math.prod(shape) * DTYPES[name].itemsize != end - begin:
            raise ValueError
        specs[key], begins[key] = Spec(name, shape), data + begin
        spans.append((begin, end))
    expected = 0
    for begin, end in sorted(spans):
        if begin != expected or end < begin:
            raise ValueError
        expected = end
    if data + expected != size:
        raise UserError(f"{path}: truncated: its header promises {data + expected} bytes and it has {size}")
    return specs, begins


class SafetensorsWriter:
    """Writes one file whose tensors are known beforehand and come in any order."""

    def __init__(self, path: Path, specs: Mapping[str, Spec]):
        """Creates the file with its header."""
        # The package's order: wider types first, which keeps each aligned, then by name.
        order = sorted(specs, key=lambda key: (-DTYPES[specs[key].dtype].itemsize, _CODES[specs[key].dtype], key))
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        self._begins, offset = {}, 0
        for key in order:
            spec = specs[key]
            self._begins[key] = offset
            offset += math.prod(spec.shape) * DTYPES[spec.dtype].itemsize
            entry = {"dtype": _CODES[spec.dtype], "shape": spec.shape, "data_offsets": [self._begins[key], offset]}
            header[key] = entry
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        self._specs, self._data = specs, 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def write(self, key: str, array: np.ndarray) -> None:
        """The bytes of one tensor."""
        spec = self._specs[key]
        if array.shape != spec.shape or array.dtype != DTYPES[spec.dtype]:
            raise ValueError(f"{key}: {array.dtype} {array.shape} is not what the header promises")
        self._file.seek(self._data + self._begins[key])
        self._file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        """Ends the file."""
        self._file.close()


class ShardedWriter:
    """One `model.safetensors`, or several with an index where they would be larger than `shard_bytes`."""

    def __init__(self, folder: Path, stem: str, specs: Mapping[str, Spec], shard_bytes: int):
        """`stem`: name of the file without its ending."""
        shards = list(_shards(specs, shard_bytes))
        count = len(shards)
        names = [f"{stem}-{i:05}-of-{count:05}" if count > 1 else stem for i in range(1, count + 1)]
        self.names = [f"{name}.safetensors" for name in names]
        self._writers: dict[str, SafetensorsWriter] = {}
        self._open = []
        for name, keys in zip(self.names, shards, strict=True):
            writer = SafetensorsWriter(folder / name, {key: specs[key] for key in keys})
            self._open.append(writer)
            self._writers |= dict.fromkeys(keys, writer)
        if count > 1:
            total = {
                "total_parameters": sum(math.prod(spec.shape) for spec in specs.values()),
                "total_size": sum(math.prod(spec.shape) * DTYPES[spec.dtype].itemsize for spec in specs.values()),
            }
            weight_map = {key: name for name, keys in zip(self.names, shards, strict=True) for key in keys}
            index = {"metadata": total, "weight_map": dict(sorted(weight_map.items()))}
            (folder / f"{stem}.safetensors{INDEX_SUFFIX}").write_text(json.dumps(index, indent=2), encoding="utf-8")

    def write(self, key: str, array: np.ndarray) -> None:
        """The bytes of one tensor."""
        self._writers[key].write(key, array)

    def close(self) -> None:
        """Ends the files."""
        for writer in self._open:
            writer.close()


def _shards(specs: Mapping[str, Spec], shard_bytes: int) -> Iterable[list[str]]:
    keys: list[str] = []
    held = 0
    for key, spec in specs.items():
        size = math.prod(spec.shape) * DTYPES[spec.dtype].itemsize
        if keys and held + size > shard_bytes:
            yield keys
            keys, held = [], 0
        keys.append(key)
        held += size
    yield keys


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({getattr(error, 'strerror', None) or error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
