"""Animals with Attributes 2: 85 attributes of animals, learnt on photos of 40 classes and asked of 10 others.

    bioclip-jax eval MODEL awa2 --root DIR

DIR is the unpacked AwA2-base and AwA2-data of https://cvml.ista.ac.at/AwA2: `classes.txt`, `trainclasses.txt`,
`testclasses.txt`, `predicate-matrix-binary.txt` (50 x 85) and `JPEGImages/<class>/` (37,322 photos).

Labels: a class's row of the matrix is that of all its photos. Protocol: a probe of two linear layers with dropout
between them on features that are not normalised, 50 epochs, Adam at 1e-5; mean of three seeds. The paper's macro-F1 is
the mean over the first two attributes, black and white, only; true macro-F1 over all 85 is `corrected`.
Licence: photos from the web that were published for free use and redistribution, each with its own.
Citation: Xian et al., TPAMI 2019.
Known faults: `classes.txt` has a number before each name, which the reference implementation, comparing whole lines,
does not expect; numbers are dropped here. Photos are taken by name, there in the order of the file system.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.published.layouts import Layout, differences, printable, read_pairs
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.probe import Probe

LAYOUT = Layout(
    "awa2",
    "https://cvml.ista.ac.at/AwA2 (AwA2-base.zip and AwA2-data.zip)",
    """
classes.txt                     50 lines: number, name
trainclasses.txt                40 names
testclasses.txt                 10 names
predicate-matrix-binary.txt     50 rows of 85 zeros and ones
JPEGImages/<class>/<file>.jpg
""",
)
COUNTS = {"photos": 37_322, "classes": 50, "training classes": 40, "test classes": 10, "attributes": 85}


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    folder = LAYOUT.open(root)
    names = [name for _, name in read_pairs(LAYOUT.need(folder, "classes.txt"))]
    attributes = _matrix(LAYOUT.need(folder, "predicate-matrix-binary.txt"), names)
    photos = LAYOUT.image_folder(folder, "JPEGImages")
    splits = {split: _classes(folder, split, names) for split in ("train", "test")}
    if both := set(splits["train"]) & set(splits["test"]):
        raise UserError(f"{folder}: class {printable(min(both))} is in trainclasses.txt and in testclasses.txt")
    number = {name: row for row, name in enumerate(names)}
    lists, notes = {}, list(photos.notes)
    for split, classes in splits.items():
        known = set(classes)
        rows = [row for row, label in enumerate(photos.labels) if label in known]
        if not rows:
            raise LAYOUT.wrong(folder, f"no class of {split}classes.txt has a photo in JPEGImages")
        labels = [photos.labels[row] for row in rows]
        if absent := known - set(labels):
            notes.append(f"{len(absent)} of {len(known)} classes of {split}classes.txt have no photo")
        lists[split] = PhotoList(
            folder,
            tuple(photos.files[row] for row in rows),
            {"class": np.array(labels, str), "attributes": attributes[[number[label] for label in labels]]},
        )
    others = sorted(set(photos.labels) - set(splits["train"]) - set(splits["test"]))
    if others:
        notes.append(
            f"{len(others)} folders of JPEGImages are in neither list of classes (first: {printable(others[0])})"
        )
    counted = (len(photos.files), len(names), len(splits["train"]), len(splits["test"]), attributes.shape[1])
    return TaskBenchmark(
        name=LAYOUT.name,
        description="Photographs of 50 kinds of mammals, with 85 attributes of each kind.",
        license="each photo's own, all for free use and redistribution",
        citation="Xian, Lampert, Schiele and Akata, Zero-Shot Learning: A Comprehensive Evaluation of the Good, the "
        "Bad and the Ugly, TPAMI 2019",
        source=LAYOUT.source,
        splits=lists,
        tasks=(Probe("awa2", "train", "test", "attributes", metric="f1", learning_rate=1e-5),),
        notes=(
            "photos are taken in the order of their names; the reference implementation takes the file system's",
            *notes,
            *differences(COUNTS, dict(zip(COUNTS, counted, strict=True))),
        ),
    )


def _classes(folder: Path, split: str, names: list[str]) -> list[str]:
    path = LAYOUT.need(folder, f"{split}classes.txt")
    found = [name for _, name in read_pairs(path)]
    if unknown := sorted(set(found) - set(names)):
        raise UserError(f"{path} names a class that classes.txt lacks: {printable(unknown[0])}")
    return found


def _matrix(path: Path, names: list[str]) -> np.ndarray:
    """int64 `[classes, attributes]` of 0 and 1."""
    rows = [[first, *rest.split()] for first, rest in read_pairs(path)]
    if {len(row) for row in rows} != {len(rows[0]) if rows else 0} or len(rows) != len(names):
        raise UserError(f"{path} has {len(rows)} rows, of unlike length or not one for each of {len(names)} classes")
    if wrong := {cell for row in rows for cell in row} - {"0", "1"}:
        raise UserError(f"{path} holds zeros and ones only, not {min(wrong)!r}")
    return np.array(rows, np.int64)
