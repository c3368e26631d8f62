"""Random access to the records of a dataset: a directory of shards, or a recipe that makes them when asked."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.descriptors import file_limit
from bioclip_jax.pipeline.file_cache import FileCache, files_folder
from bioclip_jax.pipeline.manifest import ShardFile, read_manifest
from bioclip_jax.pipeline.names import TFDS_PREFIX, is_recipe
from bioclip_jax.pipeline.record import BadRecord, Record, RecordSource
from bioclip_jax.pipeline.shards import decode_example
from bioclip_jax.pipeline.storage import is_remote, join
from bioclip_jax.recipes import builtin_recipes, call_recipe, check_arguments, is_bare_name, load_recipe

DAMAGED = "damaged file"
"""How the reason begins why a record cannot be read where its file cannot."""
_MOST_OPEN = 1024
_IN_MEMORY = 2**25
"""Where open files may hold more records, the offsets of records (8 bytes each) stay on disk, at one more read each."""


class ShardedSource:
    """The records of one split of a dataset directory.

    Safe to use from many threads; it can be pickled. A file is opened when a record in it is first asked for, and at
    most 1,024 stay open, or a quarter of the file descriptors that the process may have.

    Args:
      directory: where the files lie, also gs:// or s3://.
      files: of the split.
      cache: for remote files, which are copied there whole when they are first asked for.
    """

    def __init__(self, directory: str | os.PathLike[str], files: Sequence[ShardFile], cache: FileCache | None = None):
        full = [file for file in files if file.records]
        self._cache = cache or FileCache(files_folder())
        self._paths = [join(os.fspath(directory), file.name) for file in full]
        self._ends = list(accumulate(file.records for file in full))
        self._largest = max((file.records for file in full), default=0)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, ArrayRecordReader] = OrderedDict()
        self._most_open = file_limit(_MOST_OPEN, 4)
        held = self._largest * min(self._most_open, len(self._paths))
        index = "in_memory" if held <= _IN_MEMORY else "offloaded,footer_prefetch_bytes:0"
        self._options = f"readahead_buffer_size:0,index_storage_option:{index}"

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, from 0 to `len(self) - 1`.

        Raises:
          IndexError: there is no such place.
          BadRecord: the file is damaged there.
          UserError: the file is gone or cannot be opened.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        file = bisect_right(self._ends, index)
        row = index - (self._ends[file - 1] if file else 0)
        reader = self._opened(file)
        try:
            return decode_example(reader.read(row, row + 1)[0])  # half the time of `read([row])`
        except (RuntimeError, ValueError, IndexError) as error:
            path = self._paths[file]
            if not is_remote(path) and not os.path.exists(path):  # noqa: PTH110
                raise UserError(f"{path} is gone; see `bioclip-jax data verify`") from error
            raise BadRecord(f"{os.path.basename(path)} record {row}", f"{DAMAGED}: {error}") from error  # noqa: PTH119

    def _opened(self, file: int) -> ArrayRecordReader:
        with self._lock:
            if (found := self._open.get(file)) is not None:
                self._open.move_to_end(file)
                return found
        try:
            opened = ArrayRecordReader(str(self._cache.local(self._paths[file])), self._options)
        except (RuntimeError, ValueError) as error:
            raise UserError(f"{self._paths[file]} cannot be read ({error}); see `bioclip-jax data verify`") from error
        with self._lock:
            self._open[file] = opened
            while len(self._open) > self._most_open:
                self._open.popitem(last=False)  # it is closed when the last thread that reads from it lets go
        return opened

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("_cache", "_paths", "_ends", "_largest")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()


def open_directory(directory: str | os.PathLike[str], cache: FileCache | None = None) -> dict[str, ShardedSource]:
    """Opens a dataset directory, local or remote; the splits by name.

    Raises:
      UsageError: this is not a dataset directory.
      UserError: it is damaged or unfinished.
    """
    manifest = read_manifest(directory)
    if not (isinstance(directory, str) and is_remote(directory)):
        directory = Path(directory).expanduser()
    return {split: ShardedSource(directory, files, cache) for split, files in manifest.splits.items()}


def open_dataset(
    path_or_recipe: str | os.PathLike[str],
    arguments: Mapping[str, Any] | None = None,
    cache: FileCache | None = None,
) -> Mapping[str, RecordSource]:
    """Opens a dataset directory, or calls the `source` of a data recipe; returns the source of each split by name.

    Args:
      path_or_recipe: a dataset directory, the path of a recipe, the name of a built-in recipe (which goes before a
        directory of that name; write './NAME' for the directory), or tfds:NAME for what TensorFlow Datasets prepared.
      arguments: keyword arguments of the recipe's `source`; a directory takes none.
      cache: where files of a remote dataset directory are copied to; the user's cache folder if not given.

    Raises:
      UsageError: there is no such dataset, or the arguments are wrong.
      UserError: the dataset is damaged or unfinished.
    """
    name, arguments = os.fspath(path_or_recipe), dict(arguments or {})
    if not is_recipe(name):
        if arguments:
            raise UsageError(f"dataset {name} is not a recipe, so it takes no arguments (got {', '.join(arguments)})")
        return _open_named_directory(name, cache)
    recipe, given = _recipe(name)
    source = load_recipe("data", recipe).source
    arguments = {**given, **arguments}
    check_arguments(source, arguments, name)
    return check_splits(source(**arguments), name)


def open_with_flags(
    path_or_recipe: str, flags: Sequence[str], program: str
) -> tuple[Mapping[str, RecordSource], About | None]:
    """The same for the command line, where flags are the arguments.

    Returns:
      the splits, and what a recipe says about the dataset, if it does.

    Raises:
      UsageError: there is no such dataset, or flags for a directory.
      UserError: the dataset is damaged or unfinished.
    """
    if not is_recipe(path_or_recipe):
        if flags:
            raise UsageError(f"unknown argument {flags[0]!r}; a dataset directory takes no arguments of a recipe")
        return _open_named_directory(path_or_recipe), None
    name, given = _recipe(path_or_recipe)
    recipe = load_recipe("data", name)
    flags = [*(word for field, value in given.items() for word in (f"--{field}", value)), *flags]
    return check_splits(call_recipe(recipe.source, flags, program), path_or_recipe), getattr(recipe, "about", None)


def recipe_file(path_or_recipe: str) -> str:
    """The recipe, by name or path, that stands behind what `is_recipe` calls one."""
    return _recipe(path_or_recipe)[0]


def _recipe(path_or_recipe: str) -> tuple[str, dict[str, str]]:
    if path_or_recipe.startswith(TFDS_PREFIX):
        return "tfds", {"name": path_or_recipe.removeprefix(TFDS_PREFIX)}
    return path_or_recipe, {}


def _open_named_directory(name: str, cache: FileCache | None = None) -> Mapping[str, RecordSource]:
    if is_bare_name(name) and not Path(name).exists():
        names = ", ".join(builtin_recipes("data")) or "none"
        raise UsageError(f"no dataset directory or data recipe is called {name!r}; built-in recipes: {names}")
    return open_directory(name, cache)


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
