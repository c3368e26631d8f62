"""Records to batches, in an order that is a pure function of (seed, step, row).

Which record stands at which place, its crop and its caption depend on nothing else: not on the number of hosts, threads
or restarts. The pipeline is a Grain `MapDataset`, and its whole state is the step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grain
import numpy as np

from bioclip_jax import images
from bioclip_jax.config import DataConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.manifest import read_manifest
from bioclip_jax.pipeline.readers import is_recipe
from bioclip_jax.pipeline.record import Record, RecordSource
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption, text_type_of_step
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import VOCABULARY_SIZE, Tokenizer

TOKEN_BUCKETS = (16, 32, 48, 64, 77)
"""Lengths that captions are cut to. Attention is causal and captions end at EOT, so a cut after it is exact."""


def token_bucket(longest: int, context_length: int = 77) -> int:
    """The shortest bucket that holds `longest` tokens, at most the context."""
    return min(next((size for size in TOKEN_BUCKETS if size >= longest), context_length), context_length)


def order(records: int, seed: int) -> grain.MapDataset[int]:
    """Which record stands at each place of the endless sequence of places 0, 1, 2, ...

    Each epoch is another permutation of all records (Grain's index shuffle: no memory, whatever the size).
    """
    return grain.MapDataset.range(records).seed(seed).shuffle().repeat()


@dataclasses.dataclass(frozen=True)
class Sample:
    """Turns (record, its place) into model input: decoded, cropped, captioned, tokenised."""

    data: DataConfig
    image_size: int
    tokens: int
    global_batch_size: int
    seed: int
    tokenizer: Tokenizer

    def __call__(self, record: Record, place: int) -> dict[str, np.ndarray]:
        """{"image": uint8 [size, size, 3], "tokens": int32 [tokens]}."""
        draw = np.random.Generator(np.random.Philox(key=[self.seed % 2**64, place]))
        try:
            photo = images.decode(record["image"])
        except images.ImageError as error:
            raise UserError(
                f"record {record['key']!r}: {error.reason}; `bioclip-jax data verify` lists such records"
            ) from None
        height, width, _ = photo.shape
        box = images.random_resized_crop_box(draw, height, width, self.data.crop_scale, self.data.crop_ratio)
        photo = images.resized_crop(photo, box, self.image_size)
        if self.data.horizontal_flip and draw.random() < 0.5:
            photo = photo[:, ::-1]
        text = caption(Taxon.from_record(record), self._text_type(place, draw))
        return {"image": np.ascontiguousarray(photo), "tokens": self.tokenizer([text])[0, : self.tokens]}

    def _text_type(self, place: int, draw: np.random.Generator) -> str:
        types = self.data.text_types
        if self.data.text_type_per_sample:
            return types[int(draw.integers(len(types)))]
        return text_type_of_step(place // self.global_batch_size, types)


@dataclasses.dataclass(frozen=True)
class Loader:
    """All that a process needs to produce its rows of any step."""

    source: RecordSource
    sample: Sample
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        size = self.sample.global_batch_size
        if size % self.process_count:
            raise UserError(f"global_batch_size {size} does not divide over {self.process_count} processes")
        if len(self.source) < size:
            raise UserError(
                f"global_batch_size {size} is larger than the {len(self.source)} records of the data; "
                "choose a smaller batch"
            )

    def batches(self, first_step: int, last_step: int) -> Iterator[Mapping[str, np.ndarray]]:
        """This process's rows of steps first_step .. last_step - 1, prefetched by threads."""
        data, rows = self.sample.data, self.sample.global_batch_size // self.process_count
        places = order(len(self.source), self.sample.seed)
        first_row = self.process_index * rows

        def element(local: int) -> dict[str, np.ndarray]:
            step, row = divmod(int(local), rows)
            place = (first_step + step) * self.sample.global_batch_size + first_row + row
            return self.sample(self.source[int(places[place])], place)

        dataset = grain.MapDataset.range((last_step - first_step) * rows).map(element).batch(rows)
        options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch_batches)
        return iter(dataset.to_iter_dataset(options))


def require_vocabulary(vocab_size: int) -> None:
    """Raises `UsageError` where a model's token table lacks ids that the tokenizer gives."""
    if vocab_size < VOCABULARY_SIZE:
        raise UsageError(f"text.vocab_size is {vocab_size}, but CLIP's tokenizer has {VOCABULARY_SIZE} tokens")


def make_loader(
    source: RecordSource,
    data: DataConfig,
    *,
    image_size: int,
    context_length: int,
    global_batch_size: int,
    seed: int,
    token_lengths: Mapping[str, int],
    **process: Any,
) -> Loader:
    """A loader for a training split.

    `token_lengths`: longest caption per text type as the manifest has it; types it lacks get the whole context. What
    every process reads from the manifest decides the length, never one process's own batch.
    """
    unknown = [name for name in data.text_types if name not in ALL_TEXT_TYPES]
    if unknown:
        raise UsageError(f"data.text_types has {unknown[0]!r}; the caption types are {', '.join(ALL_TEXT_TYPES)}")
    longest = max(token_lengths.get(text_type, context_length) for text_type in data.text_types)
    sample = Sample(
        data, image_size, token_bucket(longest, context_length), global_batch_size, seed, Tokenizer(context_length)
    )
    return Loader(source, sample, **process)


def dataset_token_lengths(dataset: str) -> Mapping[str, int]:
    """Longest caption per text type as a dataset directory's manifest has it; empty for a recipe."""
    if is_recipe(dataset):
        return {}
    return read_manifest(Path(dataset).expanduser()).token_lengths
