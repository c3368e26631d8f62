"""A dataset that TensorFlow Datasets has prepared on this machine: zero-shot and few-shot, a linear probe and kNN.

    bioclip-jax eval MODEL tfds --root tfds:plant_village
    bioclip-jax eval MODEL tfds --root DIR

DIR is the directory of a prepared dataset, in ArrayRecord files; nothing is downloaded, TensorFlow is not needed
(`data/tfds.py` says how to prepare one). It needs an image and a label; every record is read once for its label.

Labels: names of the label's classes, without numbers and underscores, or taxonomic and common name where records have
ranks. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds, on every split; where `train` is
one of several it is what the linear probe and the nearest neighbours learn from.
Licence and citation: those of the dataset, on its page at https://www.tensorflow.org/datasets. These are not the files
that BioCLIP's tables come from, even where a dataset has the same name.
"""

from __future__ import annotations

from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.published.annotations import missing_ranks, tasks_of_splits
from bioclip_jax.evaluation.published.tfds_photos import tfds_photos
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the dataset `root`."""
    if root is None:
        raise UsageError("benchmark tfds needs a dataset: --root tfds:NAME, or the directory of a prepared one")
    splits, notes = tfds_photos(root)
    directory = next(iter(splits.values())).root.resolve()
    name = directory.parent.name if directory.name[:1].isdigit() else directory.name  # the last folder is a version
    unlabelled = {split: int((photos.columns["class"] == "").sum()) for split, photos in splits.items()}
    return TaskBenchmark(
        name=f"tfds_{name}",
        description=f"The TFDS dataset {name}.",
        license="the dataset's own; see its page",
        citation="the dataset's own; see its page",
        source=f"https://www.tensorflow.org/datasets/catalog/{name}",
        splits=splits,
        tasks=tasks_of_splits(splits),
        notes=(
            *notes,
            *(f"{split}: {count} photos have no label" for split, count in unlabelled.items() if count),
            *(f"{split}: {note}" for split, photos in splits.items() for note in missing_ranks(photos.taxa)),
        ),
    )
