"""The five sets of IDLE-OO Camera Traps together: zero-shot and few-shot on each, for the paper's "Camera Trap".

    bioclip-jax eval MODEL camera_traps --root DIR

DIR is a copy of https://huggingface.co/datasets/imageomics/IDLE-OO-Camera-Traps with `<set>-balanced.csv` and
`data/test/<set>/` of desert-lion, ENA24, island, orinoquia and ohio-small-animals, all five. Licence and citation:
`bioclip_jax.evaluation.published.camera_traps`. Each set has a recipe of its own, with more text types and the ranks.

Labels: taxonomic and common name (`taxon_com`) alone. Protocol: as in the recipes of the five sets.
The tasks `zero_shot` and `few_shot` are plain means over the five sets, whose own figures stand beside them. The
published figure is presumably the first one's micro accuracy; the code that made it does not say.
Known faults: those of the five recipes.
"""

from __future__ import annotations

from bioclip_jax.evaluation.published.camera_traps import (
    CITATION,
    LICENSE,
    SOURCE,
    SUBSETS,
    MeanOf,
    camera_trap,
)
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark
from bioclip_jax.evaluation.tasks.class_zero_shot import ZeroShot
from bioclip_jax.evaluation.tasks.simple_shot import SimpleShot


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    found = {name: camera_trap(name).photos(root) for name in SUBSETS}
    return TaskBenchmark(
        name="camera_traps",
        description="Five balanced sets of camera-trap photos, for naming species.",
        license=LICENSE,
        citation=CITATION,
        source=SOURCE,
        splits={name: photos for name, (photos, _) in found.items()},
        tasks=(
            MeanOf("zero_shot", tuple(ZeroShot(f"zero_shot_{name}", name) for name in SUBSETS)),
            MeanOf("few_shot", tuple(SimpleShot(f"few_shot_{name}", name) for name in SUBSETS)),
        ),
        notes=(
            "the paper's figure is presumably the plain mean of the five zero-shot accuracies",
            *(f"{name}: {note}" for name, (_, notes) in found.items() for note in notes),
        ),
    )
