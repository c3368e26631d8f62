"""The sets of Meta-Album that BioCLIP is evaluated on: "Mini" versions, photos of 128 x 128 pixels, 40 of each class.

Two layouts are known: that of BioCLIP's evaluation (`val/<class>/<file>` and its annotation `metadata.csv`) and
Meta-Album's own (`images/<file>` and `labels.csv`), whose order of photos, and so few-shot folds, are not the paper's.
"""

from __future__ import annotations

from dataclasses import replace

from bioclip_jax.evaluation.published.annotations import Annotated
from bioclip_jax.evaluation.published.layouts import Layout
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark

CITATION = (
    "Ullah et al., Meta-Album: Multi-domain Meta-Dataset for Few-Shot Image Classification, "
    "NeurIPS Datasets and Benchmarks 2022"
)
SOURCE = (
    "https://meta-album.github.io ({mini}, and data/annotation/meta-album/{mini}/metadata.csv of "
    "github.com/Imageomics/bioclip-2)"
)
TREE = """
metadata.csv            columns filepath (<class>/<file>) and class: {photos:,} rows, {classes} classes
val/<class>/<file>      or {number}/{mini}/val/<class>/<file>
  or, as Meta-Album publishes it:
labels.csv              columns FILE_NAME, CATEGORY
images/<file>
"""
OWN_ORDER = (
    "labels.csv of Meta-Album was read: its order of photos is not that of metadata.csv, so few-shot folds differ "
    "from the paper's"
)


def meta_album(
    root: str | None,
    *,
    name: str,
    mini: str,
    number: str,
    description: str,
    license: str,  # noqa: A002 the field's name
    citation: str,
    photos: int,
    classes: int,
    notes: tuple[str, ...] = (),
) -> TaskBenchmark:
    """The benchmark of one set.

    Args:
        root: its folder, or one that holds several sets.
        name: of the benchmark.
        mini: what Meta-Album calls the set.
        number: the folder of its release (`set0`).
        description: what its photos show.
        license: of the original data.
        citation: of the original data; Meta-Album's own is added.
        photos: how many its annotation has.
        classes: the same.
        notes: known faults of the published files.
    """
    folders = ("", mini, f"{number}/{mini}")
    tables = (
        *("metadata.csv", "val/metadata.csv", f"{mini}/metadata.csv", f"{mini}/val/metadata.csv"),
        *(f"annotation/{mini}/metadata.csv", f"{number}/{mini}/val/metadata.csv"),
        *("labels.csv", f"{mini}/labels.csv", f"{number}/{mini}/labels.csv"),
    )
    annotated = Annotated(
        layout=Layout(
            name,
            SOURCE.format(mini=mini),
            TREE.format(mini=mini, number=number, photos=photos, classes=classes),
        ),
        description=f"{description} Meta-Album {mini}, 40 photos of each class.",
        license=license,
        citation=f"{citation}; {CITATION}",
        tables=tables,
        images=tuple(f"{folder}/{kind}".strip("/") for folder in folders for kind in ("val", "", "images")),
        counts={"photos": photos, "classes": classes},
        notes=notes,
    )
    folder = annotated.layout.open(root)
    if annotated.layout.need(folder, *annotated.tables).name == "labels.csv":
        annotated = replace(annotated, notes=(*notes, OWN_ORDER))
    return annotated.benchmark(root)
