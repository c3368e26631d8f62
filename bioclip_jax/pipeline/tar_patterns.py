"""Which tars a user means: paths, folders, patterns, and webdataset's `shard-{00000..24235}.tar`."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline import storage
from bioclip_jax.pipeline.storage_clients import PATIENCE, Patience
from bioclip_jax.pipeline.tar_files import StrPath

_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST = 1_000_000


def expand_tars(tars: StrPath | Sequence[StrPath], patience: Patience = PATIENCE) -> list[str]:
    """The tars that patterns stand for, in the order given. Whether each is there is not looked at.

    They are local or begin with `gs://` or `s3://`; what does not end in `.tar` there is a folder, unless it is a file.

    Args:
      tars: one or several of: a tar; a folder, for the `*.tar` in it by name; a pattern with `*`, `?` or `[...]`, by
        name; with `{00000..00009}` or `{train,val}`, in this order; several of these joined by `::`.
      patience: how long to wait for an object store.

    Raises:
      UsageError: a folder or pattern fits no tar, or too many.
      UserError: a folder in an object store cannot be listed.
    """
    given = [tars] if isinstance(tars, str | os.PathLike) else tars
    paths: list[str] = []
    for entry in (os.path.expanduser(os.fspath(entry)) for entry in given):  # noqa: PTH111 a pattern is no path
        for pattern in [entry] if os.path.exists(entry) else entry.split("::"):  # noqa: PTH110
            expanded = [pattern] if os.path.exists(pattern) else list(islice(expand_braces(pattern), _MOST + 1))  # noqa: PTH110
            if len(expanded) > _MOST:
                raise UsageError(f"tars {entry} are more than {_MOST:,}")
            for path in expanded:
                paths += _found_remotely(path, patience) if storage.is_remote(path) else _found(path)
    if not paths:
        raise UsageError("no tars are given")
    return paths


def expand_braces(pattern: str) -> Iterator[str]:
    """`a{08..10}` -> a08, a09, a10; `{x,y}b` -> xb, yb; braces may stand in braces, and others stay as they are."""
    start = pattern.find("{")
    parts, end = _parts(pattern, start) if start >= 0 else ([], -1)
    if end < 0:
        yield pattern
        return
    span = _RANGE.fullmatch(parts[0])
    if len(parts) > 1:
        choices: Iterator[str] = (choice for part in parts for choice in expand_braces(part))
    elif span:
        width = max(map(len, span.groups())) if span[1].startswith("0") or span[2].startswith("0") else 0
        choices = (f"{number:0{width}d}" for number in range(int(span[1]), int(span[2]) + 1))
    else:
        choices = (f"{{{inner}}}" for inner in expand_braces(parts[0]))
    rests = list(islice(expand_braces(pattern[end:]), _MOST + 1))
    for choice in choices:
        yield from (pattern[:start] + choice + rest for rest in rests)


def _parts(pattern: str, start: int) -> tuple[list[str], int]:
    """What commas separate in the braces that open at `start`, and where the text behind them begins; -1 if nowhere."""
    depth, parts, begin = 0, [], start + 1
    for place in range(start, len(pattern)):
        character = pattern[place]
        depth += (character == "{") - (character == "}")
        if (character == "," and depth == 1) or depth == 0:
            parts.append(pattern[begin:place])
            begin = place + 1
        if depth == 0:
            return parts, place + 1
    return [], -1


def _found(path: str) -> list[str]:
    if os.path.isdir(path):  # noqa: PTH112
        found = sorted(str(entry) for entry in Path(path).glob("*.tar"))
        if not found:
            raise UsageError(f"folder {path} holds no *.tar files")
        return found
    if glob.has_magic(path) and not os.path.exists(path):  # noqa: PTH110
        found = sorted(glob.glob(path, recursive=True))  # noqa: PTH207
        if not found:
            raise UsageError(f"no file fits the pattern {path}")
        return found
    return [path]


def _found_remotely(path: str, patience: Patience) -> list[str]:
    if glob.has_magic(path):
        parts = path.split("/")
        plain = next(place for place, part in enumerate(parts) if glob.has_magic(part))
        if plain < 3:
            raise UsageError(f"{path}: the bucket must be named, without a pattern")
        deep = plain < len(parts) - 1
        files = storage.list_files("/".join(parts[:plain]), recursive=deep, patience=patience)
        found = [file.path for file in files if _fits(file.path.split("/")[plain:], parts[plain:])]
        if not found:
            raise UsageError(f"no file fits the pattern {path}")
        return found
    storage.split(path)
    if path.endswith(".tar") or (not path.endswith("/") and path.count("/") > 2 and storage.is_file(path, patience)):
        return [path]
    found = [file.path for file in storage.list_files(path.rstrip("/"), ".tar", patience=patience)]
    if not found:
        raise UsageError(f"folder {path} holds no *.tar files, or is not there")
    return found


def _fits(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """As `glob` compares the parts of a path: `**` is any number of them, and a dot that begins one must be written."""
    if not patterns or not names:
        return not names and all(pattern == "**" for pattern in patterns)
    if patterns[0] == "**":
        return _fits(names, patterns[1:]) or (not names[0].startswith(".") and _fits(names[1:], patterns))
    hidden = names[0].startswith(".") and not patterns[0].startswith(".")
    return not hidden and fnmatch.fnmatchcase(names[0], patterns[0]) and _fits(names[1:], patterns[1:])
