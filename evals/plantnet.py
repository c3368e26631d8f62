"""PlantNet of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 25 classes.

    bioclip-jax eval MODEL plantnet --root DIR

DIR holds `metadata.csv` (1,000 rows; data/annotation/meta-album/PLT_NET_Mini of github.com/Imageomics/bioclip-2) and
the photos as `val/<class>/<file>`, or Meta-Album's own `PLT_NET_Mini` with `labels.csv` and `images/`; a folder of
several sets, `set1/PLT_NET_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

Labels: the class names as they stand. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Source, licence and citation: below.
Known faults: class names keep their underscores in the prompts, as in the paper.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.meta_album import meta_album
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return meta_album(
        root,
        name="plantnet",
        mini="PLT_NET_Mini",
        number="set1",
        description="Plants photographed by users of Pl@ntNet; classes as `Lamium_galeobdolon`.",
        license="CC BY 4.0 (Pl@ntNet-300K)",
        citation="Garcin et al., Pl@ntNet-300K: a plant image dataset with high label ambiguity and a long-tailed "
        "distribution, NeurIPS Datasets and Benchmarks 2021",
        photos=1000,
        classes=25,
        notes=("class names keep their underscores, as in the paper",),
    )
