"""FishNet: nine traits of fishes (feeding path, five climate zones, three kinds of water) from photos, by a probe.

    bioclip-jax eval MODEL fishnet --root DIR

DIR holds `train.csv` and `test.csv` (75,631 and 18,901 rows by the publisher's card) and the photos as
`Image_Library/<folder>/<file>`, from https://fishnet-2023.github.io.

Labels: FeedingPath (pelagic 1, benthic 0), Tropical, Temperate, Subtropical, Boreal, Polar, freshwater, saltwater,
brackish. Protocol: a probe of two linear layers with dropout between them on features that are not normalised,
50 epochs, Adam at 1e-4; the share of photos with all nine labels right; mean of three seeds.
Licence: not stated by the publisher. Citation: Khan et al., ICCV 2023.
Known faults: labels have gaps; a photo that lacks one of the nine is left out and counted, as in the paper. The
reference implementation finds columns by position (the photo's path fourth, its folder thirteenth, labels fifteenth to
twenty-third); here labels are found by name and only fall back on the position.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.published.annotations import MISSING
from bioclip_jax.evaluation.published.layouts import Layout, differences, first_of_each, inside
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.probe import Probe
from bioclip_jax.pipeline.tables import read_table, text_column
from bioclip_jax.text.taxonomy import RANKS, Taxon

LAYOUT = Layout(
    "fishnet",
    "https://fishnet-2023.github.io",
    """
train.csv                         75,631 rows
test.csv                          18,901 rows; both with FeedingPath, Tropical ... brackish
Image_Library/<folder>/<file>
""",
)
TRAITS = (
    *("FeedingPath", "Tropical", "Temperate", "Subtropical", "Boreal", "Polar"),
    *("freshwater", "saltwater", "brackish"),
)
IMAGE, FOLDER, FIRST_TRAIT = 3, 12, 14
"""Places of columns, counted from 0."""
MEANINGS = {"pelagic": 1, "benthic": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0, "true": 1, "false": 0}
ROWS = {"train": 75_631, "test": 18_901}


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    folder = LAYOUT.open(root)
    paths = {split: LAYOUT.need(folder, f"{split}.csv", f"anns/{split}.csv") for split in ROWS}
    read = {split: _split(folder, split, path) for split, path in paths.items()}
    return TaskBenchmark(
        name=LAYOUT.name,
        description="Photographs of fishes with nine ecological traits.",
        license="not stated by the publisher; see the source",
        citation="Khan et al., FishNet: A Large-scale Dataset and Benchmark for Fish Recognition, Detection, and "
        "Functional Trait Prediction, ICCV 2023",
        source=LAYOUT.source,
        splits={split: photos for split, (photos, _) in read.items()},
        tasks=(Probe("fishnet", "train", "test", "traits", learning_rate=1e-4, metric="exact_match"),),
        notes=tuple(note for _, notes in read.values() for note in notes),
    )


def _split(root: Path, split: str, path: Path) -> tuple[PhotoList, tuple[str, ...]]:
    table, ragged = read_table(path)
    names = table.column_names
    by_name = all(trait in names for trait in TRAITS)
    if not by_name and len(names) < FIRST_TRAIT + len(TRAITS):
        raise LAYOUT.wrong(root, f"{path.name} has {len(names)} columns and not all of {', '.join(TRAITS)}")
    columns = [names.index(trait) for trait in TRAITS] if by_name else range(FIRST_TRAIT, FIRST_TRAIT + len(TRAITS))
    traits = np.stack([_numbers(_texts(table, place)) for place in columns], axis=1)
    files, below, partial = _photos(root, table, path)
    complete = (traits >= 0).all(axis=1)
    if not complete.any():
        raise UserError(f"table {path}: no photo has all nine of {', '.join(TRAITS)}")
    rows = np.flatnonzero(complete)
    first, again = first_of_each([files[row] for row in rows], [tuple(row) for row in traits[rows].tolist()])
    rows = rows[first]
    gaps = int((~complete).sum())
    taxa = _taxa(table)
    notes = [f"{gaps} of {len(files)} photos lack one of the nine labels and were left out"] if gaps else []
    notes += [f"{len(ragged)} lines have another number of cells than the header"] if ragged else []
    notes += [*again, *partial, *differences({"rows": ROWS[split]}, {"rows": len(files)})]
    return PhotoList(
        root,
        tuple(f"{below}/{files[row]}".strip("/") for row in rows),
        {"traits": traits[rows], **{name: traits[rows, place] for place, name in enumerate(TRAITS)}},
        tuple(taxa[row] for row in rows) if taxa else (),
    ), tuple(f"{split}: {note}" for note in notes)


def _photos(root: Path, table: pa.Table, path: Path) -> tuple[list[str], str, tuple[str, ...]]:
    """Files as `<folder>/<file>`, the folder they lie in, and a note where only some do."""
    if table.num_columns <= FOLDER:
        raise LAYOUT.wrong(
            root, f"{path.name} has {table.num_columns} columns, of which the folder is number {FOLDER + 1}"
        )
    images = [PurePosixPath(name.replace("\\", "/")).name for name in _texts(table, IMAGE)]
    files = inside(
        [f"{folder}/{image}".strip("/") for folder, image in zip(_texts(table, FOLDER), images, strict=True)], path
    )
    return files, *LAYOUT.images_below(root, files, ("Image_Library", ""))


def _numbers(texts: list[str]) -> np.ndarray:
    """1 or 0, and -1 where a label is missing or means neither."""
    return np.array([MEANINGS.get(text.lower(), -1) for text in texts], np.int64)


def _texts(table: pa.Table, place: int) -> list[str]:
    column = text_column(table.select([place]), table.column_names[place])
    return ["" if value.strip() in MISSING else value.strip() for value in column.to_pylist()]


def _taxa(table: pa.Table) -> list[Taxon]:
    """Species where the table has a column for them; intervals are drawn by species."""
    places = {name.strip().lower(): place for place, name in reversed(list(enumerate(table.column_names)))}
    if "species" not in places:
        return []
    ranks = {rank: _texts(table, places[rank]) for rank in RANKS if rank in places}
    return [Taxon.from_record(dict(zip(ranks, row, strict=True))) for row in zip(*ranks.values(), strict=True)]
