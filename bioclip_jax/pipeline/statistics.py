"""What a dataset holds, counted: taxa by rank, the long tail, sources, licences, sizes of images, lengths of captions.

All records are looked at, or some that lie evenly. Images are not decoded, their headers say how large they are.
Memory grows with the number of distinct taxa, not with that of records.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from PIL import Image
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.record import BadRecord, RecordSource
from bioclip_jax.text.captions import TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import RANKS, Taxon
from bioclip_jax.text.tokenizer import Tokenizer

FIELDS = ("source", "license", "image_type")
"""The text fields whose values are counted."""
BYTES_STEP = 256
"""Sizes of files are counted in steps of this many bytes."""


@dataclass
class Split:
    """One split: its number of records, those looked at, and those of them that cannot be used, by reason."""

    records: int
    looked_at: int = 0
    unusable: Counter[str] = field(default_factory=Counter)
    taxa: Counter[Taxon] = field(default_factory=Counter)


@dataclass
class Statistics:
    """Counts over the usable records that were looked at.

    Attributes:
      splits: by name.
      taxa: taxon -> records.
      values: for each of `FIELDS` and for `format` (JPEG, ...) how many records have which value; '' for none.
      shorter_sides: of images, in pixels.
      orientations: 'square', 'landscape' and 'portrait'.
      file_sizes: of encoded images, in bytes, rounded down to `BYTES_STEP`.
      tokens: for each text type how many captions have which number of tokens, start and end included.
    """

    splits: dict[str, Split]
    taxa: Counter[Taxon] = field(default_factory=Counter)
    values: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in (*FIELDS, "format")})
    shorter_sides: Counter[int] = field(default_factory=Counter)
    orientations: Counter[str] = field(default_factory=Counter)
    file_sizes: Counter[int] = field(default_factory=Counter)
    tokens: dict[str, Counter[int]] = field(default_factory=dict)

    @property
    def records(self) -> int:
        """How many there are in all splits."""
        return sum(split.records for split in self.splits.values())

    @property
    def looked_at(self) -> int:
        """How many of them were looked at."""
        return sum(split.looked_at for split in self.splits.values())

    @property
    def usable(self) -> int:
        """How many of those can be used, which is what all shares refer to."""
        return sum(self.taxa.values())

    def by_lineage(self, rank: str) -> Counter[tuple[str, ...]]:
        """Records by their lineage down to `rank`, of those that have a name there."""
        counts = Counter[tuple[str, ...]]()
        for taxon, records in self.taxa.items():
            if taxon.rank(rank):
                counts[taxon.lineage(rank)] += records
        return counts

    def named_to(self) -> Counter[str]:
        """Records by the most specific rank that they have a name at; '' for none."""
        counts = Counter[str]()
        for taxon, records in self.taxa.items():
            counts[next((rank for rank, name in zip(RANKS[::-1], taxon.ranks[::-1], strict=True) if name), "")] += (
                records
            )
        return counts


def quantile(counts: Mapping[int, int], share: float) -> int:
    """The smallest value that at least `share` of the counted do not exceed; 0 without any."""
    if not counts:
        return 0
    values = np.array(sorted(counts))
    cumulative = np.cumsum([counts[value] for value in values.tolist()])
    return int(values[np.searchsorted(cumulative, share * cumulative[-1])])


def collect_statistics(
    splits: Mapping[str, RecordSource],
    *,
    sample: int | None = None,
    threads: int | None = None,
    console: Console | None = None,
) -> Statistics:
    """Counts what the splits of a dataset hold. A record that cannot be used is counted by its reason.

    Args:
      splits: of a dataset, as `open_dataset` gives them.
      sample: look at this many records that lie evenly over all splits, instead of at all.
      threads: that read; one per CPU if not given.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: `sample` is below 1.
      UserError: the source itself failed.
    """
    if sample is not None and sample < 1:
        raise UsageError(f"--sample {sample}: must be at least 1")
    threads = threads or os.cpu_count() or 1
    statistics = Statistics({name: Split(len(source)) for name, source in splits.items()})
    total = statistics.records
    count = total if sample is None else min(sample, total)
    start = 0
    with ThreadPoolExecutor(threads) as pool, RecordProgress(count, "looking at records", console) as progress:
        for name, source in splits.items():
            # Of the places i * total / count those in this split.
            first, end = (-(-bound * count // max(total, 1)) for bound in (start, start + len(source)))
            places = (place * total // count - start for place in range(first, end))
            for looked in ordered_map(pool, partial(_look, source), places, 4 * threads):
                _add(statistics, statistics.splits[name], looked)
                progress.advance()
            start += len(source)
    for split in statistics.splits.values():
        statistics.taxa.update(split.taxa)
    _count_tokens(statistics, console)
    return statistics


_NOTHING = Taxon()


@dataclass(frozen=True)
class _Looked:
    """What is counted of one record, or why it cannot be used."""

    unusable: str = ""
    taxon: Taxon = _NOTHING
    values: tuple[str, ...] = ()
    size: tuple[int, int] = (0, 0)
    bytes: int = 0
    caption_tokens: int = 0


def _look(source: RecordSource, index: int) -> _Looked:
    try:
        record = source[index]
        with Image.open(io.BytesIO(record["image"])) as image:
            size, encoding = image.size, image.format or ""
    except BadRecord as bad:
        return _Looked(unusable=bad.reason.partition(": ")[0])
    except UserError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _Looked(unusable="image header cannot be read")
    except Exception as error:
        raise UserError(f"record {index}: the source raised {type(error).__name__}: {error}") from error
    text = record.get("caption", "")
    return _Looked(
        taxon=Taxon.from_record(record),
        values=(*(str(record.get(name, "")) for name in FIELDS), encoding),
        size=size,
        bytes=len(record["image"]),
        caption_tokens=Tokenizer().count(text) if text else 0,
    )


def _add(statistics: Statistics, split: Split, looked: _Looked) -> None:
    split.looked_at += 1
    if looked.unusable:
        split.unusable[looked.unusable] += 1
        return
    split.taxa[looked.taxon] += 1
    for counts, value in zip(statistics.values.values(), looked.values, strict=True):
        counts[value] += 1
    width, height = looked.size
    statistics.shorter_sides[min(width, height)] += 1
    statistics.orientations["square" if width == height else "landscape" if width > height else "portrait"] += 1
    statistics.file_sizes[looked.bytes // BYTES_STEP * BYTES_STEP] += 1
    if looked.caption_tokens:
        statistics.tokens.setdefault("caption", Counter())[looked.caption_tokens] += 1


def _count_tokens(statistics: Statistics, console: Console | None) -> None:
    """The lengths of the captions that are made from taxa; those of a record's own caption are counted already."""
    tokenizer = Tokenizer()
    named = {taxon: records for taxon, records in statistics.taxa.items() if taxon != _NOTHING}
    lengths: dict[str, Counter[int]] = {text_type: Counter() for text_type in TEXT_TYPES} if named else {}
    with RecordProgress(len(named), "counting tokens", console, "taxa") as progress:
        for taxon, records in named.items():
            for text_type, counts in lengths.items():
                counts[tokenizer.count(caption(taxon, text_type))] += records
            progress.advance()
    statistics.tokens = lengths | statistics.tokens
