"""The first pass of a build that has to know all records before it writes the first.

The source is looked through in spans of records. Each span becomes a table of its usable records (Arrow, columns by
what the build needs) and a note; a span whose note is there is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.build_rejected import write_part
from bioclip_jax.pipeline.build_workers import Tally, mapped
from bioclip_jax.pipeline.manifest import BUILD_FOLDER, write_json
from bioclip_jax.pipeline.plan import Plan, replacing
from bioclip_jax.pipeline.prepare import EvaluationImages, Rejected, Seen, scan
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.text.taxonomy import Taxon

SPAN_RECORDS = 20_000
"""Records in a unit of work: a minute or less of one core."""


class Span(NamedTuple):
    """A unit of work: some records of a split in a row."""

    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        """What its files are called."""
        return f"scan-{self.split}-{self.start:012d}"


@dataclass(frozen=True)
class SpanNote:
    """What is known of a span as a whole.

    Attributes:
      usable: records in its table.
      rejected: how many were left out, by reason.
      taxa: its distinct taxa, if the build asks for them; column `taxon` numbers them.
    """

    usable: int
    rejected: Mapping[str, int]
    taxa: Sequence[Sequence[str]]


def spans_of(plan: Plan) -> list[Span]:
    """The units of work of the first pass, in the order of the splits and of their records."""
    return [
        Span(split, start, min(start + SPAN_RECORDS, records))
        for split, records in plan.records.items()
        for start in range(0, records, SPAN_RECORDS)
    ]


@dataclass(frozen=True)
class ScanJob:
    """Does one span.

    Attributes:
      source: the records of each split.
      directory: of the dataset.
      options: what will be done to images.
      hashes: write the columns that duplicates are found by.
      taxa: write the column `taxon`.
      evaluation: images that no record may collide with.
      threads: that read and decode.
    """

    source: Mapping[str, RecordSource]
    directory: Path
    options: ImageOptions
    hashes: bool = False
    taxa: bool = False
    evaluation: EvaluationImages | None = None
    threads: int = 1

    def __call__(self, span: Span, tally: Tally) -> None:
        """Looks at the records of a span, and writes table and note."""
        look = partial(
            scan, self.source[span.split], options=self.options, hashes=self.hashes, evaluation=self.evaluation
        )
        seen: list[Seen] = []
        rows: list[int] = []
        rejected: list[Rejected] = []
        with mapped(look, range(span.start, span.stop), self.threads) as items:
            for row, item in enumerate(items, span.start):
                if isinstance(item, Seen):
                    seen.append(item)
                    rows.append(row)
                else:
                    rejected.append(item)
                tally.add(left_out=isinstance(item, Rejected))
        taxa: dict[Taxon, int] = {}
        numbers = [taxa.setdefault(item.taxon, len(taxa)) for item in seen] if self.taxa else None
        counts = write_part(self.directory, span.name, span.split, rejected)
        _write_table(self.directory, span, _columns(rows, seen, numbers, self.hashes))
        note = SpanNote(len(seen), counts, [taxon_fields(taxon) for taxon in taxa])
        write_json(self.directory / BUILD_FOLDER / f"{span.name}.json", asdict(note))


def table_path(directory: Path, span: Span) -> Path:
    """Where the table of a span lies."""
    return directory / BUILD_FOLDER / f"{span.name}.arrow"


def read_note(directory: Path, span: Span) -> SpanNote | None:
    """What is known of a span; None if it is not done."""
    try:
        content = json.loads((directory / BUILD_FOLDER / f"{span.name}.json").read_text(encoding="utf-8"))
        return SpanNote(**content) if table_path(directory, span).is_file() else None
    except (OSError, ValueError, TypeError):
        return None


def read_columns(directory: Path, span: Span, *names: str) -> list[pa.Array]:
    """Columns of the table of a span, in the order of `names`.

    Raises:
      UserError: the table is gone or damaged.
    """
    path = table_path(directory, span)
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        return [table[name].combine_chunks() for name in names]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); build again with --overwrite") from error


def _columns(rows: list[int], seen: list[Seen], taxa: list[int] | None, hashes: bool) -> dict[str, pa.Array]:
    columns = {
        "row": pa.array(rows, pa.uint64()),
        "bytes": pa.array([item.example_bytes if item.as_is else 0 for item in seen], pa.uint32()),
        "as_is": pa.array([int(item.as_is) for item in seen], pa.uint8()),
    }
    if hashes:
        md5 = np.frombuffer(b"".join(item.md5 for item in seen), np.uint64).reshape(-1, 2)
        columns["md5_high"], columns["md5_low"] = (pa.array(np.ascontiguousarray(half)) for half in md5.T)
        columns["key_hash"] = pa.array([item.key_hash for item in seen], pa.uint64())
        columns["key"] = pa.array([item.key for item in seen], pa.large_string())
    if taxa is not None:
        columns["taxon"] = pa.array(taxa, pa.uint32())
    return columns


def _write_table(directory: Path, span: Span, columns: dict[str, pa.Array]) -> None:
    table = pa.table(columns)
    with (
        replacing(table_path(directory, span)) as path,
        pa.OSFile(str(path), "wb") as file,
        pa.ipc.new_file(file, table.schema) as writer,
    ):
        writer.write_table(table)


def taxon_fields(taxon: Taxon) -> list[str]:
    """The arguments that make a taxon again."""
    return [*taxon.ranks, taxon.scientific_name, taxon.common_name]
