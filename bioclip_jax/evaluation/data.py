"""A benchmark's data, opened: its splits, and what encoders make of their photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.baseline import ColourFeatures, Standardiser
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.encoder import ImageEncoder
from bioclip_jax.evaluation.features import Samples, chosen_rows, dataset_hash, has_manifest, image_features
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.pipeline.record import RecordSource

ONE_READER = "readable by model or baseline only"


@dataclass(frozen=True)
class Data:
    """A benchmark's data, opened."""

    benchmark: Benchmark
    sources: Mapping[str, RecordSource]
    hash: str

    @classmethod
    def open(cls, benchmark: Benchmark) -> Data:
        """Raises `UsageError` if a split that is to be measured does not exist."""
        found = open_dataset(benchmark.dataset, benchmark.arguments)
        missing = [split for split in benchmark.split_names() if split not in found]
        if missing:
            raise UsageError(
                f"benchmark {benchmark.name}: {benchmark.dataset} has no split {missing[0]!r}, only {', '.join(found)}"
            )
        sources = {split: found[split] for split in benchmark.split_names()}
        return cls(benchmark, sources, dataset_hash(benchmark.dataset, benchmark.arguments, sources))

    def encode(
        self, encoder: ImageEncoder, splits: Sequence[str], cache: ArrayCache, batch_size: int
    ) -> dict[str, Samples]:
        """Features of those of `splits` that have photos, with progress; kept only of data that cannot change."""
        if not has_manifest(self.benchmark.dataset):
            cache = ArrayCache(None)
        sources = {split: self.sources[split] for split in splits if len(self.sources[split])}
        total = sum(len(chosen_rows(len(source), self.benchmark.limit(split))) for split, source in sources.items())
        with RecordProgress(total, f"{self.benchmark.name}: {encoder.name}") as progress:
            return {
                split: image_features(
                    encoder,
                    source,
                    split,
                    data=self.hash,
                    limit=self.benchmark.limit(split),
                    cache=cache,
                    batch_size=batch_size,
                    advance=progress.advance,
                    skip=progress.skip,
                )
                for split, source in sources.items()
            }


def add_baseline(
    data: Data, samples: Mapping[str, Samples], cache: ArrayCache, batch_size: int
) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """The model's samples and the baseline's, of the same photos, and the baseline's of the training photos.

    The baseline's features are standardised by the training photos. A photo that only one of the two can read is left
    out of both and counted.
    """
    train = data.benchmark.train_split or ""
    found = data.encode(ColourFeatures(), tuple(dict.fromkeys((*samples, train))), cache, batch_size)
    both, colours = dict(samples), dict(found)
    for split in samples:
        rows = np.intersect1d(samples[split].rows, found[split].rows)
        if not len(rows):
            raise UserError(f"split {split!r} has no photo that both model and baseline can read; use --no-baseline")
        both[split], colours[split] = (part[split].only(rows, ONE_READER) for part in (samples, found))
        lost = len(found[split]) - len(rows)
        if lost:
            known = both[split].unreadable
            both[split] = replace(both[split], unreadable={**known, ONE_READER: known.get(ONE_READER, 0) + lost})
    standardise = Standardiser.fit(colours[train].features)
    return both, {split: replace(part, features=standardise(part.features)) for split, part in colours.items()}
