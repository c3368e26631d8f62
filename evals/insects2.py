"""Insects 2 of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 102 classes.

    bioclip-jax eval MODEL insects2 --root DIR

DIR holds `metadata.csv` (4,080 rows; data/annotation/meta-album/INS_2_Mini of github.com/Imageomics/bioclip-2) and
the photos as `val/<class>/<file>`, or Meta-Album's own `INS_2_Mini` with `labels.csv` and `images/`; a folder of
several sets, `set1/INS_2_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

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
        name="insects2",
        mini="INS_2_Mini",
        number="set1",
        description="Insect pests of crops, adults and larvae, from the IP102 collection.",
        license="free for academic usage (IP102)",
        citation="Wu et al., IP102: A Large-Scale Benchmark Dataset for Insect Pest Recognition, CVPR 2019",
        photos=4080,
        classes=102,
    )
