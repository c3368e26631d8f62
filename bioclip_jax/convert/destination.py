"""A folder is written beside its place and renamed into it, so that what stands there is always whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.lock import exclusive

MARKS = ("open_clip_config.json", "preprocessor_config.json", "model.json")
"""Files by which a folder that `convert` wrote is known; only such a one is ever replaced."""


@contextmanager
def new_folder(destination: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """An empty folder to fill. It becomes `destination` when the block ends, and vanishes if the block fails.

    Raises:
        UsageError: something stands at `destination` that may not be replaced.
        UserError: it cannot be written, or another process is writing there.
    """
    place = Path(os.path.realpath(destination))
    partial, replaced, lock = (place.with_name(f".{place.name}.{what}") for what in ("partial", "replaced", "lock"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock, f"{destination}: another process is writing there now"):
            _recover(place, replaced)
            _check(place, destination, overwrite)
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            partial.mkdir()
            try:
                yield partial
                if place.exists():
                    place.rename(replaced)
                partial.rename(place)
                shutil.rmtree(replaced, ignore_errors=True)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{destination}: cannot be written ({error.strerror or error}); nothing was changed") from None


def _recover(place: Path, replaced: Path) -> None:
    """Ends what a process that was killed between the two renamings began."""
    if replaced.exists():
        if place.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(place)


def _check(place: Path, destination: Path, overwrite: bool) -> None:
    if place.is_file():
        raise UsageError(f"{destination} is a file; name a folder to write")
    if not place.is_dir() or not any(place.iterdir()):
        return
    if not any((place / mark).is_file() for mark in MARKS) or (place / "checkpoints").exists():
        raise UsageError(f"{destination} is not empty, and no folder that `convert` wrote; name another")
    if not overwrite:
        raise UsageError(f"{destination} holds a model; name another folder, or replace it with --overwrite")
