"""Webdataset tars as they lie, as random access to records: TreeOfLife-10M and -200M, BioCAP, LAION by img2dataset.

    source = open_tars("shards/shard-{00000..00009}.tar")
    source[7]["scientific_name"]

They lie on a disk or in an object store (`gs://BUCKET/...`, `s3://BUCKET/...`). Each tar has an index (`tar_index`),
which is made when it is not there. Of a sample the photo and a few small texts are read; names come from those texts,
or by key from a table.
"""

from __future__ import annotations

import logging
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.descriptors import file_limit
from bioclip_jax.pipeline.file_cache import FileCache, files_folder
from bioclip_jax.pipeline.read_ahead import ReadableFile, ReadAhead, ReadAheadFile
from bioclip_jax.pipeline.record import BadRecord, Record
from bioclip_jax.pipeline.storage import FileStatus, is_remote
from bioclip_jax.pipeline.storage_clients import PATIENCE, Patience
from bioclip_jax.pipeline.tar_files import LocalTar, RemoteTar, StrPath
from bioclip_jax.pipeline.tar_index import index_tars
from bioclip_jax.pipeline.tar_index_file import EXAMPLES, Note, TarSummary, index_path, map_samples
from bioclip_jax.pipeline.tar_patterns import expand_tars
from bioclip_jax.pipeline.tar_reading import Layouts, OpenTar
from bioclip_jax.pipeline.tar_samples import IN_FOLDER
from bioclip_jax.pipeline.tar_texts import fields_of_texts
from bioclip_jax.pipeline.taxonomy_table import read_taxonomy
from bioclip_jax.text.taxonomy import RANKS

_LOG = logging.getLogger(__name__)
DAMAGED = "damaged tar"
READ_AHEAD_LIMIT = 1 << 30
_UNSHARED = ("_lock", "_open", "_layouts", "_ahead")  # between processes
_NAMES = (*RANKS, "scientific_name", "common_name")


class Taxonomy(Protocol):
    """Fields of a record by key: a `taxonomy_table.TaxonomyTable`, or a dict of dicts."""

    def get(self, key: str, /) -> Mapping[str, Any] | None:
        """The fields of a record that are known for `key`."""


class TarSource:
    """The records of indexed tars, in the order of the tars.

    Safe to use from many threads; it can be pickled. A tar is opened when a record in it is asked for, and at most
    `max_open` stay open, with two descriptors each (one is the memory map of its index, and a remote tar has no other).
    A record of a remote tar is one request, and whether the tar has changed is seen in the answer.

    Attributes:
      notes: what is unusual in the tars, by kind.
      replaced_texts: texts that were not UTF-8 in the records read so far by this process.

    Args:
      summaries: of the tars, from `index_tars`.
      index_folder: where their indexes lie; if not given, beside the tars or where `index_path` says.
      taxonomy: fields by key, which go before what the tars say. A key with a folder is also looked up without it.
      source_name: the `source` of the records, where the taxonomy has none.
      max_open: tars that are open at a time.
      read_ahead: bytes of the aligned chunks in which tars are read, for records that are read in order of neighbours;
        0 reads what a record takes.
      read_ahead_limit: bytes of such chunks that stay in memory.
      cache: keeps whole remote tars on a local disk.
      patience: how long to wait for an object store.
    """

    def __init__(
        self,
        summaries: Sequence[TarSummary],
        index_folder: StrPath | None = None,
        *,
        taxonomy: Taxonomy | None = None,
        source_name: str = "",
        max_open: int = 256,
        read_ahead: int = 0,
        read_ahead_limit: int = READ_AHEAD_LIMIT,
        cache: FileCache | None = None,
        patience: Patience = PATIENCE,
    ):
        if max_open < 1:
            raise UsageError(f"max_open {max_open}: at least one tar must be open to be read")
        if read_ahead < 0:
            raise UsageError(f"read_ahead {read_ahead}: give the bytes of a chunk, or 0")
        self._paths = [summary.path for summary in summaries]
        self._files = [(summary.size, summary.mtime_ns, summary.fingerprint) for summary in summaries]
        self._ends = list(accumulate(summary.samples for summary in summaries))
        self._index_folder, self._taxonomy, self._source_name = index_folder, taxonomy, source_name
        self._max_open, self._read_ahead, self._read_ahead_limit = max_open, read_ahead, read_ahead_limit
        self._cache, self._patience = cache, patience
        self.notes = _together(summaries)
        self.replaced_texts = 0
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[int, OpenTar] = OrderedDict()
        self._layouts: Layouts = {}
        self._ahead = ReadAhead(self._read_ahead, self._read_ahead_limit) if self._read_ahead else None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, from 0 to `len(self) - 1`.

        Raises:
          IndexError: there is no such place.
          BadRecord: the sample has no usable photo, or nothing says what it shows.
          UserError: its tar is gone, cannot be read, or has changed.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        tar = bisect_right(self._ends, index)
        sample = self._opened(tar).read(index - self._first(tar), self._layouts)
        key = self._text(sample.key, sample.key)
        record: Record = {"key": key, "image": sample.image, "source": self._source_name}
        record |= fields_of_texts({suffix: self._text(text, sample.key) for suffix, text in sample.texts.items()})
        if self._taxonomy is not None:
            record |= self._looked_up(self._taxonomy, key)
        if not record["caption"] and not any(record[name] for name in _NAMES):
            raise BadRecord(key, "no name at any rank")
        return record

    def key_hashes(self) -> np.ndarray:
        """`tar_samples.key_hash` of every key, uint64 [len(self)], from the indexes alone."""
        hashes = np.zeros(len(self), np.uint64)
        for tar, path in enumerate(self._paths):
            first, end = self._first(tar), self._ends[tar]
            hashes[first:end] = map_samples(index_path(path, self._index_folder), end - first)["key_hash"]
        return hashes

    def _first(self, tar: int) -> int:
        return self._ends[tar - 1] if tar else 0

    def _looked_up(self, taxonomy: Taxonomy, key: str) -> dict[str, str]:
        fields = taxonomy.get(key)
        if fields is None and "/" in key:
            fields = taxonomy.get(key.rpartition("/")[2])
        if fields is None:
            return {}
        found = {name: str(value) for name, value in fields.items() if value is not None and value == value}
        # A row stands for the whole taxon: what it leaves empty is not filled from another source.
        return dict.fromkeys(_NAMES, "") | {name: value for name, value in found.items() if value or name in _NAMES}

    def _opened(self, tar: int) -> OpenTar:
        with self._lock:
            if (found := self._open.get(tar)) is not None:
                self._open.move_to_end(tar)
                return found
        path, samples = self._paths[tar], self._ends[tar] - self._first(tar)
        opened = OpenTar(self._file(tar), index_path(path, self._index_folder), samples, self._files[tar][0])
        with self._lock:
            self._open[tar] = opened
            while len(self._open) > file_limit(self._max_open, 8):
                # It is closed when the last thread that reads from it lets go.
                self._open.popitem(last=False)
        return opened

    def _file(self, tar: int) -> ReadableFile:
        path, (size, mtime_ns, fingerprint) = self._paths[tar], self._files[tar]
        file: ReadableFile
        if is_remote(path) and self._cache is None:
            file = RemoteTar(path, FileStatus(path, size, mtime_ns), fingerprint, self._patience)
        else:
            file = LocalTar(self._cache.local(path) if self._cache else path)
        return file if self._ahead is None else ReadAheadFile(file, self._ahead)

    def _text(self, data: bytes, key: bytes) -> str:
        try:
            return data.decode()
        except UnicodeDecodeError:
            with self._lock:
                self.replaced_texts += 1
                told = self.replaced_texts > EXAMPLES
            if not told:
                _LOG.warning("sample %r: a text is not UTF-8; what is not was replaced", key.decode("utf-8", "replace"))
            return data.decode("utf-8", "replace")

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in _UNSHARED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start()


def open_tars(
    tars: StrPath | Sequence[StrPath],
    *,
    index_folder: StrPath | None = None,
    taxonomy: StrPath | Taxonomy | None = None,
    source_name: str = "",
    max_open: int = 256,
    processes: int | None = 1,
    allow_damaged: bool = False,
    console: Console | None = None,
    read_ahead: int = 0,
    read_ahead_limit: int = READ_AHEAD_LIMIT,
    cache: StrPath | FileCache | None = None,
    patience: Patience = PATIENCE,
) -> TarSource:
    """Opens webdataset tars; makes the indexes that are not there.

    Args:
      tars: what `expand_tars` takes: a path, folder or pattern such as `shard-{00000..24235}.tar`, or several.
      index_folder: where the indexes lie; if not given, beside the tars or, of remote ones, where `index_path` says.
      taxonomy: fields by key, or the path of a Parquet or CSV table with a column `uuid` or `key`.
      source_name: the `source` of the records, where the taxonomy has none.
      max_open: tars that are open at a time.
      processes: that make indexes, if any are missing; see `index_tars`.
      allow_damaged: use what lies before the break of a damaged tar; else it is refused.
      console: for the progress of indexing; standard error if not given.
      read_ahead: see `TarSource`; where neighbours are read together, 8 MiB (`8 << 20`) is a good choice.
      read_ahead_limit: see `TarSource`.
      cache: keeps whole remote tars on a local disk: a folder without limit, or a `FileCache`.
      patience: how long to wait for an object store.

    Raises:
      UsageError: the pattern fits nothing, or an argument is wrong.
      UserError: a tar is missing, damaged or compressed, or there is no sample in them.
    """
    folder = index_folder
    if folder is not None and not (isinstance(folder, str) and is_remote(folder)):
        folder = Path(folder).expanduser()
    console = console or Console(stderr=True)
    if isinstance(cache, str | os.PathLike):
        cache = FileCache(cache, patience=patience)
    paths = expand_tars(tars, patience)
    summaries = index_tars(
        paths, folder, processes=processes, allow_damaged=allow_damaged, console=console, patience=patience
    )
    make = partial(
        TarSource,
        summaries,
        folder,
        source_name=source_name,
        max_open=max_open,
        read_ahead=read_ahead,
        read_ahead_limit=read_ahead_limit,
        cache=cache,
        patience=patience,
    )
    source = make()
    if not len(source):
        others = f" and {len(paths) - 1:,} others hold" if len(paths) > 1 else " holds"
        raise UserError(f"tar {paths[0]}{others} no samples")
    if problems := problems_in_words(source.notes):
        found = f"{len(source):,} samples in {len(paths):,} tar{'s' if len(paths) > 1 else ''}; {problems}"
        console.print(found, highlight=False, markup=False, soft_wrap=True)
    if taxonomy is None:
        return source
    if isinstance(taxonomy, str | os.PathLike):
        keys = None if IN_FOLDER in source.notes else source.key_hashes()
        taxonomy = read_taxonomy(_local_table(taxonomy, patience), keys, console)
    return make(taxonomy=taxonomy)


def _local_table(path: StrPath, patience: Patience) -> Path:
    if isinstance(path, str) and is_remote(path):
        return FileCache(files_folder(), patience=patience).local(path)
    return Path(path).expanduser()


def problems_in_words(notes: Mapping[str, Note]) -> str:
    """What is unusual in tars, on one line: how often and the first few names; '' if nothing is."""
    found = {kind: note for kind, note in notes.items() if kind != IN_FOLDER}
    return "; ".join(f"{kind}: {note.count:,} ({', '.join(note.examples)})" for kind, note in found.items())


def _together(summaries: Sequence[TarSummary]) -> dict[str, Note]:
    notes: dict[str, Note] = {}
    for summary in summaries:
        if summary.damage:
            notes.setdefault(DAMAGED, Note()).add(f"{summary.path} {summary.damage}".encode())
        for kind, note in summary.notes.items():
            together = notes.setdefault(kind, Note())
            together.count += note.count
            together.examples += note.examples[: EXAMPLES - len(together.examples)]
    return notes
