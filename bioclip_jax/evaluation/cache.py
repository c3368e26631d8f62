"""Arrays on disk under a hash of what they were computed from: computed once, never wrong, never fatal.

A file is written under a temporary name and renamed, so it is whole or absent; one that is damaged all the same is
computed again. Where the disk refuses, nothing is kept and the work goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Warn = Callable[[str], None]

STALE_SECONDS = 3600.0
"""A temporary file that nobody has written to for so long was left by a process that was killed."""


def digest(*parts: Any) -> str:
    """A hash of JSON values and arrays, 32 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=_in_json).encode()).hexdigest()[:32]


def _in_json(value: Any) -> Any:
    """An array counts with every number (its `str` leaves out the middle), anything else as its `str`."""
    if isinstance(value, np.ndarray):
        content = value.astype(str).tolist() if value.dtype == object else hashlib.sha256(value.tobytes()).hexdigest()
        return [value.dtype.str, value.shape, content]
    return str(value)


class ArrayCache:
    """A folder of `.npz` files (no pickle).

    Args:
        folder: made when first needed; None keeps nothing.
        warn: is given one line for every damaged file and every one that cannot be written.
    """

    def __init__(self, folder: Path | None, warn: Warn = lambda line: None):
        self.folder, self._warn = folder, warn
        for left in folder.glob(".*.npz.*") if folder else ():
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    left.unlink()

    def path(self, key: str) -> Path | None:
        """Where the arrays of `key` are kept."""
        return None if self.folder is None else self.folder / f"{key}.npz"

    def get(self, key: str, names: set[str]) -> dict[str, np.ndarray] | None:
        """The arrays `names` of `key`; None if they are not there or damaged."""
        path = self.path(key)
        if path is None or not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in names}
        except (OSError, ValueError, LookupError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            self._warn(f"cached features {path} are damaged ({type(error).__name__}); computing them again")
            return None

    def put(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keeps the arrays of `key`; where the disk refuses, says so and goes on."""
        path = self.path(key)
        if path is None:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            temporary.replace(path)
        except OSError as error:
            self._warn(
                f"{path.name} cannot be kept in {path.parent} ({error.strerror}); next time it is computed again"
            )
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
