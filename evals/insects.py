"""Insects of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 104 classes.

    bioclip-jax eval MODEL insects --root DIR

DIR holds `metadata.csv` (4,160 rows; data/annotation/meta-album/INS_Mini of github.com/Imageomics/bioclip-2) and the
photos as `val/<class>/<file>`, or Meta-Album's own `INS_Mini` with `labels.csv` and `images/`; a folder of several
sets, `set2/INS_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

Labels: the class names as they stand. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Source, licence and citation: below.
Known faults: classes are of several ranks (`Apidae` beside species), so that one may contain another.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.meta_album import meta_album
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return meta_album(
        root,
        name="insects",
        mini="INS_Mini",
        number="set2",
        description="Insects on flowers, photographed by citizen scientists of SPIPOLL; classes are families "
        "and species.",
        license="not stated here: see the Meta-Album page of the set",
        citation="Serret et al., Data quality and participant engagement in citizen science, Sustainability 2019 "
        "(SPIPOLL)",
        photos=4160,
        classes=104,
    )
