"""The tables that BioCLIP's zero-shot and few-shot evaluations are annotated by, and their benchmarks.

A table has a column `filepath`, and `class` or the ranks `kingdom, phylum, cls, order, family, genus, species` with
`common_name` (and `subspecies`). A photo's class is a text: the class column as it stands (`asis`), or its taxon's name
in one of five text types, written as the reference implementation writes it (`text.captions.class_name`). Photos with
one text are one class; classes are numbered by first appearance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.published.layouts import Layout, differences, first_of_each, inside, printable
from bioclip_jax.evaluation.task import Task
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.class_zero_shot import ZeroShot
from bioclip_jax.evaluation.tasks.linear_probe import LinearProbe
from bioclip_jax.evaluation.tasks.nearest_neighbours import KNN
from bioclip_jax.evaluation.tasks.retrieval import Retrieval
from bioclip_jax.evaluation.tasks.simple_shot import SimpleShot
from bioclip_jax.evaluation.tasks.taxonomic import Taxonomic
from bioclip_jax.pipeline.tables import COLUMN_NAMES, read_table, text_column
from bioclip_jax.text.captions import TEXT_TYPES, class_name
from bioclip_jax.text.taxonomy import Taxon

ASIS = "asis"
SPLIT = "test"
"""What the one split of an annotated benchmark is called."""

MISSING = frozenset(
    "#N/A, #N/A N/A, #NA, -1.#IND, -1.#QNAN, -NaN, -nan, 1.#IND, 1.#QNAN, <NA>, N/A, NA, NULL, NaN, None, n/a, nan, "
    "null".split(", ")
)
"""What pandas reads as a missing value, and so the reference implementation as an empty name."""

SCIENTIFIC_NAME = (
    "the column scientific_name, at which the reference implementation's reader of taxa stops with an error, is read "
    "as one of the taxon's names; class texts are made from the ranks, as there"
)

_RANK_COLUMNS = ("kingdom", "phylum", "order", "family", "genus", "species")
_EXTRA = ("subspecies", "scientific_name", "common_name")


@dataclass(frozen=True)
class Annotations:
    """A table of labelled photos."""

    files: tuple[str, ...]
    """As the table writes them, with `/`."""
    columns: Mapping[str, np.ndarray]
    """`class`, the classes by the text type asked for; with ranks, the classes by each of the five types under its
    name; `asis`, where a table has both; and further columns asked for. Each str `[n]`, '' where unknown."""
    taxa: tuple[Taxon, ...]
    notes: tuple[str, ...]

    def photos(self, root: Path, below: str = "", rows: np.ndarray | None = None) -> PhotoList:
        """The photos, or those of `rows` int `[m]`, whose files lie in the folder `below` of `root`."""
        prefix = f"{below}/" if below else ""
        rows = np.arange(len(self.files)) if rows is None else rows
        return PhotoList(
            root,
            tuple(prefix + self.files[row] for row in rows),
            {name: values[rows] for name, values in self.columns.items()},
            tuple(self.taxa[row] for row in rows) if self.taxa else (),
        )


def read_annotations(path: Path, text_type: str | None = None, *, extra: Sequence[str] = ()) -> Annotations:
    """Reads a table of labelled photos (CSV or Parquet; a first column without a name is an index).

    Args:
        path: of the table.
        text_type: what is a class: `asis` or one of `TEXT_TYPES`; None takes `taxon_com` where there are ranks.
        extra: further columns to keep where the table has them.

    Raises:
        UsageError: there is no such file, or it lacks the columns for photos or for classes.
        UserError: it cannot be read, names a file outside its folder, or labels nothing.
    """
    table, ragged = read_table(path)
    names = _by_plain_name(table.column_names)
    file_column = next((names[plain] for guess in COLUMN_NAMES["filepath"] if (plain := _plain(guess)) in names), "")
    if not file_column:
        raise UsageError(f"table {path}: no column holds the photos (filepath); it has {_list(table.column_names)}")
    ranks = {rank: names[rank] for rank in _RANK_COLUMNS if rank in names}
    label = next((names[name] for name in ("label", "category") if name in names), "")
    asis = names.get("class", label)
    if "cls" in names:
        ranks["class"] = names["cls"]
    elif len(ranks) > 1 and names.get("class"):  # beside other ranks, `class` is one
        ranks["class"], asis = names["class"], label
    text_type = text_type or ("taxon_com" if ranks else ASIS)
    if text_type != ASIS and text_type not in TEXT_TYPES:
        raise UsageError(f"text type {text_type!r} is not one of {ASIS}, {', '.join(TEXT_TYPES)}")
    files = inside(text_column(table, file_column).to_pylist(), path)
    texts = {field: _texts(table, names[_plain(field)]) for field in _EXTRA if _plain(field) in names}
    texts |= {rank: _texts(table, column) for rank, column in ranks.items()}
    columns = {name: _texts(table, names[_plain(name)]) for name in extra if _plain(name) in names}
    taxa: list[Taxon] = []
    if ranks:
        subspecies = texts.pop("subspecies", [""] * len(files))
        taxa = [Taxon.from_record(dict(zip(texts, row, strict=True))) for row in zip(*texts.values(), strict=True)]
        columns |= {kind: class_names(taxa, subspecies, kind) for kind in TEXT_TYPES}
    elif "common_name" in texts:
        columns["com"] = texts["common_name"]
    if asis:
        columns[ASIS] = [value if value.strip() else "" for value in _texts(table, asis)]
    if text_type not in columns:
        wanted = "class" if text_type == ASIS else "kingdom ... species, or common_name"
        raise UsageError(f"table {path}: no column {wanted}; it has {_list(table.column_names)}")
    columns["class"] = columns[text_type]
    notes = [f"{len(ragged)} lines of {path.name} have another number of cells than its header"] if ragged else []
    if "scientific_name" in texts and ranks:
        notes.append(SCIENTIFIC_NAME)
    rows, again = first_of_each(files, list(zip(*columns.values(), strict=True)))
    notes += [f"{path.name}: {note}" for note in again]
    chosen = {name: np.array([values[row] for row in rows], str) for name, values in columns.items()}
    unlabelled = int((chosen["class"] == "").sum())
    if unlabelled == len(rows):
        raise UserError(f"table {path}: no photo has a class")
    if unlabelled:
        notes.append(f"{unlabelled} photos have no class")
    return Annotations(
        tuple(files[row] for row in rows), chosen, tuple(taxa[row] for row in rows) if taxa else (), tuple(notes)
    )


def class_names(taxa: Sequence[Taxon], subspecies: Sequence[str], text_type: str) -> list[str]:
    """What photos of `taxa` are called; '' where nothing is known, of which the reference makes the class " "."""
    names = [class_name(taxon, text_type, below) for taxon, below in zip(taxa, subspecies, strict=True)]
    return [name if name.strip() else "" for name in names]


def _texts(table: pa.Table, column: str) -> list[str]:
    """A column as text, '' for what pandas reads as missing; else as it stands, since spaces tell classes apart."""
    values = [value.rstrip("\r\n") for value in text_column(table, column).to_pylist()]
    return ["" if value.strip() in MISSING else value for value in values]


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "").replace(" ", "").replace("-", "")


def _by_plain_name(columns: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for column in columns:
        found.setdefault(_plain(column), column)
    found.pop("", None)
    return found


def _list(columns: Sequence[str]) -> str:
    return ", ".join(printable(column) or "(one without a name)" for column in columns)


def missing_ranks(taxa: Sequence[Taxon]) -> tuple[str, ...]:
    """A note that counts photos without a name at some rank."""
    ranks = {"kingdom": 0, "phylum": 1, "class": 2, "order": 3, "family": 4, "genus": 5, "species": 6}
    counts = {rank: sum(not taxon.ranks[place] for taxon in taxa) for rank, place in ranks.items()}
    lacking = [f"{rank} of {count}" for rank, count in counts.items() if count]
    if not lacking:
        return ()
    return (f"ranks are empty: {', '.join(lacking)} of {len(taxa)} photos; class texts keep a space for each",)


def tasks_of(photos: PhotoList, *, split: str = SPLIT, prefix: str = "") -> tuple[Task, ...]:
    """Zero-shot and few-shot on the column `class`, as in the paper; retrieval; with taxa other texts and ranks."""
    tasks: list[Task] = [ZeroShot(f"{prefix}zero_shot", split), SimpleShot(f"{prefix}few_shot", split)]
    if photos.taxa:
        given = photos.columns["class"]
        others = [kind for kind in TEXT_TYPES if kind in photos.columns and (photos.columns[kind] != given).any()]
        tasks += [ZeroShot(f"{prefix}zero_shot_{kind}", split, column=kind) for kind in others]
        tasks.append(Taxonomic(f"{prefix}taxonomic", split))  # retrieval is among its figures
    else:
        tasks.append(Retrieval(f"{prefix}retrieval", split))
    return tuple(tasks)


def tasks_of_splits(splits: Mapping[str, PhotoList]) -> tuple[Task, ...]:
    """`tasks_of` each split; where `train` is one of several: of the others, and linear probe and kNN learnt on it."""
    learnt = "train" in splits and len(splits) > 1
    measured = [split for split in splits if split != "train" or not learnt]
    tasks: list[Task] = []
    for split in measured:
        prefix = f"{split}_" if len(measured) > 1 else ""
        tasks += tasks_of(splits[split], split=split, prefix=prefix)
        if learnt:
            tasks += [LinearProbe(f"{prefix}linear_probe", "train", split, "class")]
            tasks += [KNN(f"{prefix}knn", "train", split, "class")]
    return tuple(tasks)


@dataclass(frozen=True)
class Annotated:
    """A benchmark of one annotated table, as published."""

    layout: Layout
    description: str
    license: str
    citation: str
    tables: tuple[str, ...]
    """Where the table may lie, below the root."""
    images: tuple[str, ...]
    """What file names may be relative to, below the root; "" is the root."""
    text_type: str = ASIS
    counts: Mapping[str, int] | None = None
    """`photos` and `classes` of the published table."""
    notes: tuple[str, ...] = ()

    def photos(self, root: str | None) -> tuple[PhotoList, tuple[str, ...]]:
        """The labelled photos, and notes on them; raises `LayoutError` where files are missing."""
        folder = self.layout.open(root)
        found = read_annotations(self.layout.need(folder, *self.tables), self.text_type)
        below, notes = self.layout.images_below(folder, found.files, self.images)
        photos = found.photos(folder, below)
        classes = photos.columns["class"].tolist()
        counted = {"photos": len(photos), "classes": len(set(classes) - {""})}
        return photos, (
            *self.notes,
            *found.notes,
            *notes,
            *differences(self.counts or {}, counted),
            *missing_ranks(photos.taxa),
        )

    def benchmark(self, root: str | None) -> TaskBenchmark:
        """The benchmark on the files in `root`."""
        photos, notes = self.photos(root)
        return TaskBenchmark(
            name=self.layout.name,
            description=self.description,
            license=self.license,
            citation=self.citation,
            source=self.layout.source,
            splits={SPLIT: photos},
            tasks=tasks_of(photos),
            notes=notes,
        )
