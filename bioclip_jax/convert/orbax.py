"""Our own folders: `model.json` (shape and preprocessing) beside the weights in Orbax's format, under `weights/`.

What an Orbax checkpoint holds, of such a folder or of a training run, is read one parameter at a time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bioclip_jax.checkpoints import describe_tree, first_line, load_tree, save_tree
from bioclip_jax.config import CLIPConfig, Preprocessing
from bioclip_jax.config_json import from_dict
from bioclip_jax.convert.names import Parameter
from bioclip_jax.convert.safetensors_files import read_json
from bioclip_jax.convert.weights import MODEL_NAME, Cast, Source, flatten, read_tree, shapes_of, unflatten
from bioclip_jax.errors import UserError

WEIGHTS_FOLDER = "weights"
VERSION = 1
PARAMETERS = "parameters"
NOT_OF_THE_MODEL = ("species",)
"""What training keeps among the parameters beside the model: the head of a flat classifier."""


class OrbaxWeights:
    """The parameters in an Orbax checkpoint, one in memory at a time."""

    def __init__(self, checkpoint: Path, config: CLIPConfig, where: str, key: str = PARAMETERS):
        """Checks names and shapes.

        Args:
            checkpoint: its folder.
            config: the model's shape.
            where: what the user calls it.
            key: the part of the checkpoint that holds them.

        Raises:
            UserError: it is no checkpoint, or of another model.
        """
        self.checkpoint, self._key = checkpoint, key
        tree = describe_tree(checkpoint)
        part = (tree.get(key) or {}) if isinstance(tree, dict) else {}
        self.structs = flatten({name: value for name, value in part.items() if name not in NOT_OF_THE_MODEL})
        if not self.structs:
            raise UserError(f"{where}: not a readable checkpoint (it holds no {key})")
        expected = shapes_of(config)
        faults = [
            f"{path} is {list(self.structs[path].shape) if path in self.structs else 'missing'}, not {list(shape)}"
            for path, shape in expected.items()
            if path not in self.structs or self.structs[path].shape != shape
        ]
        faults += [f"{path} is unexpected" for path in self.structs if path not in expected]
        if faults:
            raise UserError(f"{where}: not the weights of the model in the config: {'; '.join(faults)}")
        self._held: tuple[str, np.ndarray] | None = None

    def dtype(self, parameter: Parameter, layer: int = 0) -> np.dtype:
        """See `Weights.dtype`."""
        return np.dtype(self.structs[parameter.path].dtype)

    def name(self, parameter: Parameter, layer: int = 0) -> str:
        """See `Weights.name`."""
        return parameter.path

    def read(self, parameter: Parameter, layer: int = 0) -> np.ndarray:
        """See `Weights.read`."""
        if self._held is None or self._held[0] != parameter.path:
            self._held = None  # before the next one is read
            tree = unflatten({parameter.path: self.structs[parameter.path]})
            leaf = flatten(load_tree(self.checkpoint, {self._key: tree})[self._key])[parameter.path]
            self._held = (parameter.path, np.asarray(leaf))
        array = self._held[1]
        return array if parameter.layers is None else array[layer]  # type: ignore[no-any-return]

    def load(self, shardings: Mapping[str, jax.sharding.Sharding], dtype: Any) -> dict[str, Any]:
        """All parameters as our nested dict of JAX arrays, each process reading what its devices hold."""
        structs = {
            path: jax.ShapeDtypeStruct(struct.shape, dtype, sharding=shardings[path])
            for path, struct in self.structs.items()
        }
        return load_tree(self.checkpoint, {self._key: unflatten(structs)})[self._key]  # type: ignore[no-any-return]


def open_source(folder: Path) -> Source:
    """A folder that `save` wrote.

    Raises:
        UserError: a file is missing or damaged.
    """
    path = folder / MODEL_NAME
    description = read_json(path)
    if description.get("version") != VERSION:
        raise UserError(f"{path}: version is {description.get('version')!r}; this program reads {VERSION}")
    try:
        config = from_dict(CLIPConfig, description["model"])
        preprocess = from_dict(Preprocessing, description["preprocessing"])
    except (KeyError, TypeError, ValueError, UserError) as error:
        raise UserError(f"{path}: cannot be read as a model's description ({first_line(error)})") from None
    weights = OrbaxWeights((folder / WEIGHTS_FOLDER).resolve(), config, str(folder))
    return Source(str(folder), "an Orbax folder", config, preprocess, weights, folder.name)


def save(folder: Path, source: Source, cast: Cast) -> None:
    """Writes a model into a folder that is there and empty.

    Raises:
        UserError: numbers that are not finite.
        OSError: it cannot be written.
    """
    tree = {PARAMETERS: read_tree(source, cast)}
    try:
        save_tree(folder / WEIGHTS_FOLDER, tree)
    except Exception as error:  # of Orbax's own, TensorStore's or the system
        raise UserError(f"the weights cannot be written ({first_line(error)})") from None
    description = {
        "version": VERSION,
        "model": dataclasses.asdict(source.config),
        "preprocessing": dataclasses.asdict(source.preprocessing),
    }
    (folder / MODEL_NAME).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
