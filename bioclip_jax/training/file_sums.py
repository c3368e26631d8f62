"""Checksums of a checkpoint's files, so that a restart knows a damaged one before it trains on."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bioclip_jax.pipeline.manifest import write_json

NAME = "file_sums.json"
_THREADS = 4
_DIGEST_BYTES = 16


def write_sums(checkpoint: Path) -> None:
    """Writes size and BLAKE2b of every file of a finished checkpoint into it.

    Raises:
        OSError: a file cannot be read or written.
    """
    names = _files(checkpoint)
    with ThreadPoolExecutor(_THREADS) as pool:
        sums = list(pool.map(lambda name: _sum(checkpoint / name), names))
    write_json(checkpoint / NAME, dict(zip(names, sums, strict=True)))


def has_sums(checkpoint: Path) -> bool:
    """Whether it was finished to the end: a run killed just after a checkpoint leaves one without sums."""
    return (checkpoint / NAME).exists()


def find_damage(checkpoint: Path) -> str | None:
    """What is wrong with the files of a checkpoint, in words; None if all are as they were written, or without sums.

    Raises:
        OSError: a file that is there cannot be read, which says nothing about what it holds.
    """
    if not has_sums(checkpoint):
        return None
    try:
        sums = {name: (int(size), str(digest)) for name, (size, digest) in _read(checkpoint).items()}
    except (ValueError, TypeError, AttributeError):
        return f"{NAME} cannot be read"
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda item: _difference(checkpoint / item[0], item[0], *item[1]), sums.items())
        return next((difference for difference in found if difference), None)


def _difference(path: Path, name: str, size: int, digest: str) -> str | None:
    try:
        now = path.stat().st_size
        if now != size:
            return f"{name} has {now:,} bytes instead of {size:,}"
        return f"{name} has other content than was written" if _sum(path)[1] != digest else None
    except FileNotFoundError:
        return f"{name} is missing"


def _read(checkpoint: Path) -> dict[str, tuple[int, str]]:
    content: dict[str, tuple[int, str]] = json.loads((checkpoint / NAME).read_text(encoding="utf-8"))
    return content


def _files(checkpoint: Path) -> list[str]:
    found = [
        (Path(folder) / name).relative_to(checkpoint).as_posix()
        for folder, _, names in os.walk(checkpoint)
        for name in names
    ]
    return sorted(name for name in found if NAME not in name)


def _sum(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES))
        return file.tell(), digest.hexdigest()
