"""PlantVillage of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 38 classes.

    bioclip-jax eval MODEL plantvillage --root DIR

DIR holds `metadata.csv` (1,520 rows; data/annotation/meta-album/PLT_VIL_Mini of github.com/Imageomics/bioclip-2) and
the photos as `val/<class>/<file>`, or Meta-Album's own `PLT_VIL_Mini` with `labels.csv` and `images/`; a folder of
several sets, `set0/PLT_VIL_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

Labels: the class names as they stand. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Source, licence and citation: below.
Known faults: class names keep their underscores in the prompts, as in the paper. Not the set `plant_village` of TFDS,
which has all 54,303 photos.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.meta_album import meta_album
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return meta_album(
        root,
        name="plantvillage",
        mini="PLT_VIL_Mini",
        number="set0",
        description="Leaves of crops, healthy or with a disease; classes as `Tomato___Late_blight`.",
        license="CC0 1.0 (PlantVillage)",
        citation="Hughes and Salathé, An open access repository of images on plant health to enable the development of "
        "mobile disease diagnostics, arXiv:1511.08060",
        photos=1520,
        classes=38,
        notes=("class names keep their underscores, as in the paper",),
    )
