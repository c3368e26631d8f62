"""Photographs of organisms: zero-shot at all seven ranks on seen and on unseen species, and few-shot.

    bioclip-jax eval MODEL organisms --root DIR

DIR is a directory that `bioclip-jax data build photo_table` made from a table with the splits `train`, `test` (species
that `train` has) and `test_unseen` (whole species that it has not).
"""

from __future__ import annotations

from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.benchmark import Benchmark, FewShotTask


def benchmark(root: str | None = None) -> Benchmark:
    """The benchmark on the dataset directory `root`."""
    if root is None:
        raise UsageError("benchmark organisms needs its data: give the directory that `bioclip-jax data build` wrote")
    return Benchmark(
        name="organisms",
        description="Photographs of animals, plants and fungi. "
        "test has species that training has seen, test_unseen has species that it has not.",
        license="per photo: CC BY, BY-SA, BY-NC, BY-NC-SA, CC0 or public domain; about half not for commercial use",
        citation="Photos from repli2dev/nature-quizzer-packages (via EOL, Flickr, Wikimedia Commons and Mushroom "
        "Observer) and SergioManuelJob/NACHI; taxonomy of birds from eBird/Clements (CornellLabofOrnithology/auk).",
        dataset=root,
        splits={"seen": "test", "unseen": "test_unseen"},
        train_split="train",
        few_shot=(
            FewShotTask("seen", support=("train",), query=("test",), ranks=("order", "species")),
            FewShotTask("unseen", support=("test_unseen",), query=("test_unseen",), ranks=("order", "species")),
        ),
    )
