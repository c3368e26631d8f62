"""A table of photos beside a folder of image files, as random access to records.

`bioclip_jax.pipeline.tables` reads the table and finds its columns. A row that cannot be used raises `BadRecord` when
it is asked for.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import pyarrow as pa

from bioclip_jax.errors import UsageError
from bioclip_jax.images import MAX_FILE_BYTES
from bioclip_jax.pipeline.record import BadRecord, Record
from bioclip_jax.text.cleaning import clean_taxon
from bioclip_jax.text.taxonomy import RANKS, Taxon

_MISSING = frozenset({"", "NA", "N/A", "nan", "NaN", "null", "NULL", "None", "<NA>"})


class PhotoTable:
    """The records of one split of a table; picklable, safe to use from many threads.

    Args:
      columns: field -> column of text values, from `read_table` and `find_columns`.
      rows: int64 [n], the rows of this split.
      bad_rows: rows that cannot be used, with the reason.
      images: the folder that file names are relative to.
      source: the `source` of the records, where the table has no such column.
      attributes: columns that are kept as the record's `attributes`.
      ragged: lines of the table that have another number of cells than its header; they come last, as bad records.
    """

    def __init__(
        self,
        columns: Mapping[str, pa.Array],
        rows: np.ndarray,
        bad_rows: Mapping[int, str],
        images: Path,
        source: str,
        attributes: Mapping[str, pa.Array],
        ragged: Sequence[str] = (),
    ):
        self._columns, self._rows, self._bad_rows = dict(columns), rows, dict(bad_rows)
        self._images, self._source, self._attributes = images, source, dict(attributes)
        self._ragged = tuple(ragged)

    def __len__(self) -> int:
        return len(self._rows) + len(self._ragged)

    def __getitem__(self, index: int) -> Record:
        """The record at `index`; raises `BadRecord` if its row or its file cannot be used."""
        if index >= len(self._rows):
            line = self._ragged[index - len(self._rows)]
            raise BadRecord(line[:60], f"wrong number of columns: {line}")
        row = int(self._rows[index])
        text = {field: cell(column, row) for field, column in self._columns.items()}
        key = text.get("key") or text["filepath"]
        if row in self._bad_rows:
            raise BadRecord(key or f"row {row + 1}", self._bad_rows[row])
        taxon = tidy_taxon(text)
        if taxon == Taxon():
            raise BadRecord(key, "no name at any rank")
        attributes = {name: cell(column, row) for name, column in self._attributes.items()}
        image = read_image(self._images, text["filepath"], key)
        return record_of(key, image, taxon, {**text, "source": text.get("source") or self._source}, attributes)


def record_of(key: str, image: bytes, taxon: Taxon, text: Mapping[str, str], attributes: Mapping[str, str]) -> Record:
    """A record from the texts of a row.

    Args:
      key: of the record.
      image: encoded.
      taxon: what it shows.
      text: `source`, `source_id`, `license`, `image_type`, `latitude` and `longitude`, where they are known.
      attributes: further columns by name.
    """
    return {
        "key": key,
        "image": image,
        **dict(zip(RANKS, taxon.ranks, strict=True)),
        "scientific_name": taxon.scientific_name,
        "common_name": taxon.common_name,
        **{field: text[field] for field in ("source", "source_id", "license", "image_type") if field in text},
        "latitude": degrees(text.get("latitude", ""), 90),
        "longitude": degrees(text.get("longitude", ""), 180),
        "attributes": json.dumps(attributes, ensure_ascii=False) if attributes else "",
    }


def cell(column: pa.Array, row: int) -> str:
    """The text of a cell, stripped; '' for the words that tables write for a missing value."""
    text: str = column[row].as_py().strip()
    return "" if text in _MISSING else text


def tidy_taxon(text: Mapping[str, str]) -> Taxon:
    """The taxon of a row: names cleaned, a binomial split into genus and epithet, no author in the scientific name."""
    taxon = clean_taxon(Taxon.from_record(text))
    scientific = taxon.scientific_name
    if taxon.kingdom != "Viruses":  # their names hold capitals: 'Influenza A virus'
        scientific = _without_author(scientific)
    words = [word for word in scientific.split() if word not in ("\N{MULTIPLICATION SIGN}", "x")]
    if not taxon.genus and not taxon.species and len(words) > 1 and words[1].islower():
        taxon = replace(taxon, genus=words[0], species=words[1])
    if not scientific and taxon.genus and taxon.species:
        scientific = f"{taxon.genus} {taxon.species}"
    return replace(taxon, scientific_name=scientific)


def read_image(images: Path, name: str, key: str) -> bytes:
    """The bytes of an image file below `images`.

    Raises:
      BadRecord: the name is empty, is a web address or leads out of the folder, or the file cannot be read.
    """
    if not name:
        raise BadRecord(key, "no file name")
    if re.match(r"[a-z][a-z0-9+.-]*://", name, re.IGNORECASE):
        raise BadRecord(key, f"file name is a web address: {name}")
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts:
        raise BadRecord(key, f"file is outside the image folder: {name}")
    try:
        status = (images / path).stat()
        if stat.S_ISFIFO(status.st_mode):  # opening it would wait for ever
            raise BadRecord(key, "file cannot be read: it is a pipe")
        if status.st_size > MAX_FILE_BYTES:
            raise BadRecord(key, f"file has more than {MAX_FILE_BYTES:,} bytes")
        return (images / path).read_bytes()
    except FileNotFoundError:
        raise BadRecord(key, f"file is missing: {name}") from None
    except OSError as error:
        raise BadRecord(key, f"file cannot be read: {error.strerror or error}") from None
    except ValueError:  # Python's own words for it differ by version
        raise BadRecord(key, "file cannot be read: embedded null byte") from None


def degrees(text: str, limit: float) -> float:
    """A latitude or longitude; NaN for anything that is not a number within ±`limit`."""
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return math.nan
    return value if abs(value) <= limit else math.nan


def split_rows(
    columns: Mapping[str, pa.Array], count: int, test_fraction: float
) -> tuple[dict[str, np.ndarray], dict[int, str]]:
    """The rows of each split, and the rows that cannot be used with the reason.

    Without a split column everything is 'train', but for a `test_fraction` chosen by a hash of the source_id (photos of
    one observation stay together) or else of the key. A key that was there before makes a row unusable.

    Args:
      columns: field -> column of text.
      count: the number of rows.
      test_fraction: from 0 to below 1.

    Returns:
      split -> int64 rows in the order of the table, and row -> reason.
    """
    keys = columns.get("key", columns["filepath"])
    group = columns.get("source_id", keys)
    by_split: dict[str, list[int]] = {}
    bad: dict[int, str] = {}
    seen: set[str] = set()
    first = ""
    for row in range(count):
        key = cell(keys, row) or cell(columns["filepath"], row)
        if key and key in seen:
            bad[row] = "duplicate key"
        seen.add(key)
        if "split" in columns:
            split = re.sub(r"\W", "_", cell(columns["split"], row), flags=re.ASCII)
            if not split:
                bad[row] = "no split"
            first = first or split
        else:
            split = "test" if _uniform(cell(group, row) or key) < test_fraction else "train"
        by_split.setdefault(split, []).append(row)
    if unassigned := by_split.pop("", []):
        if not first:
            raise UsageError("the split column is empty; --columns split= leaves it alone")
        by_split[first] = sorted(by_split[first] + unassigned)
    return {split: np.array(rows, np.int64) for split, rows in by_split.items()}, bad


def _without_author(name: str) -> str:
    """Cuts a scientific name before its author: a later word that starts with a capital, a bracket or a digit."""
    words = name.split()
    if name.isupper():
        return name
    for place, word in enumerate(words):
        if place and (word[0].isupper() or word[0].isdigit() or word[0] in "([&"):
            return " ".join(words[:place])
    return name


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="replace"), digest_size=8).digest(), "big") / 2**64
