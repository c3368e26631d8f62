"""Medicinal Leaf of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 25 classes.

    bioclip-jax eval MODEL medicinal_leaf --root DIR

DIR holds `metadata.csv` (1,000 rows; data/annotation/meta-album/MED_LF_Mini of github.com/Imageomics/bioclip-2) and
the photos as `val/<class>/<file>`, or Meta-Album's own `MED_LF_Mini` with `labels.csv` and `images/`; a folder of
several sets, `set1/MED_LF_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

Labels: the class names as they stand. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Source, licence and citation: below.
Known faults: none known.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.meta_album import meta_album
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return meta_album(
        root,
        name="medicinal_leaf",
        mini="MED_LF_Mini",
        number="set1",
        description="Leaves of medicinal plants; classes as `Piper Betle (Betel)`.",
        license="CC BY 4.0 (Mendeley Data)",
        citation="Roopashree and Anitha, Medicinal Leaf Dataset, Mendeley Data 2020, doi:10.17632/nnytj2v3n5.1",
        photos=1000,
        classes=25,
    )
