"""A published catalog (one row per image: what it shows) and its licences, by key, for the images that are there.

Tables are read in pieces, and a row whose image is not there takes no memory; one that is takes about 75 bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.crawled import canonical_key
from bioclip_jax.pipeline.tables import find_columns, read_pieces, read_table, text_column
from bioclip_jax.pipeline.tar_samples import key_hash
from bioclip_jax.pipeline.taxonomy_table import TaxonomyTable, is_among
from bioclip_jax.text.taxonomy import RANKS

_FIELDS = (*RANKS, "scientific_name", "common_name", "source", "source_id", "license", "image_type")
_LICENSE = (("license_name", "license", "licence"), ("license_link",))
_BOX = ("uuid", "x", "y", "width", "height")
Box = tuple[int, int, int, int]
"""(x, y, width, height) of a part of an image, in pixels of the image as it was published."""


@dataclass(frozen=True)
class Catalog:
    """The rows of a catalog whose image is there.

    Attributes:
      table: the rows by key.
      hashes: uint64 [len(table)], sorted: `key_hash` of their keys.
      rows: of the whole catalog.
      repeated: rows whose key was there before, which do not count.
      missing: the keys whose image is not there; empty unless it was asked for.
    """

    table: TaxonomyTable
    hashes: np.ndarray
    rows: int
    repeated: int
    missing: pa.Array


def read_catalog(
    path: Path,
    images: np.ndarray,
    *,
    provenance: Path | None = None,
    written: Callable[[str], str] = canonical_key,
    list_missing: bool = False,
    console: Console | None = None,
) -> Catalog:
    """Reads a Parquet or CSV table with a column `uuid` or `key` and those of `tables.COLUMN_NAMES`.

    Args:
      path: of the catalog.
      images: uint64, `key_hash` of the keys of all images.
      provenance: a table with a column `uuid` or `key` and `license_name` or `license_link`.
      written: how the images' keys are written; applied to the keys of the tables.
      list_missing: keep the keys of rows whose image is not there.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: there is no such file, or no column holds the keys, any name, or a licence.
      UserError: it cannot be read.
    """
    images = np.unique(images)
    total, hashes, kept, missing = 0, [np.zeros(0, np.uint64)], [], [pa.array([], pa.large_string())]
    for piece in read_pieces(path, _catalog_columns, "reading the catalog", console):
        keys = text_column(piece, "key")
        found, here = _lookup(keys, images, written)
        hashes.append(found[here])
        total += len(keys)
        rows = piece.filter(pa.array(here))
        # Few names occur often, so a dictionary is small. Keys of observations differ.
        columns = {name: text_column(rows, name) for name in rows.column_names if name != "key"}
        kept.append(pa.table({n: c if n == "source_id" else c.dictionary_encode() for n, c in columns.items()}))
        if list_missing:
            missing.append(keys.filter(pa.array(~here)))
    together = np.concatenate(hashes)
    sorted_hashes, order = np.unique(together, return_index=True)
    columns = {}
    if kept:
        table = pa.concat_tables(kept).unify_dictionaries().combine_chunks().take(order)
        columns = {name: table[name].combine_chunks() for name in table.column_names}
    if provenance is not None:
        columns["license"] = _licenses(provenance, sorted_hashes, written, console)
    return Catalog(
        TaxonomyTable(sorted_hashes, columns),
        sorted_hashes,
        total,
        len(together) - len(sorted_hashes),
        pa.concat_arrays(missing),
    )


def read_boxes(path: Path) -> dict[str, Box]:
    """The part of an image that counts, by canonical key: the `fathom_metadata.csv` of TreeOfLife-200M.

    Raises:
      UsageError: there is no such file, or it has no columns uuid, x, y, width and height.
      UserError: it cannot be read, or a number is none.
    """
    table, _ = read_table(path)
    if absent := [name for name in _BOX if name not in table.column_names]:
        raise UsageError(f"table {path} has no column {absent[0]!r}; its columns are: {', '.join(table.column_names)}")
    keys, *numbers = (text_column(table, name).to_pylist() for name in _BOX)
    boxes = {}
    for row, key in enumerate(keys):
        try:
            x, y, width, height = (round(float(column[row])) for column in numbers)
        except (ValueError, OverflowError):
            raise UserError(f"table {path}, row {row + 1}: the box is not four numbers") from None
        boxes[canonical_key(key)] = x, y, width, height
    return boxes


def _lookup(keys: pa.Array, wanted: np.ndarray, written: Callable[[str], str]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the keys, and whether each is among the sorted hashes `wanted`; an empty key never is."""
    texts = keys.to_pylist()
    hashes = np.fromiter((key_hash(written(key).encode()) for key in texts), np.uint64, len(texts))
    filled = np.fromiter(map(bool, texts), bool, len(texts))
    return hashes, is_among(hashes, wanted) & filled


def _licenses(
    path: Path, hashes: np.ndarray, written: Callable[[str], str], console: Console | None
) -> pa.DictionaryArray:
    """The licence of each key; '' where the table has none. Of rows with the same key the first counts."""
    codes, names = np.zeros(len(hashes), np.int32), {"": 0}
    for piece in read_pieces(path, _license_columns, "reading licences", console):
        found, here = _lookup(text_column(piece, "key"), hashes, written)
        rows = piece.filter(pa.array(here))
        places = np.searchsorted(hashes, found[here])
        for name in ("link", "license"):  # the name goes before the address
            if name in rows.column_names:
                texts = text_column(rows, name).dictionary_encode()
                local = [names.setdefault(text.strip(), len(names)) for text in texts.dictionary.to_pylist()]
                here_codes = np.array([*local, 0], np.int32)[texts.indices.to_numpy(zero_copy_only=False)]
                at = np.flatnonzero(here_codes)[::-1]  # so that the first of several is written last
                codes[places[at]] = here_codes[at]
    return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(list(names), pa.large_string()))


def _catalog_columns(names: list[str], path: Path) -> dict[str, str]:
    left_alone = {"filepath": names[0] if names else "", "split": ""}
    columns = find_columns(names, left_alone, path)
    if "key" not in columns:
        raise UsageError(f"catalog {path}: no column 'uuid' or 'key' holds the keys of the images")
    return {field: columns[field] for field in ("key", *_FIELDS) if field in columns}


def _license_columns(names: list[str], path: Path) -> dict[str, str]:
    key = next((name for name in ("uuid", "key") if name in names), None)
    license_, link = (next((name for name in guesses if name in names), None) for guesses in _LICENSE)
    if key is None or not (license_ or link):
        raise UsageError(
            f"provenance {path}: needs a column uuid and license_name or license_link; its columns are: "
            f"{', '.join(names)}"
        )
    return {field: name for field, name in (("key", key), ("license", license_), ("link", link)) if name}
