"""Plankton of Meta-Album, as BioCLIP 2's evaluation uses it: zero-shot and few-shot on 86 classes.

    bioclip-jax eval MODEL plankton --root DIR

DIR holds `metadata.csv` (3,440 rows; data/annotation/meta-album/PLK_Mini of github.com/Imageomics/bioclip-2) and the
photos as `val/<class>/<file>`, or Meta-Album's own `PLK_Mini` with `labels.csv` and `images/`; a folder of several
sets, `set0/PLK_Mini/val/...`, will do. `bioclip_jax.evaluation.published.meta_album` knows both layouts.

Labels: the class names as they stand. Protocol: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Source, licence and citation: below.
Known faults: class names such as `G_delicatula_detritus` keep their underscores in the prompts, as in the paper;
several (`mix`, `other_interaction`) name no organism, so that zero-shot accuracy is near chance for every model.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.meta_album import meta_album
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return meta_album(
        root,
        name="plankton",
        mini="PLK_Mini",
        number="set0",
        description="Plankton of the north-west Atlantic under an imaging flow cytometer; classes as "
        "`Emiliania_huxleyi`.",
        license="not stated here: see the Meta-Album page of the set",
        citation="Sosik, Peacock and Brownlee, WHOI-Plankton, doi:10.1575/1912/7341",
        photos=3440,
        classes=86,
        notes=("class names keep their underscores, and some name no organism (mix, detritus), as in the paper",),
    )
