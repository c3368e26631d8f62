"""PlantDoc (Mini) of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 27 classes.

    bioclip-jax eval MODEL plantdoc_mini --root DIR

DIR holds `metadata.csv` (1,080 rows; data/annotation/meta-album/PLT_DOC_Mini of github.com/Imageomics/bioclip-2) and
the photos as `val/<class>/<file>`, or Meta-Album's own `PLT_DOC_Mini` with `labels.csv` and `images/`; a folder of
several sets, `set2/PLT_DOC_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

Labels: the class names as they stand. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Source, licence and citation: below.
Known faults: its annotation is published, but BioCLIP 2's evaluation does not run it; BioCLIP's paper (2023) does.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.meta_album import meta_album
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return meta_album(
        root,
        name="plantdoc_mini",
        mini="PLT_DOC_Mini",
        number="set2",
        description="Leaves of crops, healthy or with a disease, cropped from photos found on the web.",
        license="CC BY 4.0 (PlantDoc)",
        citation="Singh et al., PlantDoc: A Dataset for Visual Plant Disease Detection, CoDS COMAD 2020",
        photos=1080,
        classes=27,
        notes=("BioCLIP 2's paper has no row for it: its annotation is published but not evaluated",),
    )
