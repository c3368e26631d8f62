"""Reading a table of photos: the file (CSV or Parquet), and which of its columns holds which field of a record."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.text.taxonomy import RANKS

COLUMN_NAMES: Mapping[str, tuple[str, ...]] = {
    "filepath": (
        *("filepath", "file_path", "filename", "file_name", "image_path", "path", "file", "image_file", "image_name"),
        *("image", "photo", "associatedMedia", "identifier"),
    ),
    "key": ("key", "uuid", "image_id", "photo_id", "id"),
    "split": ("split", "subset", "partition", "fold"),
    "kingdom": ("kingdom",),
    "phylum": ("phylum",),
    "class": ("class", "cls", "class_"),
    "order": ("order", "order_"),
    "family": ("family",),
    "genus": ("genus",),
    "species": ("specificEpithet", "epithet", "species"),
    "scientific_name": ("scientific_name", "scientificName", "sci_name", "sci", "acceptedScientificName", "taxon_name"),
    "common_name": ("common_name", "vernacularName", "common", "com", "preferred_common_name"),
    "source": ("source", "data_source", "datasetName", "provider"),
    "source_id": ("source_id", "occurrenceID", "gbifID", "observation_id", "observation_uuid"),
    "license": ("license", "licence", "license_name", "rights"),
    "image_type": ("image_type", "img_type", "basisOfRecord"),
    "latitude": ("latitude", "decimalLatitude", "lat"),
    "longitude": ("longitude", "decimalLongitude", "lon", "lng", "long"),
}
"""For each field the column names recognised, the first one there wins; case, spaces, '_' and '-' do not matter."""

_NAMES = (*RANKS, "scientific_name", "common_name")


def read_table(path: Path) -> tuple[pa.Table, list[str]]:
    """Reads a CSV file (UTF-8 or UTF-16; comma, semicolon or tab) or a Parquet file; the cells of a CSV as text.

    Returns:
      the table, and the lines of a CSV that have more or fewer cells than its header, which are not in it.

    Raises:
      UsageError: there is no such file.
      UserError: it cannot be read as a table, or has no rows.
    """
    if not path.is_file():
        raise UsageError(f"table {path}: " + ("is a directory, give a file" if path.is_dir() else "no such file"))
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
        table, ragged = (pyarrow.parquet.read_table(path), []) if parquet else _read_csv(path)
    except (pa.ArrowException, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"table {path} is neither a CSV file in UTF-8 nor a Parquet file ({reason})") from error
    except OSError as error:
        raise UserError(f"table {path} cannot be read: {error.strerror or error}") from error
    if not table.num_rows:
        rows = f"no row with the {table.num_columns} columns of its header" if ragged else "no rows"
        raise UserError(f"table {path} has {rows}")
    return table, ragged


def read_pieces(
    path: Path, choose: Callable[[list[str], Path], dict[str, str]], action: str, console: Console | None
) -> Iterator[pa.Table]:
    """The chosen columns of a CSV or Parquet file in parts, each column called by its field.

    Args:
      path: of the table.
      choose: from the names of its columns and its path, which column holds which field.
      action: what the progress is called, such as 'reading the catalog'.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: there is no such file, or `choose` finds no columns.
      UserError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == b"PAR1"
    except OSError:
        parquet = False  # `read_table` says what is wrong
    if not parquet:
        table, _ = read_table(path)
        names = choose(table.column_names, path)
        yield table.select(list(names.values())).rename_columns(list(names))
        return
    try:
        with pyarrow.parquet.ParquetFile(path) as content:
            names = choose(content.schema_arrow.names, path)
            with RecordProgress(content.metadata.num_rows, action, console, unit="rows") as progress:
                for batch in content.iter_batches(columns=list(names.values())):
                    yield pa.Table.from_batches([batch]).select(list(names.values())).rename_columns(list(names))
                    progress.advance(batch.num_rows)
    except (pa.ArrowException, OSError) as error:
        reason = re.split(r"[\r\n]", str(error), maxsplit=1)[0]
        raise UserError(f"table {path} cannot be read as Parquet ({reason}); fetch it again") from error


def find_columns(names: Sequence[str], mapping: Mapping[str, str], table: Path) -> dict[str, str]:
    """Which column holds which field: as `mapping` says, else by the names in `COLUMN_NAMES`.

    Args:
      names: the columns of the table.
      mapping: field -> column; '' for a field that is to be left alone.
      table: for messages.

    Raises:
      UsageError: a field or column that does not exist, or no column for the image files or for any name.
    """
    found = f"the columns of {table} are: {', '.join(names)}"
    for field, column in mapping.items():
        if field not in COLUMN_NAMES:
            raise UsageError(f"--columns {field}={column}: no such field; the fields are {', '.join(COLUMN_NAMES)}")
        if column and names.count(column) != 1:
            problem = "more than one such column" if column in names else "no such column"
            raise UsageError(f"--columns {field}={column}: {problem}; {found}")
    by_plain_name: dict[str, str] = {}
    for name in names:
        by_plain_name.setdefault(_plain(name), name)
    columns = dict(mapping)
    for field, guesses in COLUMN_NAMES.items():
        if field not in columns:
            columns[field] = next((by_plain_name[_plain(g)] for g in guesses if _plain(g) in by_plain_name), "")
    columns = {field: column for field, column in columns.items() if column}
    if "filepath" not in columns:
        raise UsageError(f"no column holds the image files; name it with --columns filepath=COLUMN; {found}")
    if not any(field in columns for field in _NAMES):
        raise UsageError(f"no column holds a taxon; name one with --columns scientific_name=COLUMN or a rank; {found}")
    return columns


def text_column(table: pa.Table, name: str) -> pa.Array:
    """A column as text, '' where it is null.

    Raises:
      UsageError: its values are lists or other things that have no text.
      UserError: it is not UTF-8.
    """
    column = table.column(table.column_names.index(name))
    try:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        text = pc.fill_null(column.cast(pa.large_string()), "").combine_chunks()
        text.validate(full=True)  # a damaged Parquet file may hold any bytes
    except pa.ArrowInvalid as error:
        raise UserError(f"column {name!r} holds text that is not UTF-8") from error
    except pa.ArrowException as error:
        raise UsageError(f"column {name!r} holds {column.type} values, not text or numbers") from error
    return text


def _read_csv(path: Path) -> tuple[pa.Table, list[str]]:
    with path.open("rb") as file:
        head = file.read(1 << 16)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = codecs.getincrementaldecoder(encoding)().decode(head)
    first_line = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=first_line.count)
    names = next(csv.reader(io.StringIO(first_line), delimiter=delimiter), [])
    ragged: list[str] = []

    def skip(row: pyarrow.csv.InvalidRow) -> str:
        ragged.append(row.text)
        return "skip"

    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(encoding="utf-16" if encoding == "utf-16" else "utf8"),
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, invalid_row_handler=skip),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys((name.strip("\r") for name in names), pa.string())
        ),
    )
    return table, ragged


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]", "", name.rpartition(":")[2]).lower()  # 'dwc:scientificName' is Darwin Core, too
