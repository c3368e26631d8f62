"""NABirds: 555 categories of North American birds by common name; zero-shot and few-shot.

    bioclip-jax eval MODEL nabirds --root DIR

DIR is the unpacked archive of https://dl.allaboutbirds.org/nabirds (on request): `images/0817/<id>.jpg` and so on, with
`metadata.csv` (48,562 rows: filepath, class; data/annotation of github.com/Imageomics/bioclip-2) beside `images`.
Without `metadata.csv` the archive's own `images.txt`, `image_class_labels.txt` and `classes.txt` are read: the same
photos, but in another order, so that few-shot folds differ from the paper's.

Labels: the class names as they stand, such as "Oak Titmouse". Protocol: all photos, training ones too; 81 templates,
top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Licence: for research and education, not for commercial use, by the terms that are accepted before the download.
Citation: Van Horn et al., CVPR 2015.
Known faults: BioCLIP 2's card says 48,640 photos, its table and the archive have 48,562.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.published.annotations import SPLIT, Annotated, tasks_of
from bioclip_jax.evaluation.published.layouts import Layout, differences, inside, read_pairs
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark

LAYOUT = Layout(
    "nabirds",
    "https://dl.allaboutbirds.org/nabirds, and metadata.csv of data/annotation in github.com/Imageomics/bioclip-2",
    """
metadata.csv                columns filepath and class: 48,562 rows, 555 classes
  or images.txt, image_class_labels.txt and classes.txt
images/0817/<id>.jpg
""",
)
COUNTS = {"photos": 48_562, "classes": 555}
ANNOTATED = Annotated(
    layout=LAYOUT,
    description="Photographs of North American birds; 555 visual categories of about 400 species.",
    license="research and education only, by the terms of the Cornell Lab of Ornithology",
    citation="Van Horn et al., Building a bird recognition app and large scale dataset with citizen scientists: The "
    "fine print in fine-grained dataset collection, CVPR 2015",
    tables=("metadata.csv", "annotation/nabirds/metadata.csv"),
    images=("images", ""),
    counts=COUNTS,
    notes=("BioCLIP 2's card says 48,640 photos; its table has 48,562",),
)


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    folder = LAYOUT.open(root)
    if LAYOUT.first(folder, *ANNOTATED.tables) is not None or LAYOUT.first(folder, "images.txt") is None:
        return ANNOTATED.benchmark(root)
    photos, notes = _own_files(folder)
    return TaskBenchmark(
        name=LAYOUT.name,
        description=ANNOTATED.description,
        license=ANNOTATED.license,
        citation=ANNOTATED.citation,
        source=LAYOUT.source,
        splits={SPLIT: photos},
        tasks=tasks_of(photos),
        notes=(*ANNOTATED.notes, *notes),
    )


def _own_files(folder: Path) -> tuple[PhotoList, tuple[str, ...]]:
    """The photos by the text files of the archive."""
    listed = read_pairs(folder / "images.txt")
    classes = dict(read_pairs(LAYOUT.need(folder, "classes.txt")))
    classes_of = dict(read_pairs(LAYOUT.need(folder, "image_class_labels.txt")))
    files = inside([file for _, file in listed], folder / "images.txt")
    if not files:
        raise UserError(f"{folder / 'images.txt'} is empty; unpack the archive again")
    labels = [classes.get(classes_of.get(key, ""), "") for key, _ in listed]
    below, notes = LAYOUT.images_below(folder, files, ANNOTATED.images)
    photos = PhotoList(folder, tuple(f"{below}/{file}".strip("/") for file in files), {"class": np.array(labels, str)})
    unlabelled = labels.count("")
    counted = {"photos": len(files), "classes": len({label for label in labels if label})}
    return photos, (
        "metadata.csv is not there: the archive's own names and order are used; few-shot folds differ from the paper's",
        *((f"{unlabelled} photos have no class",) if unlabelled else ()),
        *notes,
        *differences(COUNTS, counted),
    )
