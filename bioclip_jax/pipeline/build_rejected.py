"""What a build leaves out: each unit of work writes its own lines, and at the end they become one table.

So however many records are left out, no process holds more of them than those of one unit.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.manifest import BUILD_FOLDER
from bioclip_jax.pipeline.plan import replacing
from bioclip_jax.pipeline.prepare import Rejected

REJECTED = "rejected.csv"
COLUMNS = ("split", "key", "reason", "detail")
_OPTIONS = {"newline": "", "encoding": "utf-8", "errors": "replace"}
Counts = Counter[tuple[str, str]]
"""How many records were left out, by split and reason."""


class RowWriter(Protocol):
    """What `csv.writer` gives."""

    def writerow(self, row: Iterable[str], /) -> object:
        """Writes one row."""


@contextmanager
def rejected_part(directory: Path, unit: str) -> Iterator[RowWriter]:
    """The table of one unit of work, to write rows of `COLUMNS` to; it appears whole or not at all.

    Raises:
      UserError: it cannot be written.
    """
    with replacing(part_path(directory, unit)) as path, path.open("w", **_OPTIONS) as file:  # type: ignore[call-overload]
        yield csv.writer(file)


def write_part(directory: Path, unit: str, split: str, rejected: Iterable[Rejected]) -> dict[str, int]:
    """Writes what one unit of work left out, if anything; returns how many by reason."""
    counts: Counter[str] = Counter()
    rows = [(split, entry.key, entry.reason, entry.detail) for entry in rejected]
    if rows:
        with rejected_part(directory, unit) as table:
            for row in rows:
                table.writerow(row)
                counts[row[2]] += 1
    else:
        part_path(directory, unit).unlink(missing_ok=True)
    return dict(counts)


def part_path(directory: Path, unit: str) -> Path:
    """Where the table of a unit of work lies until the build is finished."""
    return directory / BUILD_FOLDER / f"{unit}.{REJECTED}"


def join_parts(directory: Path, units: Iterable[str]) -> None:
    """Makes `rejected.csv` of the tables of the units, in their order.

    Raises:
      UserError: it cannot be written.
    """
    with replacing(directory / REJECTED) as path, path.open("wb") as file:
        file.write((",".join(COLUMNS) + "\r\n").encode())
        for unit in units:
            try:
                with part_path(directory, unit).open("rb") as part:
                    shutil.copyfileobj(part, file)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise UserError(f"{part_path(directory, unit)}: {error.strerror or error}") from error
