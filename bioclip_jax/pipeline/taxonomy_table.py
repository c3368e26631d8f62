"""A table of taxa by key, such as the catalog of TreeOfLife-200M: what a photo shows, where the tars do not say it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.photo_table import cell
from bioclip_jax.pipeline.tables import find_columns, read_pieces, text_column
from bioclip_jax.pipeline.tar_samples import key_hash
from bioclip_jax.pipeline.tar_texts import epithet
from bioclip_jax.text.taxonomy import RANKS

_FIELDS = (*RANKS, "scientific_name", "common_name", "source", "source_id", "license", "image_type")


class TaxonomyTable:
    """The rows of a table by key; picklable, safe to use from many threads.

    Args:
      hashes: uint64 [rows], sorted: `key_hash` of each row's key.
      columns: field of a record -> column of text in the same order.
    """

    def __init__(self, hashes: np.ndarray, columns: dict[str, pa.Array]):
        self._hashes, self._columns = hashes, columns

    def __len__(self) -> int:
        return len(self._hashes)

    def get(self, key: str) -> dict[str, str] | None:
        """The fields that the table has for `key`; None if it has no such row."""
        wanted = key_hash(key.encode())
        row = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        if row == len(self._hashes) or int(self._hashes[row]) != wanted:
            return None
        fields = {field: cell(column, row) for field, column in self._columns.items()}
        if "species" in fields:
            fields["species"] = epithet(fields.get("genus", ""), fields["species"])
        return fields


def is_among(hashes: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Whether each of these is among the sorted `wanted`; `numpy.isin` would sort what is wanted each time."""
    if not len(wanted):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
    found: np.ndarray = wanted[places] == hashes
    return found


def read_taxonomy(path: Path, keys: np.ndarray | None = None, console: Console | None = None) -> TaxonomyTable:
    """Reads a Parquet or CSV table with a column `uuid` or `key` and those of `tables.COLUMN_NAMES`.

    Parquet is read in pieces; a row that no key asks for takes no memory. Of rows with the same key the first counts.

    Args:
      path: of the table.
      keys: uint64, `key_hash` of the keys that will be asked for; all rows are kept if not given.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: there is no such file, or no column holds the keys or any name.
      UserError: it cannot be read.
    """
    keys = None if keys is None else np.unique(keys)
    kept_hashes, kept = [np.zeros(0, np.uint64)], []
    for table in read_pieces(path, _fields, "reading the taxonomy", console):
        key_column = text_column(table, "key")
        hashes = np.fromiter((key_hash(key.encode()) for key in key_column.to_pylist()), np.uint64, table.num_rows)
        if keys is not None:
            rows = np.flatnonzero(is_among(hashes, keys))
            hashes, table = hashes[rows], table.take(rows)
        kept_hashes.append(hashes)
        # Few names occur often, so a dictionary is small. Keys of observations differ.
        kept.append(
            pa.table(
                {
                    name: column if name == "source_id" else column.dictionary_encode()
                    for name in table.column_names
                    if name != "key" and (column := text_column(table, name)) is not None
                }
            )
        )
    hashes, order = np.unique(np.concatenate(kept_hashes), return_index=True)
    everything = pa.concat_tables(kept).unify_dictionaries().combine_chunks().take(order)
    return TaxonomyTable(hashes, {name: everything[name].combine_chunks() for name in everything.column_names})


def _fields(names: list[str], path: Path) -> dict[str, str]:
    columns = find_columns(names, {"filepath": names[0], "split": ""}, path)  # files are not what this table is for
    if "key" not in columns:
        raise UsageError(f"taxonomy {path}: no column 'uuid' or 'key' holds the keys of the samples")
    return {field: columns[field] for field in ("key", *_FIELDS) if field in columns}
