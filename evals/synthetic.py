"""The synthetic tree of life, whose truth is known: zero-shot at all seven ranks on seen and unseen species, few-shot.

    bioclip-jax eval MODEL synthetic
    bioclip-jax eval MODEL synthetic --root DIR

The baseline learns from every training photo of the directory. Without a directory the photos are drawn as they are
needed, from the world that `data/synthetic.py` makes by default, and the baseline learns from 20,000 of its million; a
model that was trained on another world wants the directory that its world was built into.
"""

from __future__ import annotations

from bioclip_jax.evaluation.benchmark import Benchmark, FewShotTask


def benchmark(root: str | None = None) -> Benchmark:
    """The benchmark on the dataset directory `root`, or on the default world."""
    return Benchmark(
        name="synthetic",
        description="Drawn organisms of a random phylogeny. "
        "test has other individuals of the species seen in training, test_unseen has species that training lacks. "
        "Labels are complete in both.",
        license="MIT, as this project",
        citation="bioclip_jax, data/synthetic.py",
        dataset=root or "synthetic",
        splits={"seen": "test", "unseen": "test_unseen"},
        train_split="train",
        few_shot=(
            FewShotTask("seen", support=("test",), query=("test",), ranks=("family", "species")),
            FewShotTask("unseen", support=("test_unseen",), query=("test_unseen",), ranks=("family", "species")),
        ),
        max_images=2_000,
        max_train_images=None if root else 20_000,
    )
