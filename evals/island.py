"""Camera-trap photos of islands worldwide (IDLE-OO Camera Traps): zero-shot, few-shot and all ranks.

    bioclip-jax eval MODEL island --root DIR

DIR is a copy of https://huggingface.co/datasets/imageomics/IDLE-OO-Camera-Traps: `island-balanced.csv` (310 rows)
and `data/test/island/<uuid>`. Licence and citation: `bioclip_jax/evaluation/published/camera_traps.py`.

Labels: taxonomic and common name (`taxon_com`), 33 texts; other text types are measured beside it. Protocol: 81
templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds. The paper reports the five sets together: see
`camera_traps`.
Known faults: the table has a column `scientific_name`, at which the reference implementation's reader stops with an
error; it is read here. Two of its classes have one photo, at which the reference implementation's few-shot stops:
classes with too few photos are left out and counted. Photos of 16 classes lack ranks: their texts keep the empty
places, as there.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.camera_traps import camera_trap
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return camera_trap("island").benchmark(root)
