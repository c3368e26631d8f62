"""Photos listed in a table: a CSV or Parquet file with one row per image, and the image files beside it.

    bioclip-jax data build photo_table OUT --table photos/metadata.csv

Columns are recognised by their usual names (`filepath`, `kingdom` ... `species`, `scientific_name`, `common_name`,
`split`, `license`; Darwin Core and GBIF headers such as `scientificName`, `vernacularName`, `specificEpithet`,
`decimalLatitude`, `occurrenceID`); `--columns` names the others. Rows that cannot be used are counted and listed in
`rejected.csv`.
"""

from __future__ import annotations

from pathlib import Path

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.photo_table import PhotoTable, split_rows
from bioclip_jax.pipeline.tables import find_columns, read_table, text_column


def source(
    *,
    table: Path,
    images: Path | None = None,
    columns: tuple[str, ...] = (),
    attributes: tuple[str, ...] = (),
    test_fraction: float = 0.0,
) -> dict[str, PhotoTable]:
    """The splits of a table of photos.

    Args:
      table: CSV (comma, semicolon or tab; UTF-8) or Parquet, one row per image.
      images: the folder that the file names are relative to; the table's own folder if not given.
      columns: which column holds which field, as field=COLUMN pairs; field= alone leaves that field empty.
      attributes: further columns to keep with each record, as text.
      test_fraction: without a split column, this part of the photos becomes the split 'test', chosen by a hash of the
        observation (source_id) or else of the key; the rest is 'train'.
    """
    table = Path(table).expanduser()
    folder = Path(images).expanduser() if images is not None else table.parent
    if not folder.is_dir():
        raise UsageError(f"--images {folder}: no such directory")
    if not 0 <= test_fraction < 1:
        raise UsageError(f"--test-fraction {test_fraction}: must be at least 0 and below 1")
    if wrong := [pair for pair in columns if "=" not in pair]:
        raise UsageError(f"--columns {wrong[0]}: write field=COLUMN, such as filepath={wrong[0]}")
    content, ragged = read_table(table)
    chosen = find_columns(content.column_names, dict(pair.split("=", 1) for pair in columns), table)
    for name in attributes:
        if content.column_names.count(name) != 1:
            raise UsageError(f"--attributes {name}: no such column; the columns are {', '.join(content.column_names)}")
    text = {field: text_column(content, name) for field, name in chosen.items()}
    extra = {name: text_column(content, name) for name in attributes}
    rows, bad_rows = split_rows(text, content.num_rows, test_fraction)
    first = next(iter(rows))  # which split a line that cannot be parsed belongs to is not known
    return {
        split: PhotoTable(
            text, rows[split], bad_rows, folder.resolve(), table.stem, extra, ragged if split == first else ()
        )
        for split in rows
    }
