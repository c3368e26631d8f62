"""The results database: one SQLite file that holds every run, its figures and its predictions.

Which runs are being measured, and by whom, stands in the table `claims`; `bioclip_jax.evaluation.claims` uses it.
A run (one model on one benchmark) is written in one transaction, so it is there whole or not at all, whatever is
killed when. The journal is SQLite's rollback journal: one file, and it also works on network file systems. The same
measurement asked twice replaces its earlier rows; anything else is added. Each table's columns are the fields of a
dataclass in `bioclip_jax.evaluation.rows`. `PRAGMA application_id` marks the file, `PRAGMA user_version` is the
schema's version.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from math import nan
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.methods import well_formed
from bioclip_jax.evaluation.rows import (
    Difference,
    Figure,
    GalleryItem,
    Measurement,
    Prediction,
    Run,
    Species,
    Thumbnail,
)


@dataclass(frozen=True)
class Claim:
    """Who is measuring a run that is not there yet."""

    identity: str
    """Of the run."""
    owner: str
    """`HOST:PID:NUMBER`."""
    started: float
    """Seconds since 1970, by the owner's clock, as `heartbeat`."""
    heartbeat: float
    """When the owner was last known to be alive."""


FILE_NAME = "results.sqlite"
APPLICATION_ID = 0x42434A58  # "BCJX"
VERSION = 3
SECONDS_TO_WAIT = 30.0


TABLES: dict[str, type] = {
    "figures": Figure,
    "differences": Difference,
    "predictions": Prediction,
    "species": Species,
    "gallery": GalleryItem,
}
_TYPES = {
    "str": "TEXT NOT NULL",
    "float": "REAL",
    "int": "INTEGER NOT NULL",
    "bytes": "BLOB NOT NULL",
    "float | None": "REAL",
}
_ADVICE = {
    "locked": "another process writes to it; try again later",
    "full": "make room; what was in it before is kept",
    "readonly": "make the file and its folder writable or write to a new file",
    "unable to open": "make its folder writable or write to a new file",
    "": "restore a copy or write to a new file",
}
"""By a word in SQLite's message."""
Row = TypeVar("Row")


def _known(value: Any, otherwise: float | None) -> Any:
    return otherwise if value is None else value


def _columns(row: type) -> str:
    return ", ".join(f'"{column.name}" {_TYPES[str(column.type)]}' for column in fields(row))


def _schema() -> Iterator[str]:
    yield f"CREATE TABLE runs (id INTEGER PRIMARY KEY, {_columns(Run)}, UNIQUE (identity))"
    for name, row in TABLES.items():
        yield f"CREATE TABLE {name} (run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE, {_columns(row)})"
        yield f"CREATE INDEX {name}_of_run ON {name} (run)"
    yield f"CREATE TABLE thumbnails ({_columns(Thumbnail)}, PRIMARY KEY (dataset_hash, key))"
    yield f"CREATE TABLE claims ({_columns(Claim)}, PRIMARY KEY (identity))"
    yield f"PRAGMA application_id = {APPLICATION_ID}"
    yield f"PRAGMA user_version = {VERSION}"


class ResultsError(UserError):
    """A results database that cannot be read or written."""


class Results:
    """A results database, opened; a context manager.

    Args:
        path: the file.
        create: make it where it does not exist, and open it for writing.

    Raises:
        UsageError: no such file.
        UserError: not a results database, damaged, of a newer version, locked, or not writable.
    """

    def __init__(self, path: Path, *, create: bool = False):
        self.path = path
        if not create and not path.is_file():
            raise UsageError(f"no results at {path}; `bioclip-jax eval` writes them")
        with self._errors():
            if create:
                path.parent.mkdir(parents=True, exist_ok=True)
            address = f"file:{quote(str(path.absolute()), errors='surrogateescape')}?mode={self._mode(create)}"
            self._database = sqlite3.connect(address, uri=True, timeout=SECONDS_TO_WAIT, isolation_level=None)
        try:
            with self._errors():
                self._prepare(create)
        except BaseException:
            self._database.close()
            raise

    def _mode(self, create: bool) -> str:
        """Reading asks for no right to write, unless a writer was killed and its journal must be rolled back first."""
        if create:
            return "rwc"
        return "rw" if self.path.with_name(f"{self.path.name}-journal").exists() else "ro"

    def _prepare(self, create: bool) -> None:
        def pragma(name: str) -> int:
            return int(self._database.execute(f"PRAGMA {name}").fetchone()[0])

        self._database.execute("PRAGMA foreign_keys = ON")
        if create and not pragma("schema_version"):
            with self._transaction():
                if not pragma("schema_version"):  # nobody else was first
                    for statement in _schema():
                        self._database.execute(statement)
        if pragma("application_id") != APPLICATION_ID:
            raise UserError(
                f"{self.path} is no results database; give a file that `bioclip-jax eval` wrote, or a new one"
            )
        if pragma("user_version") != VERSION:
            raise UserError(
                f"{self.path} has version {pragma('user_version')}, this release reads {VERSION}; "
                "measure again into a new file (eval --results)"
            )

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._database.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            advice = next((advice for word, advice in _ADVICE.items() if word in str(error)), _ADVICE[""])
            raise ResultsError(f"results database {self.path}: {error}; {advice}") from error
        except OSError as error:
            raise ResultsError(f"results database {self.path}: {error.strerror or error}") from error

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._database.execute(f"BEGIN {kind}")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            # Where the disk is full SQLite has already rolled back by itself.
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def add(self, measurement: Measurement) -> int:
        """Writes a run, in place of an earlier one of the same identity; returns its number."""
        with self._errors(), self._transaction():
            self._database.execute("DELETE FROM runs WHERE identity = ?", (measurement.run.identity,))
            run = self._insert("runs", Run, [measurement.run])
            for name, row in TABLES.items():
                self._insert(name, row, getattr(measurement, name), run)
            self._insert("thumbnails", Thumbnail, measurement.thumbnails)
        return run

    def _insert(self, table: str, row: type, rows: Sequence[Any], run: int | None = None) -> int:
        names = [f'"{column.name}"' for column in fields(row)]
        first = () if run is None else (run,)
        columns = ", ".join(names if run is None else ["run", *names])
        marks = ", ".join("?" * (len(names) + len(first)))
        verb = "INSERT OR REPLACE" if table == "thumbnails" else "INSERT"
        cursor = self._database.cursor()
        statement = f"{verb} INTO {table} ({columns}) VALUES ({marks})"
        for values in rows:
            cells = (getattr(values, column.name) for column in fields(row))
            written = [well_formed(cell) if isinstance(cell, str) else cell for cell in cells]
            cursor.execute(statement, (*first, *written))
        return cursor.lastrowid or 0

    def claim(self, claim: Claim, may_take: Callable[[Claim], bool]) -> Claim | None:
        """Enters a claim, unless there is one that it may not take the place of; that one is returned."""
        with self._errors(), self._transaction():
            query = "SELECT * FROM claims WHERE identity = ?"
            found = self._database.execute(query, (claim.identity,)).fetchone()
            if found is not None and not may_take(Claim(*found)):
                return Claim(*found)
            self._database.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", astuple(claim))
        return None

    def beat(self, owner: str, now: float) -> None:
        """Says that the owner of claims is alive."""
        with self._errors():
            self._database.execute("UPDATE claims SET heartbeat = ? WHERE owner = ?", (now, owner))

    def release(self, claim: Claim) -> None:
        """Takes a claim back, unless somebody else has taken it over."""
        with self._errors():
            query = "DELETE FROM claims WHERE identity = ? AND owner = ?"
            self._database.execute(query, (claim.identity, claim.owner))

    def kept(self, identity: str) -> Measurement | None:
        """A run, if it was measured, with its figures and differences alone: all of one moment, whoever replaces it."""
        with self._errors(), self._transaction("DEFERRED"):
            found = self._database.execute("SELECT * FROM runs WHERE identity = ?", (identity,)).fetchone()
            if found is None:
                return None
            figures, differences = self.rows(Figure, found[0]), self.rows(Difference, found[0])
        return Measurement(Run(*found[1:]), figures, differences, [], [], [], [])

    def runs(self) -> dict[int, Run]:
        """Every run by its number, oldest first."""
        with self._errors():
            rows = self._database.execute("SELECT * FROM runs ORDER BY id").fetchall()
        return {row[0]: Run(*row[1:]) for row in rows}

    def rows(self, row: type[Row], run: int) -> list[Row]:
        """The rows of one run in the table of `row`, such as `Figure`, in the order written."""
        table = next(name for name, kind in TABLES.items() if kind is row)
        with self._errors():
            query = f"SELECT * FROM {table} WHERE run = ? ORDER BY rowid"  # noqa: S608
            found = self._database.execute(query, (run,)).fetchall()
        # SQLite keeps NaN as NULL.
        unknown = [nan if column.type == "float" else None for column in fields(row)]  # type: ignore[arg-type]
        return [row(*map(_known, values[1:], unknown)) for values in found]

    def thumbnail(self, dataset_hash: str, key: str) -> bytes | None:
        """The JPEG of a photo, if it was kept."""
        with self._errors():
            query = "SELECT jpeg FROM thumbnails WHERE dataset_hash = ? AND key = ?"
            found = self._database.execute(query, (dataset_hash, well_formed(key))).fetchone()
        return None if found is None else found[0]
