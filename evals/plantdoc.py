"""PlantDoc: diseases of crops on photos from the web, told from one example each.

    bioclip-jax eval MODEL plantdoc --root DIR

DIR is https://github.com/pratikkayal/PlantDoc-Dataset: `train/<class>/<file>` and `test/<class>/<file>`, 2,598 photos,
27 classes.

Labels: the names of the folders. Protocol: one photo of each class of `train`, drawn five times, SimpleShot, all of
`test`; mean of the five. The paper draws from photos in an order that PyTorch's sampler gave, here from their sorted
order, so supports are others than the paper's; the spread over draws says how much that matters.
Licence: CC BY 4.0. Citation: Singh et al., CoDS COMAD 2020.
Known faults: a class that one of the two folders lacks cannot be told, or is never asked for: counted in a note.
"""

from __future__ import annotations

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.published.layouts import Layout, differences
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.one_shot import OneShot

LAYOUT = Layout(
    "plantdoc",
    "https://github.com/pratikkayal/PlantDoc-Dataset",
    """
train/<class>/<file>
test/<class>/<file>            2,598 photos with those of train, 27 classes
""",
)


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    folder = LAYOUT.open(root)
    found = {split: LAYOUT.image_folder(folder, split) for split in ("train", "test")}
    classes = {split: set(photos.labels) for split, photos in found.items()}
    if not classes["train"] & classes["test"]:
        raise UserError(f"{folder}: train and test have no class in common")
    notes = [note for photos in found.values() for note in photos.notes]
    for split, other in (("train", "test"), ("test", "train")):
        if alone := classes[split] - classes[other]:
            notes.append(f"{len(alone)} classes have photos in {split} but none in {other}")
    counted = {
        "photos": sum(len(photos.files) for photos in found.values()),
        "classes": len(classes["train"] & classes["test"]),
    }
    return TaskBenchmark(
        name=LAYOUT.name,
        description="Photographs of leaves of crops, healthy or with a disease, found on the web.",
        license="CC BY 4.0",
        citation="Singh et al., PlantDoc: A Dataset for Visual Plant Disease Detection, CoDS COMAD 2020",
        source=LAYOUT.source,
        splits={
            split: PhotoList(folder, photos.files, {"class": np.array(photos.labels, str)})
            for split, photos in found.items()
        },
        tasks=(OneShot("plantdoc", "train", "test"),),
        notes=(
            "supports are drawn from photos in sorted order; the paper's order is that of PyTorch's sampler",
            *notes,
            *differences({"photos": 2_598, "classes": 27}, counted),
        ),
    )
