"""A folder is written beside its place and renamed into it, so that what stands there is always whole."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.lock import exclusive

_OURS = re.compile(
    r"README\.md|open_clip_config\.json|(open_clip_)?model[-\d]*(of-\d+)?\.safetensors(\.index\.json)?|model\.json|weights|onnx"
    r"|(config|preprocessor_config|tokenizer|tokenizer_config|special_tokens_map|vocab)\.json|merges\.txt"
)
"""What `convert` writes. Only a folder that holds nothing else is ever replaced."""
_MARKS = ("open_clip_config.json", "preprocessor_config.json", "model.json")
"""One of these is in every such folder."""


@contextmanager
def new_folder(destination: Path, *, overwrite: bool = False, source: str = "") -> Iterator[Path]:
    """An empty folder to fill. It becomes `destination` when the block ends, and vanishes if the block fails.

    What a killed process leaves (`.NAME.partial` beside it) is removed by the next one that writes there.

    Args:
        destination: where it will be.
        overwrite: replace a folder that was written here earlier, in one step.
        source: path of what is read meanwhile; it may be replaced itself, but must not lie within what is replaced.

    Raises:
        UsageError: something stands at `destination` that may not be replaced.
        UserError: it cannot be written, or another process is writing there.
    """
    place = Path(os.path.realpath(destination))
    if place == Path.cwd() or place in Path.cwd().parents:
        raise UsageError(f"destination {str(destination)!r} is the current folder or one around it; name another")
    if source and place in Path(os.path.realpath(source)).parents:
        raise UsageError(f"destination {destination} is around the model itself, {source}; name another")
    partial, replaced, lock = (place.with_name(f".{place.name}.{what}") for what in ("partial", "replaced", "lock"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock, f"{destination}: another process is writing there now"):
            try:
                _recover(place, replaced)
                _check(place, destination, overwrite)
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                yield partial
                _check(place, destination, overwrite)  # again, for what has come there meanwhile
                _put(partial, place, replaced)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror or error}); nothing was changed") from None


def _put(partial: Path, place: Path, replaced: Path) -> None:
    """Moves `partial` to `place`; what stood there is then gone, or is there again if this fails."""
    if not place.exists():
        partial.rename(place)
    elif not _exchange(partial, place):
        place.rename(replaced)
        try:
            partial.rename(place)
        except BaseException:
            replaced.rename(place)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two paths in one step, where the system can (Linux's renameat2)."""
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _recover(place: Path, replaced: Path) -> None:
    """Ends what a process that was killed while it replaced a folder had begun."""
    if replaced.exists() and place.exists():
        shutil.rmtree(replaced)
    elif replaced.exists():
        replaced.rename(place)


def _check(place: Path, destination: Path, overwrite: bool) -> None:
    if not place.exists():
        return
    if not place.is_dir():  # a device such as /dev/null is no file, and is not to be renamed
        raise UsageError(f"destination {destination} is a file; name a folder to write")
    names = sorted(entry.name for entry in place.iterdir())
    if not names:
        return
    foreign = [name for name in names if not _OURS.fullmatch(name)]
    if foreign or not any(mark in names for mark in _MARKS):
        raise UsageError(
            f"destination {destination} holds something else ({(foreign or names)[0]!r}); name another folder"
        )
    if not overwrite:
        raise UsageError(
            f"destination {destination} holds a model; name another folder, or replace it with --overwrite"
        )
