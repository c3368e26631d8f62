"""Camera-trap photos of eastern North America (IDLE-OO Camera Traps): zero-shot, few-shot and all ranks.

    bioclip-jax eval MODEL ena24 --root DIR

DIR is a copy of https://huggingface.co/datasets/imageomics/IDLE-OO-Camera-Traps: `ENA24-balanced.csv` (1,120 rows)
and `data/test/ENA24/<uuid>`. Licence and citation: `bioclip_jax/evaluation/published/camera_traps.py`.

Labels: taxonomic and common name (`taxon_com`), 20 texts; other text types are measured beside it. Protocol: 81
templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds. The paper reports the five sets together: see
`camera_traps`.
Known faults: the table has a column `scientific_name`, at which the reference implementation's reader stops with an
error; it is read here.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.camera_traps import camera_trap
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    return camera_trap("ena24").benchmark(root)
