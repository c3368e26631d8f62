"""Predictions as files: CSV for spreadsheets, JSON lines for programs, and lines for a terminal."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.methods import well_formed
from bioclip_jax.inference.predict import Predicted

COLUMNS = ("photo", "rank", "place", "name", "common_name", "score", "error")


def require_writable(out: Path, *, overwrite: bool) -> None:
    """Raises `UsageError` for a file that cannot be written as predictions, or that is there already."""
    if out.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"--out {out}: predictions are written as .csv or .jsonl")
    if out.is_dir() or (out.exists() and not overwrite):
        raise UsageError(f"--out {out}: is there already; --overwrite replaces a file")


def write_predictions(predicted: Iterable[Predicted], out: Path) -> None:
    """Writes predictions as they come: CSV, or JSON lines for a name that ends in `.jsonl`; whole or not at all.

    CSV has a row for each photo, rank and place. JSON lines has an object for each photo: `photo`, and `predictions`,
    an object of lists by rank, or `error`. In CSV a text that begins as a formula does (`=`, `+`, `-`, `@`, or a
    control character) gets a `'` before it, so that a spreadsheet shows it and runs nothing; JSON lines has texts as
    they are.
    """
    with _whole(out) as file:
        if out.suffix == ".jsonl":
            for one in predicted:
                file.write(well_formed(json.dumps(_object(one), ensure_ascii=False)) + "\n")
            return
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for one in predicted:
            if one.error:
                table.writerow([_cell(one.photo), "", "", "", "", "", _cell(one.error)])
            for rank, names in one.names.items():
                table.writerows(
                    [_cell(one.photo), rank, place, _cell(name.name), _cell(name.common_name), f"{name.score:.6g}", ""]
                    for place, name in enumerate(names, 1)
                )


def lines(one: Predicted, top: int = 5) -> list[str]:
    """What a person reads of one photo: the most probable name at each rank, and the `top` at the last one."""
    shown = [printable(one.photo)]
    if one.error:
        return [f"{shown[0]}: {printable(one.error)}"]
    last = list(one.names)[-1]
    for rank, names in one.names.items():
        for place, name in enumerate(names[: top if rank == last else 1]):
            common = f" ({printable(name.common_name)})" if name.common_name else ""
            shown.append(f"  {rank if not place else '':<8} {100 * name.score:5.1f} %  {printable(name.name)}{common}")
    return shown


def printable(text: str) -> str:
    """`text` with escapes for what a terminal would obey."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _object(one: Predicted) -> dict[str, object]:
    if one.error:
        return {"photo": one.photo, "error": one.error}
    ranks = {
        rank: [
            {
                "name": name.name,
                **({"common_name": name.common_name} if name.common_name else {}),
                "score": float(f"{name.score:.6g}"),
            }
            for name in names
        ]
        for rank, names in one.names.items()
    }
    return {"photo": one.photo, "predictions": ranks}


def _cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    text = well_formed(text)
    return f"'{text}" if re.match(r"[=+\-@\t\r\n]", text) else text


@contextlib.contextmanager
def _whole(out: Path) -> Iterator[IO[str]]:
    """A text file that appears under its name when it is complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as file:
            yield file
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
