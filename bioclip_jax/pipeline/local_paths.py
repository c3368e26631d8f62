"""Paths that have to be on a disk, for what writes files in place, renames folders or takes locks."""

from __future__ import annotations

import re
from pathlib import Path

from bioclip_jax.errors import UsageError

_REMOTE = re.compile(r"([a-z][a-z0-9+.-]+):(?:/+(.*)|$)", re.IGNORECASE)
"""A `Path` keeps one of the slashes, and none where nothing follows them."""


def require_local(path: str | Path | None, name: str) -> None:
    """Raises UsageError where a path lies in an object store; it would be made as a folder called `gs:`.

    Args:
        path: as a user gave it, if one was given.
        name: of the argument, such as --work-dir.
    """
    found = _REMOTE.match(str(path or ""))
    if not found:
        return
    where = f"{name} {found[1]}://{found[2] or ''}"
    if found[1].lower().startswith("http"):
        raise UsageError(f"{where} is on a server, and has to be a path on a disk")
    raise UsageError(
        f"{where} is in an object store, and has to be a path on a disk; mount the bucket "
        "(as `bioclip-jax launch` does) and give that path, or that of a shared folder"
    )
