"""Published data sets as they lie on disk: which files must be there, and what to say where they are not.

A `Layout` knows a data set's tree. What a user has downloaded in part, or unpacked one folder too deep, is refused with
both trees side by side. What differs from the published files but can be measured (photos that are missing, rows that
stand twice) is counted in notes instead; photos that cannot be read are counted when they are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np

from bioclip_jax.errors import UsageError, UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder, which the reference implementation reads folders of classes with."""

SAMPLE = 64
"""So many files are looked for in each folder that photos may lie in, before all are in the one that fits."""


class LayoutError(UsageError):
    """A folder is not laid out as published. The message is one line; `details` are the trees, line by line."""

    def __init__(self, message: str, details: Sequence[str] = ()):
        super().__init__(message)
        self.details = tuple(details)

    def __reduce__(self) -> tuple[type[LayoutError], tuple[str, tuple[str, ...]]]:
        return type(self), (str(self), self.details)


class Photos(NamedTuple):
    """Files of one split and what is known of them."""

    files: tuple[str, ...]
    """Below the data set's folder, with `/`."""
    labels: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How one data set is published."""

    name: str
    """Of the benchmark."""
    source: str
    """Where the files come from."""
    expected: str
    """What its folder holds, a line per file or kind of file, indented as a tree."""
    checksums: Mapping[str, str] = field(default_factory=dict)
    """Name of a file (its last part) -> its SHA-256 in hexadecimal, where it is known for certain. A file of that name
    with other contents is refused when it is needed."""

    def open(self, root: str | None) -> Path:
        """The data set's folder.

        Raises:
            LayoutError: none is given, or it is no folder.
        """
        if root is None:
            raise self.wrong(None, "needs its data: give the folder that holds them with --root")
        folder = Path(root).expanduser()
        if not is_folder(folder):
            there = is_there(folder)
            raise self.wrong(
                folder, f"{printable(str(folder))} is " + ("a file, not a folder" if there else "not there")
            )
        return folder

    def wrong(self, root: Path | None, problem: str) -> LayoutError:
        """The error that shows what was expected and what is there."""
        details = ["expected:", *(f"  {line}" for line in self.expected.strip("\n").splitlines())]
        if root is not None:
            details += ["found:", *(f"  {line}" for line in tree(root))]
        return LayoutError(f"benchmark {self.name}: {problem}; the data come from {self.source}", details)

    def first(self, root: Path, *paths: str) -> Path | None:
        """The first of `paths` below `root` that is there."""
        return next((root / path for path in paths if is_there(root / path)), None)

    def need(self, root: Path, *paths: str) -> Path:
        """As `first`; raises `LayoutError` if none is there, or its checksum is not the published one."""
        found = self.first(root, *paths)
        if found is None:
            others = f" (nor {', '.join(paths[1:])})" if len(paths) > 1 else ""
            raise self.wrong(root, f"{paths[0]}{others} is missing in {root}")
        expected = self.checksums.get(found.name)
        if expected and (ours := _sha256(found)) != expected.lower():
            raise self.wrong(root, f"{found.name} is not the published file: SHA-256 {ours}, published {expected}")
        return found

    def folders(self, root: Path, below: str) -> list[str]:
        """Names of the folders in the folder `below` of `root`, sorted; raises `LayoutError` if it cannot be read."""
        folder = self.need(root, below)
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if is_folder(folder / entry.name))
        except OSError as error:
            raise self.wrong(root, f"{folder} cannot be read as a folder ({error.strerror})") from error

    def images_below(self, root: Path, files: Sequence[str], folders: Sequence[str]) -> tuple[str, tuple[str, ...]]:
        """Which of `folders` holds the photos that a table names.

        Args:
            root: of the data set.
            files: as the table writes them.
            folders: relative to `root`, `""` for itself.

        Returns:
            The folder, and a note if only some of the photos are there.

        Raises:
            LayoutError: none of the photos is anywhere.
        """
        few = [files[row] for row in np.unique(np.linspace(0, len(files) - 1, SAMPLE).astype(int))]
        counts = {folder: _there(root / folder, few) for folder in folders}
        best = max(counts, key=lambda folder: counts[folder])
        found = _there(root / best, files)
        if not found:
            found, best = max((_there(root / folder, files), folder) for folder in folders)
        if not found:
            where = ", ".join(f"{root / folder}" for folder in folders)
            raise self.wrong(root, f"none of the {len(files)} photos, such as {printable(files[0])}, is in {where}")
        missing = len(files) - found
        note = f"{missing} of {len(files)} photos are missing below {best or '.'}: the download is not complete"
        return best, (note,) if missing else ()

    def image_folder(self, root: Path, below: str) -> Photos:
        """Photos of a folder of class folders in the order of torchvision's ImageFolder: classes, then files, by name.

        Folders without a photo, and those that cannot be read, are counted in notes. Links are followed, as there.

        Raises:
            LayoutError: there is no such folder, or no photo in it.
        """
        folder = self.need(root, below)
        files: list[str] = []
        labels: list[str] = []
        empty: list[str] = []
        closed: list[str] = []
        again: list[str] = []
        for name in self.folders(root, below):
            found = _images(folder / name, closed, again)
            files += [f"{below}/{name}/{file}" for file in found]
            labels += [name] * len(found)
            empty += [] if found else [name]
        if not files:
            raise self.wrong(root, f"{folder} holds no photos in folders of classes")
        notes = tuple(
            f"{len(where)} {what} (first: {printable(where[0])})"
            for what, where in (
                (f"class folders of {below} hold no photo", empty),
                (f"folders in {below} cannot be read: their photos are missing", closed),
                (f"links in {below} lead to folders that were read already and were left out", again),
            )
            if where
        )
        return Photos(tuple(files), tuple(labels), notes)


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; False also where the system refuses to look, as at too long a name."""
    with contextlib.suppress(OSError, ValueError):
        return path.exists()
    return False


def is_file(path: Path) -> bool:
    """As `is_there`, of a file."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_file()
    return False


def is_folder(path: Path) -> bool:
    """As `is_there`, of a folder."""
    with contextlib.suppress(OSError, ValueError):
        return path.is_dir()
    return False


def tree(folder: Path, depth: int = 2, entries: int = 8) -> list[str]:
    """What a folder holds: folders first, at most `entries` of each level; nothing in it can break a line."""
    if not is_folder(folder):
        return [f"{printable(str(folder))} " + ("(a file)" if is_there(folder) else "(not there)")]
    return [f"{printable(str(folder))}/", *_branches(folder, depth, entries, "  ")]


def _branches(folder: Path, depth: int, entries: int, indent: str) -> list[str]:
    try:
        found = sorted(folder.iterdir(), key=lambda path: (not is_folder(path), path.name))
    except OSError as error:
        return [f"{indent}(cannot be read: {error.strerror})"]
    lines = []
    for path in found[:entries]:
        enter = is_folder(path)
        lines.append(f"{indent}{printable(path.name)}{'/' if enter else ''}")
        if enter and depth > 1:
            lines += _branches(path, depth - 1, max(2, entries // 2), indent + "  ")
    if not found:
        return [f"{indent}(nothing)"]
    return [*lines, f"{indent}... and {len(found) - entries} more"] if len(found) > entries else lines


def printable(text: str) -> str:
    """A name from a file or a file system without what would move a terminal's cursor."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _there(folder: Path, files: Sequence[str]) -> int:
    return sum(is_file(folder / file) for file in files)


def _images(folder: Path, closed: list[str], again: list[str]) -> list[str]:
    """Photos below `folder`, folder by folder; adds folders that cannot be read, and links that lead back, to lists."""
    found = []
    known = {os.path.realpath(folder)}
    for where, folders, names in os.walk(folder, followlinks=True, onerror=lambda error: closed.append(error.filename)):
        entered: list[str] = []
        for name in sorted(folders):
            real = os.path.realpath(Path(where, name))
            (again if real in known else entered).append(name)
            known.add(real)
        folders[:] = entered
        found += [Path(where, name).relative_to(folder).as_posix() for name in names if _is_image(name)]
    return sorted(found, key=lambda file: (file.rpartition("/")[0], file))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def inside(files: Sequence[str], table: Path) -> list[str]:
    """File names of a table with `/`; raises `UserError` for one that leaves the folder or is empty."""
    names = [file.strip().replace("\\", "/") for file in files]
    for row, name in enumerate(names):
        path = PurePosixPath(name)
        if not name:
            raise UserError(f"table {table}: row {row + 1} names no photo")
        if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or "\0" in name:
            raise UserError(f"table {table}: row {row + 1} names a file outside its folder: {printable(name)}")
    return names


def first_of_each(files: Sequence[str], labels: Sequence[object]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The rows to use of a table: int64 `[rows]`, each file once; notes count rows left out.

    Args:
        files: `[n]`.
        labels: `[n]`, what each row says of its file.
    """
    known: dict[str, object] = {}
    rows = []
    again = contrary = 0
    for row, (file, label) in enumerate(zip(files, labels, strict=True)):
        if file not in known:
            known[file] = label
            rows.append(row)
        elif known[file] == label:
            again += 1
        else:
            contrary += 1
    notes = []
    if again:
        notes.append(f"{again} rows name a photo a second time and were left out")
    if contrary:
        notes.append(f"{contrary} rows name a photo a second time with another label; the first counts")
    return np.array(rows, np.int64), tuple(notes)


def differences(published: Mapping[str, int], found: Mapping[str, int]) -> tuple[str, ...]:
    """A note where counts are not those of the published files, as after a partial download or another version."""
    unlike = [
        f"{found[what]:,} {what}, published {count:,}" for what, count in published.items() if found[what] != count
    ]
    return (f"not the published files: {'; '.join(unlike)}",) if unlike else ()


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """The first word of every line of a text file and the rest of it (both the same word where there is one)."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text ({getattr(error, 'strerror', None) or 'not UTF-8'})") from error
    lines = [line.strip().split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(words[0], words[-1]) for words in lines]
