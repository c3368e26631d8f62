"""Between the two passes of a build: which records are left, in which order, and how many files they become.

Two records are duplicates if their keys are the same (64 bits of a hash; among 214 million keys one in a thousand
builds takes two different ones for the same), or the MD5 of their images is. The first stays, in the order of the
splits and of their records: an image that is in two splits stays in the first. Keys are compared before images, and
images only of what is left.

Memory: hashes are compared within a part of all records that holds about 2^24, which takes 1.4 GB, beside a byte per
record; the order takes eight bytes per record of the largest split. So 214 million records take 2 GB, and with clean-up
half a kilobyte for each distinct taxon; it takes one core about a quarter of an hour.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from rich.console import Console

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.build_rejected import Counts, RowWriter, rejected_part
from bioclip_jax.pipeline.build_scan import Span, read_columns, read_note, taxon_fields
from bioclip_jax.pipeline.manifest import BUILD_FOLDER, write_json
from bioclip_jax.pipeline.plan import Plan, number_of_shards, order_path, replacing
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.text.taxonomy import Taxon

DUPLICATE_KEY, DUPLICATE_IMAGE = "duplicate key", "duplicate image"
TAXONOMY_CHANGES = "taxonomy_changes.csv"
UNIT = "merge"
"""What its table of rejected records is called."""
_MERGED = "merged.json"
_PART_RECORDS = 1 << 24
_NAMED_AT_ONCE = 1 << 20


class CleanUp(Protocol):
    """What `clean_up.plan_clean_up` gives."""

    @property
    def changes(self) -> Mapping[Taxon, Taxon]:
        """Taxa that are replaced by others."""

    def write_report(self, path: Path, /) -> None:
        """Writes what is changed, and why."""


@dataclass(frozen=True)
class Merged:
    """What the merge decided.

    Attributes:
      plan: of the second pass.
      rejected: how many records were left out until then, by split and reason.
      changes: taxa that are replaced by others.
    """

    plan: Plan
    rejected: Counts
    changes: Mapping[Taxon, Taxon]


@dataclass(frozen=True)
class _Tables:
    """The tables of all spans, as one: a place is the number of a usable record among all."""

    directory: Path
    spans: Sequence[Span]
    starts: np.ndarray
    """int64 [spans + 1], the place of the first record of each."""
    progress: RecordProgress

    def each(self, *columns: str, split: str | None = None) -> Iterator[tuple[slice, Span, list[np.ndarray]]]:
        """The places of each span, or of each of one split; the span; and columns of its table."""
        for span, start, stop in zip(self.spans, self.starts, self.starts[1:], strict=False):
            if split in (None, span.split):
                arrays = [column.to_numpy() for column in read_columns(self.directory, span, *columns)]
                yield slice(int(start), int(stop)), span, arrays
                self.progress.advance()

    def keys(self, places: np.ndarray) -> tuple[list[str], list[str]]:
        """The split and key of the records at these places."""
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], self.starts)
        splits, keys = [""] * len(places), [""] * len(places)
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            span = self.spans[number]
            (column,) = read_columns(self.directory, span, "key")
            here = order[bounds[number] : bounds[number + 1]]
            for index, key in zip(here, column.take(places[here] - self.starts[number]).to_pylist(), strict=True):
                splits[index], keys[index] = span.split, key
        return splits, keys


def merge(
    directory: Path,
    plan: Plan,
    spans: Sequence[Span],
    shard_bytes: int,
    *,
    dedup: bool,
    mix: int | None,
    clean_up: Callable[[Mapping[Taxon, int]], CleanUp] | None,
    console: Console | None = None,
) -> Merged:
    """Decides what the second pass does, from the tables of the first; leaves it in the build folder.

    Args:
      directory: of the dataset.
      plan: of the first pass.
      spans: its units of work, all of them done.
      shard_bytes: about how large a file becomes.
      dedup: leave out duplicates.
      mix: seed of a random order within each split; None keeps the order of the source.
      clean_up: `clean_up.plan_clean_up`, if taxa are to be tidied.
      console: for the progress; standard error if not given.

    Raises:
      UserError: a file in the build folder cannot be read or written.
    """
    rejected: Counts = Counts()
    usable = []
    for span in spans:
        note = read_note(directory, span)
        if note is None:
            raise UserError(f"{span.name} in {directory / BUILD_FOLDER} is gone; start again, it will be made again")
        usable.append(note.usable)
        rejected.update({(span.split, reason): count for reason, count in note.rejected.items()})
    starts = np.cumsum([0, *usable])
    left = np.ones(starts[-1], bool)
    parts = _number_of_parts(len(left))
    rounds = 2 * parts * dedup + (clean_up is not None) + 1
    changes: Mapping[Taxon, Taxon] = {}
    records, shards = {}, {}
    with RecordProgress(rounds * len(spans), f"sorting {plan.name}", console, "tables") as progress:
        tables = _Tables(directory, spans, starts, progress)
        with rejected_part(directory, UNIT) as table:
            if dedup:
                for reason, columns in ((DUPLICATE_KEY, ("key_hash",)), (DUPLICATE_IMAGE, ("md5_high", "md5_low"))):
                    for part in range(parts):
                        again, first = _duplicates(tables, left, columns, parts, part)
                        left[again] = False
                        rejected += _note_duplicates(tables, again, first, reason, table)
        if clean_up is not None:
            changes = _plan_changes(tables, left, clean_up)
        for number, split in enumerate(plan.records):
            order, total_bytes = _order(tables, left, split, plan.record_bytes[split])
            records[split], shards[split] = len(order), number_of_shards(len(order), total_bytes, shard_bytes)
            if mix is not None:
                np.random.default_rng((mix, number)).shuffle(order)
            with replacing(order_path(directory, split)) as path, path.open("wb") as file:
                np.save(file, order, allow_pickle=False)
    merged = Merged(replace(plan, records=records, shards=shards, ordered=True), rejected, changes)
    _write_merged(directory, merged)
    return merged


def read_merged(directory: Path) -> Merged | None:
    """What an earlier merge decided; None if there was none."""
    try:
        content = json.loads((directory / BUILD_FOLDER / _MERGED).read_text(encoding="utf-8"))
        plan = Plan(**content["plan"])
        rejected = Counts({(split, reason): count for split, reason, count in content["rejected"]})
        changes = {Taxon(*before): Taxon(*after) for before, after in content["changes"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = all(order_path(directory, split).is_file() for split in plan.records)
    return Merged(plan, rejected, changes) if whole else None


def _write_merged(directory: Path, merged: Merged) -> None:
    content = {
        "plan": asdict(merged.plan),
        "rejected": [[split, reason, count] for (split, reason), count in merged.rejected.items()],
        "changes": [[taxon_fields(before), taxon_fields(after)] for before, after in merged.changes.items()],
    }
    write_json(directory / BUILD_FOLDER / _MERGED, content)


def _number_of_parts(records: int) -> int:
    parts = 1
    while records > parts * _PART_RECORDS:
        parts *= 2
    return parts


def _duplicates(
    tables: _Tables, left: np.ndarray, columns: Sequence[str], parts: int, part: int
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the records whose hash an earlier record has, ascending, and of the first record that has it.

    Looks at the records whose hash begins with the bits of `part`, one of `parts`, a power of two.
    """
    collected: list[list[np.ndarray]] = [[] for _ in columns]
    places = []
    shift = np.uint64(64 - (parts.bit_length() - 1))
    for where, _, arrays in tables.each(*columns):
        chosen = left[where]
        if parts > 1:
            chosen = chosen & (arrays[0] >> shift == part)
        found = np.flatnonzero(chosen)
        places.append(found + where.start)
        for column, array in zip(collected, arrays, strict=True):
            column.append(array[found])
    place, hashes = np.concatenate(places), [np.concatenate(column) for column in collected]
    if not len(place):
        return place, place
    order = np.lexsort(hashes)  # stable: among the same, the order of the places remains
    same = np.ones(len(order) - 1, bool)
    for one in hashes:
        ordered = one[order]
        same &= ordered[1:] == ordered[:-1]
    first = np.arange(len(order))
    first[1:][same] = 0
    first = np.maximum.accumulate(first)
    again, original = place[order[1:][same]], place[order[first[1:][same]]]
    ascending = np.argsort(again)
    return again[ascending], original[ascending]


def _note_duplicates(tables: _Tables, again: np.ndarray, first: np.ndarray, reason: str, table: RowWriter) -> Counts:
    counts = Counts()
    for start in range(0, len(again), _NAMED_AT_ONCE):
        some = slice(start, start + _NAMED_AT_ONCE)
        splits, keys = tables.keys(again[some])
        for split, key, *original in zip(splits, keys, *tables.keys(first[some]), strict=True):
            table.writerow((split, key, reason, "same as {} {}".format(*original)))
            counts[split, reason] += 1
    return counts


def _plan_changes(
    tables: _Tables, left: np.ndarray, clean_up: Callable[[Mapping[Taxon, int]], CleanUp]
) -> Mapping[Taxon, Taxon]:
    """Tidies the taxa of the records that are left, and writes the report."""
    counts: dict[Taxon, int] = {}
    for where, span, (numbers,) in tables.each("taxon"):
        note = read_note(tables.directory, span)
        taxa = note.taxa if note else []
        for fields, count in zip(taxa, np.bincount(numbers[left[where]], minlength=len(taxa)).tolist(), strict=True):
            if count:
                taxon = Taxon(*map(sys.intern, fields))
                counts[taxon] = counts.get(taxon, 0) + count
    cleaned = clean_up(counts)
    cleaned.write_report(tables.directory / TAXONOMY_CHANGES)
    return cleaned.changes


def _order(tables: _Tables, left: np.ndarray, split: str, mean_bytes: float) -> tuple[np.ndarray, float]:
    """The entries of a split (`Plan.entries`), uint64 in source order, and about how many bytes they take."""
    spans = [index for index, span in enumerate(tables.spans) if span.split == split]
    first, last = tables.starts[spans[0]], tables.starts[spans[-1] + 1]
    order = np.empty(int(np.count_nonzero(left[first:last])), np.uint64)
    filled, total_bytes = 0, 0.0
    for where, _, (row, size, as_is) in tables.each("row", "bytes", "as_is", split=split):
        chosen = left[where]
        entries = 2 * row[chosen] + as_is[chosen]
        order[filled : filled + len(entries)] = entries
        filled += len(entries)
        known = size[chosen]
        total_bytes += int(known.sum(dtype=np.int64)) + mean_bytes * int(np.count_nonzero(known == 0))
    return order, total_bytes
