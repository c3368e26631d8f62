"""Your own photos: zero-shot at all seven ranks on the splits that the dataset has, and few-shot.

    bioclip-jax data build photo_table DIR --table photos.csv --test-fraction 0.2
    bioclip-jax eval MODEL photo_table --root DIR

`test` is measured as species that training has seen, `test_unseen`, if there is one, as species that it has not.
Without `train` there is no baseline.
"""

from __future__ import annotations

from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.benchmark import Benchmark, FewShotTask
from bioclip_jax.pipeline.manifest import read_manifest


def benchmark(root: str | None = None) -> Benchmark:
    """The benchmark on the dataset directory `root`."""
    if root is None:
        raise UsageError("benchmark photo_table needs --root, the directory that `bioclip-jax data build` wrote")
    manifest = read_manifest(root)
    splits = {name: split for name, split in (("seen", "test"), ("unseen", "test_unseen")) if split in manifest.splits}
    if not splits:
        raise UsageError(
            f"dataset {root} has the splits {', '.join(manifest.splits)}; to measure it needs test or test_unseen: "
            "build it with a split column or --test-fraction"
        )
    train = "train" if "train" in manifest.splits else None
    return Benchmark(
        name=manifest.name,
        description=f"Photos of the dataset {manifest.name}.",
        license="not stated",
        citation="not stated",
        dataset=root,
        splits=splits,
        train_split=train,
        few_shot=tuple(
            FewShotTask(name, support=("train",) if split == "test" and train else (split,), query=(split,))
            for name, split in splits.items()
        ),
    )
