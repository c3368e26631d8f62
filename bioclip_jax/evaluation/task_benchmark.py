"""A published benchmark: labelled photos as they lie on disk, and the tasks that are measured on them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.cache import digest
from bioclip_jax.evaluation.file_stamps import MISSING, UNREADABLE, FileStamp, stamp_of
from bioclip_jax.evaluation.task import Task
from bioclip_jax.pipeline.record import BadRecord, Record
from bioclip_jax.text.taxonomy import Taxon


@dataclass(frozen=True)
class PhotoList:
    """The labelled photos of one split; a `RecordSource`, in the order of the benchmark's own files."""

    root: Path
    files: tuple[str, ...]
    """Paths below `root`, with `/`; also the keys."""
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Labels by name: `[n]` of str ('' where unknown) or int, or `[n, labels]` of 0 and 1."""
    taxa: tuple[Taxon, ...] = ()
    """One per photo where there is a taxonomy, else empty."""

    def __post_init__(self) -> None:
        counts = {name: len(values) for name, values in self.columns.items()}
        if self.taxa:
            counts["taxa"] = len(self.taxa)
        for name, count in counts.items():
            if count != len(self.files):
                raise UserError(
                    f"{self.root}: there are {len(self.files)} photos but {count} labels in {name!r}; "
                    "every photo needs one, empty where it is not known"
                )

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> Record:
        """The record of a photo; raises `BadRecord` where its file is missing, cannot be read or lies elsewhere."""
        file = self.files[row]
        path = self.root / file
        try:
            if not path.resolve().is_relative_to(self.root.resolve()):
                raise BadRecord(file, "its path leaves the benchmark's folder")
            if not path.is_file():
                raise BadRecord(file, MISSING)
            return {"key": file, "image": path.read_bytes(), **self._names(row)}
        except OSError as error:
            raise BadRecord(file, f"{UNREADABLE} ({error.strerror})") from None

    def _names(self, row: int) -> dict[str, str]:
        if not self.taxa:
            return {}
        taxon = self.taxa[row]
        return {name.rstrip("_"): value for name, value in vars(taxon).items()}

    @cached_property
    def stamps(self) -> tuple[FileStamp, ...]:
        """Of every file, as it was when they were first asked for."""
        return tuple(stamp_of(self.root, file) for file in self.files)

    @cached_property
    def hash(self) -> str:
        """Stands for the photos: names, sizes and times of files. Labels are not in it: no feature depends on them."""
        known = hashlib.sha256()
        for stamp in self.stamps:
            known.update(json.dumps(stamp).encode())
        return known.hexdigest()

    @cached_property
    def classes(self) -> dict[str, tuple[str, ...]]:
        """The labels in each column of one label per photo, in order of first appearance, whatever files are there."""
        return {
            name: tuple(dict.fromkeys(str(value) for value in values if str(value)))
            for name, values in self.columns.items()
            if np.ndim(values) == 1
        }

    @cached_property
    def labels_hash(self) -> str:
        """Stands for the labels and taxa."""
        return digest(dict(self.columns), [vars(taxon) for taxon in self.taxa])


@dataclass(frozen=True)
class TaskBenchmark:
    """A published benchmark and its protocols."""

    name: str
    description: str
    license: str
    citation: str
    source: str
    """Where its data come from, for people: a page and what to download there."""
    splits: Mapping[str, PhotoList]
    tasks: tuple[Task, ...]
    notes: tuple[str, ...] = ()
    """Known faults of the published files, and what was done about them."""

    def __post_init__(self) -> None:
        if not self.tasks or not self.splits:
            raise UsageError(f"benchmark {self.name!r} has no tasks or no splits")
        names = [task.name for task in self.tasks]
        if len(set(names)) < len(names):
            raise UsageError(f"benchmark {self.name!r}: two tasks have one name; their names are {', '.join(names)}")
        for task in self.tasks:
            if missing := [split for split in task.splits if split not in self.splits]:
                raise UsageError(
                    f"benchmark {self.name!r}: task {task.name!r} needs the split {missing[0]!r}; "
                    f"there are {', '.join(self.splits)}"
                )
