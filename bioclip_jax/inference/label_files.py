"""The names that photos may be given: a text file with one on each line, or a table of taxa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.heads import species_name, unique_taxa
from bioclip_jax.inference.photos import some_column
from bioclip_jax.pipeline.photo_table import cell, tidy_taxon
from bioclip_jax.pipeline.tables import find_columns, read_table, text_column
from bioclip_jax.text.taxonomy import RANKS, Taxon

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
_NAMES = ("class", "label", "name")
"""Columns of a table that hold names as they are, where it has no taxonomy."""


@dataclass(frozen=True)
class LabelSet:
    """The candidates, each once."""

    names: tuple[str, ...]
    """What each is called."""
    taxa: tuple[Taxon, ...] = ()
    """One per name where a table gives a taxonomy, else empty."""
    notes: tuple[str, ...] = ()
    """What was left out or put together, and why."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def ranks(self) -> tuple[str, ...]:
        """The ranks at which at least one of the taxa has a name."""
        return tuple(rank for rank in RANKS if any(taxon.rank(rank) for taxon in self.taxa))


def read_labels(path: Path, columns: Sequence[str] = ()) -> LabelSet:
    """The labels of a file.

    Args:
        path: text (UTF-8 or UTF-16), or a table by its ending: CSV, TSV or Parquet, with columns for ranks or names as
            `tables.COLUMN_NAMES` knows them. A table whose only such column is `class`, `label` or `name` has plain
            names.
        columns: which column of a table holds which field, as field=COLUMN.

    Raises:
        UsageError: there is no such file, or a table has no column with names.
        UserError: it cannot be read, or holds no label.
    """
    path = path.expanduser()
    if not path.is_file():
        raise UsageError(f"--labels {path}: " + ("is a folder, give a file" if path.is_dir() else "no such file"))
    if path.suffix.lower() in TABLE_SUFFIXES:
        labels = _from_table(path, columns)
    elif columns:
        raise UsageError(f"--label-columns is for a table; {path} is text, one name on each line")
    else:
        labels = _plain(_lines(path), ())
    if not labels.names:
        raise UserError(f"--labels {path}: no label in it")
    if len(labels) == 1:
        note = f"{path} has one label only: its score is 1 whatever a photo shows"
        labels = replace(labels, notes=(*labels.notes, note))
    return labels


def _lines(path: Path) -> list[str]:
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(
            f"--labels {path}: is not text in UTF-8; give one name on each line, or a .csv or .parquet table"
        )
    return text.splitlines()


def _plain(names: Sequence[str], notes: tuple[str, ...]) -> LabelSet:
    """White space collapsed, empty ones left out, each once."""
    tidy = [name for name in (" ".join(name.split()) for name in names) if name]
    distinct = tuple(dict.fromkeys(tidy))
    if len(distinct) < len(tidy):
        notes = (*notes, f"{len(tidy) - len(distinct):,} labels stand there more than once and count once")
    return LabelSet(distinct, notes=notes)


def _from_table(path: Path, columns: Sequence[str]) -> LabelSet:
    if wrong := [pair for pair in columns if "=" not in pair]:
        raise UsageError(f"--label-columns {wrong[0]}: write field=COLUMN, such as genus={wrong[0]}")
    table, ragged = read_table(path)
    notes = (f"{len(ragged):,} lines of {path} have more or fewer cells than its header",) if ragged else ()
    mapping = dict(pair.split("=", 1) for pair in columns)
    by_name = {name.strip().lower(): name for name in table.column_names}
    if "cls" in by_name and "class" in by_name:
        mapping.setdefault("class", by_name["cls"])  # then `class` is the whole name, as in BioCLIP's own tables
    chosen: dict[str, str] = {}
    try:
        # Files are not what this table is for.
        chosen = find_columns(table.column_names, {"filepath": some_column(table.column_names), **mapping}, path)
    except UsageError:
        if mapping or not any(name in by_name for name in _NAMES):
            raise
    fields = [field for field in (*RANKS, "scientific_name", "common_name") if field in chosen]
    if set(fields) <= {"class"}:
        column = next((by_name[name] for name in _NAMES if name in by_name), None) or chosen["class"]
        values = text_column(table, column)
        return _plain([cell(values, row) for row in range(len(values))], notes)
    text = {field: text_column(table, chosen[field]) for field in fields}
    rows = [tidy_taxon({field: cell(text[field], row) for field in fields}) for row in range(table.num_rows)]
    named = [taxon for taxon in rows if taxon != Taxon()]
    if len(named) < len(rows):
        notes = (*notes, f"{len(rows) - len(named):,} rows of {path} have no name at any rank")
    taxa = _distinct(named)
    return LabelSet(tuple(map(label_name, taxa)), taxa, notes)


def _distinct(named: Sequence[Taxon]) -> tuple[Taxon, ...]:
    """Each taxon once; those without any rank differ by their other names."""
    ranked = [taxon for taxon in named if any(taxon.ranks)]
    others = [taxon for taxon in named if not any(taxon.ranks)]
    return (*(unique_taxa(ranked)[0] if ranked else ()), *dict.fromkeys(others))


def label_name(taxon: Taxon) -> str:
    """The most specific name of a taxon."""
    lowest = next((name for name in reversed(taxon.ranks[:-1]) if name), "")
    return species_name(taxon) or lowest or taxon.scientific_name or taxon.common_name
