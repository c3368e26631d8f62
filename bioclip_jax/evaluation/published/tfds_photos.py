"""A dataset that TFDS has prepared, as the labelled photos of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.cache import digest
from bioclip_jax.evaluation.file_stamps import FileStamp
from bioclip_jax.evaluation.published.annotations import class_names
from bioclip_jax.evaluation.task_benchmark import PhotoList
from bioclip_jax.pipeline.record import BadRecord, Record, RecordSource
from bioclip_jax.pipeline.tfds_source import find_dataset, open_tfds
from bioclip_jax.text.captions import TEXT_TYPES
from bioclip_jax.text.taxonomy import Taxon


@dataclass(frozen=True)
class TfdsPhotos(PhotoList):
    """One split; `files` are the keys of its records."""

    source: RecordSource | None = None
    split: str = ""
    """As the dataset calls it."""

    def __getitem__(self, row: int) -> Record:
        """The record at `row`; raises `BadRecord` where it has no image or no name."""
        if self.source is None:
            raise BadRecord(self.files[row], "its dataset is not open")
        return {**self.source[row], "key": self.files[row]}

    @cached_property
    def stamps(self) -> tuple[FileStamp, ...]:
        """One per record: they stand for the dataset's files, in which records lie, and so does `hash`."""
        status = {path.name: path.stat() for path in self.root.iterdir() if path.is_file()}
        files = [(name, status[name].st_size, status[name].st_mtime_ns) for name in sorted(status)]
        known = digest(files, self.split)
        return tuple(FileStamp(f"{known}/{key}", 0, 0) for key in self.files)


def tfds_photos(name: str, data_dir: Path | None = None) -> tuple[dict[str, TfdsPhotos], tuple[str, ...]]:
    """The splits of a prepared dataset, and notes on them. Every record is read once for its label.

    A split without any label, as test splits of competitions are, is left out and noted.

    A photo's class (column `class`) is the name of its label, without number and underscores; where records have
    taxonomic ranks it is taxonomic and common name, and there are columns for the other text types.

    Args:
        name: as TFDS writes it (`plant_village`), with or without `tfds:` before it, or the dataset's directory.
        data_dir: where TFDS keeps its datasets; TFDS_DATA_DIR or ~/tensorflow_datasets if not given.

    Raises:
        UsageError: there is no such dataset, or it has no image or label.
        UserError: it is damaged, or no photo has a label.
    """
    name = name.removeprefix("tfds:")
    directory = find_dataset(name, data_dir)
    found = {
        split: _photos(directory, split, source)
        for split, source in open_tfds(name, data_dir, label_names="common_name").items()
    }
    labelled = {split: photos for split, photos in found.items() if (photos.columns["class"] != "").any()}
    if not labelled:
        raise UserError(f"dataset {directory}: no photo has a label")
    notes = [
        f"split {split} was left out: none of its {len(photos)} photos has a label"
        for split, photos in found.items()
        if split not in labelled
    ]
    return labelled, tuple(notes)


def _photos(directory: Path, split: str, source: RecordSource) -> TfdsPhotos:
    keys: list[str] = []
    taxa: list[Taxon] = []
    for row in range(len(source)):
        try:
            record = source[row]
            keys.append(record["key"])
            taxa.append(Taxon.from_record(record))
        except BadRecord as error:
            keys.append(error.key)
            taxa.append(Taxon())
    if len(set(keys)) < len(keys):
        keys = [f"{key} ({row})" for row, key in enumerate(keys)]
    if any(any(taxon.ranks) for taxon in taxa):
        nothing = [""] * len(taxa)
        columns = {kind: np.array(class_names(taxa, nothing, kind), str) for kind in TEXT_TYPES}
        columns["class"] = columns["taxon_com"]
    else:
        columns = {"class": np.array([taxon.common_name or taxon.scientific_name for taxon in taxa], str)}
        taxa = []
    return TfdsPhotos(directory, tuple(keys), columns, tuple(taxa), source, split)
