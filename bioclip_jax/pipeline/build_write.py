"""Writes the shards of a build: one unit of work each, under a temporary name until it is whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.build_rejected import write_part
from bioclip_jax.pipeline.build_workers import Tally, mapped
from bioclip_jax.pipeline.manifest import BUILD_FOLDER
from bioclip_jax.pipeline.plan import FinishedShard, Plan, temporary_path, write_finished
from bioclip_jax.pipeline.prepare import Prepared, Rejected, prepare
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.shards import ShardWriter
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import Tokenizer


class Shard(NamedTuple):
    """A unit of work: file `number` of a split."""

    split: str
    number: int


def shards_of(plan: Plan) -> list[Shard]:
    """The units of work, in the order of the splits and of their files."""
    return [Shard(split, index) for split, count in plan.shards.items() for index in range(count)]


@dataclass(frozen=True)
class WriteJob:
    """Writes one shard.

    Attributes:
      source: the records of each split.
      directory: of the dataset.
      plan: which records a shard takes.
      options: what is done to images.
      changes: taxa that are replaced by others.
      threads: that read and decode.
    """

    source: Mapping[str, RecordSource]
    directory: Path
    plan: Plan
    options: ImageOptions
    changes: Mapping[Taxon, Taxon]
    threads: int = 1
    captions: CaptionLengths = field(default_factory=lambda: CaptionLengths())

    def __call__(self, shard: Shard, tally: Tally) -> None:
        """Writes the file, the table of what it left out, and at last the note that it is there."""
        name = self.plan.shard_name(*shard)
        records, options, changes = self.source[shard.split], self.options, self.changes

        def read(entry: int) -> Prepared | Rejected:
            return prepare(records, entry >> 1, options, changes=changes, as_is=bool(entry & 1))

        rejected = []
        path = self.directory / name
        entries = self.plan.entries(self.directory, *shard)
        with (
            ShardWriter(path, temporary_path(path, self.directory / BUILD_FOLDER)) as writer,
            mapped(read, entries, self.threads) as items,
        ):
            for item in items:
                if isinstance(item, Prepared):
                    writer.write(item.example)
                    self.captions.add(item)
                else:
                    rejected.append(item)
                tally.add(left_out=isinstance(item, Rejected))
            counts = write_part(self.directory, name, shard.split, rejected)
            file = writer.finish()
        write_finished(self.directory, FinishedShard(file, counts, dict(self.captions.longest)))


class CaptionLengths:
    """The longest caption of each type so far, in tokens; a taxon is looked at once."""

    def __init__(self) -> None:
        self._tokenizer = Tokenizer()
        # Hashes of taxa, of which a million take a tenth of the memory; that two coincide is one in ten million.
        self._seen: set[int] = set()
        self.longest: dict[str, int] = {}

    def add(self, item: Prepared) -> None:
        """Counts the captions of a record."""
        taxon = hash(item.taxon)
        if taxon not in self._seen:
            self._seen.add(taxon)
            for text_type in ALL_TEXT_TYPES:
                self._count(text_type, caption(item.taxon, text_type))
        if item.caption:
            self._count("caption", item.caption)

    def _count(self, text_type: str, text: str) -> None:
        self.longest[text_type] = max(self.longest.get(text_type, 0), self._tokenizer.count(text))
