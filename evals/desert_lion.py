"""Camera-trap photos of the Namib desert (IDLE-OO Camera Traps): zero-shot, few-shot and all ranks.

    bioclip-jax eval MODEL desert_lion --root DIR

DIR is a copy of https://huggingface.co/datasets/imageomics/IDLE-OO-Camera-Traps: `desert-lion-balanced.csv` (352 rows)
and `data/test/desert-lion/<uuid>`. Licence and citation: `bioclip_jax/evaluation/published/camera_traps.py`.

Labels: taxonomic and common name (`taxon_com`), 32 texts; other text types are measured beside it. Protocol: 81
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
    return camera_trap("desert_lion").benchmark(root)
