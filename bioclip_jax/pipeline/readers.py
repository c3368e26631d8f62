"""Random access to the records of a dataset: a directory of shards, or a recipe that makes them when asked."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from array_record.python.array_record_data_source import ArrayRecordDataSource

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.manifest import Manifest, ShardFile, read_manifest
from bioclip_jax.pipeline.record import Record, RecordSource
from bioclip_jax.pipeline.shards import decode_example
from bioclip_jax.recipes import builtin_recipes, check_arguments, is_bare_name, load_recipe


@dataclass(frozen=True)
class _Instruction:
    """What `ArrayRecordDataSource` wants to know of a file so as not to open it before it is read."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


class ShardedSource:
    """The records of one split of a dataset directory.

    Safe to use from many threads; it can be pickled, and opens each file when a record in it is first asked for.
    """

    def __init__(self, directory: str | os.PathLike[str], files: Sequence[ShardFile]):
        self._paths = [str(Path(directory) / file.name) for file in files]
        self._records = [file.records for file in files]
        full = [_Instruction(path, 0, n, n) for path, n in zip(self._paths, self._records, strict=True) if n]
        self._source = ArrayRecordDataSource(full) if full else ()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, from 0 to `len(self) - 1`.

        Raises:
          IndexError: there is no such place.
          UserError: the file is gone or damaged there.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        try:
            return decode_example(self._source[index])
        except (RuntimeError, OSError, ValueError, IndexError) as error:
            path = self._path_of(index)
            raise UserError(f"{path} cannot be read ({error}); see `bioclip-jax data verify`") from error

    def _path_of(self, index: int) -> str:
        for path, records in zip(self._paths, self._records, strict=True):
            if index < records:
                return path
            index -= records
        raise IndexError(index)


def open_directory(directory: str | os.PathLike[str], manifest: Manifest | None = None) -> dict[str, ShardedSource]:
    """Opens a dataset directory; the splits by name.

    Raises:
      UsageError: this is not a dataset directory.
      UserError: it is damaged or unfinished.
    """
    manifest = manifest or read_manifest(directory)
    return {split: ShardedSource(directory, files) for split, files in manifest.splits.items()}


def is_recipe(path_or_recipe: str) -> bool:
    """Whether this is a data recipe (a built-in name or a Python file) rather than a dataset directory."""
    if is_bare_name(path_or_recipe):
        return path_or_recipe in builtin_recipes("data")
    return path_or_recipe.endswith(".py")


def open_dataset(
    path_or_recipe: str | os.PathLike[str], arguments: Mapping[str, Any] | None = None
) -> Mapping[str, RecordSource]:
    """Opens a dataset directory, or calls the `source` of a data recipe; returns the source of each split by name.

    Args:
      path_or_recipe: a dataset directory, the path of a recipe, or the name of a built-in recipe (which goes before a
        directory of that name; write './NAME' for the directory).
      arguments: keyword arguments of the recipe's `source`; a directory takes none.

    Raises:
      UsageError: there is no such dataset, or the arguments are wrong.
      UserError: the dataset is damaged or unfinished.
    """
    name, arguments = os.fspath(path_or_recipe), dict(arguments or {})
    if not is_recipe(name):
        if arguments:
            raise UsageError(f"dataset {name} is not a recipe, so it takes no arguments (got {', '.join(arguments)})")
        if is_bare_name(name) and not Path(name).exists():
            names = ", ".join(builtin_recipes("data")) or "none"
            raise UsageError(f"no dataset directory or data recipe is called {name!r}; built-in recipes: {names}")
        return open_directory(Path(name).expanduser())
    source = load_recipe("data", name).source
    check_arguments(source, arguments, name)
    return check_splits(source(**arguments), name)


def check_splits(splits: Any, recipe: str) -> dict[str, RecordSource]:
    """What a data recipe's `source` returned; raises `UsageError` unless it is split names and their records."""
    if not isinstance(splits, Mapping) or not splits:
        raise UsageError(
            f"data recipe {recipe}: `source` must return a dict, split name to records, not {splits!r:.80}"
        )
    for split, source in splits.items():
        if not isinstance(split, str) or not hasattr(source, "__len__") or not hasattr(source, "__getitem__"):
            raise UsageError(f"data recipe {recipe}: split {split!r} has no random access to its records (len and [i])")
    return dict(splits)
