"""Fungi of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 25 classes.

    bioclip-jax eval MODEL fungi --root DIR

DIR holds `metadata.csv` (1,000 rows; data/annotation/meta-album/FNG_Mini of github.com/Imageomics/bioclip-2) and the
photos as `val/<class>/<file>`, or Meta-Album's own `FNG_Mini` with `labels.csv` and `images/`; a folder of several
sets, `set2/FNG_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

Labels: the class names as they stand. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Source, licence and citation: below.
Known faults: class names carry their authors into the prompts, as in the paper.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.meta_album import meta_album
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return meta_album(
        root,
        name="fungi",
        mini="FNG_Mini",
        number="set2",
        description="Fungi of Denmark; classes with their authors, as `Amanita excelsa Gonn. & Rabenh.`.",
        license="not stated here: see the Meta-Album page of the set",
        citation="Picek et al., Danish Fungi 2020: Not Just Another Image Recognition Dataset, WACV 2022",
        photos=1000,
        classes=25,
        notes=("class names carry their authors, as in the paper",),
    )
