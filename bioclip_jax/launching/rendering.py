"""What a target makes of jobs: files, the commands that submit them, and what a person should know."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError


@dataclasses.dataclass(frozen=True)
class File:
    """A rendered file."""

    name: str
    text: str


@dataclasses.dataclass(frozen=True)
class Rendering:
    """What a target makes of jobs."""

    files: tuple[File, ...]
    commands: tuple[tuple[str, ...], ...]
    """Words of what submits them. `FOLDER` in a word stands for the folder that the files lie in."""
    notes: tuple[str, ...] = ()
    """What to do before, and where to look after."""

    def commands_in(self, folder: str) -> list[list[str]]:
        """The commands for files that lie in a folder."""
        return [[word.replace(FOLDER, folder) for word in command] for command in self.commands]


FOLDER = "\0folder\0"
"""No word that a user gives can hold it."""


def shown(rendering: Rendering, folder: str) -> str:
    """All of it as one text, in which everything but the files is a comment."""
    parts = []
    for file in rendering.files:
        parts += [f"# ---------- {file.name}", file.text.rstrip("\n")]
    notes = [f"# {line}" for note in rendering.notes for line in note.splitlines()]
    words = [quoted(command) for command in rendering.commands_in(folder)]
    commands = [f"#   {line}" for command in words for line in command.splitlines()]
    return "\n".join([*parts, "# ---------- to start it (--submit does this)", *notes, *commands])


def write(rendering: Rendering, folder: Path) -> None:
    """Writes the files; those of an earlier rendering are replaced.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in rendering.files:
            (folder / file.name).write_text(file.text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror})") from None


def quoted(words: Sequence[str]) -> str:
    """Words as a line of shell."""
    return " ".join(shlex.quote(word) for word in words)


def require_plain(value: str, what: str, where: str) -> str:
    """A value for a place that has no way of quoting.

    Raises:
        UsageError: it holds blanks, quotes or anything else that would be read otherwise there.
    """
    allowed = "-_./:@%+=^~[]"
    if value and not all(letter.isascii() and (letter.isalnum() or letter in allowed + ",") for letter in value):
        raise UsageError(f"{what} is {value!r}; {where} takes letters, digits and {allowed} only")
    return value
