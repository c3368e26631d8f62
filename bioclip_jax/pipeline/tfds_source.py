"""A dataset that TFDS has prepared on this machine, as random access to records. TensorFlow is not needed.

The files must be ArrayRecord. Images stay encoded as they are. A dataset whose features are those of a record is read
as one; of any other the image, a class label and texts become the fields that `choose_features` finds.
"""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.photo_table import record_of, tidy_taxon
from bioclip_jax.pipeline.record import REQUIRED_TEXT_FIELDS, BadRecord, Record
from bioclip_jax.pipeline.shards import decode_example, parse_example
from bioclip_jax.pipeline.tfds_features import Features, LabelNames, choose_features, flat, text_of
from bioclip_jax.text.taxonomy import Taxon

_NAME = re.compile(r"(?P<name>[a-zA-Z]\w*)(/(?P<config>[\w.+-]+))?(:(?P<version>\d+\.\d+\.\d+))?")


class TfdsSource:
    """The records of one split; safe to use from many threads, and can be pickled.

    Args:
      files: paths of the ArrayRecord files and how many examples each holds.
      features: which feature holds what; None for the features of a record.
      source: the `source` of the records, where no feature is.
    """

    def __init__(self, files: Sequence[tuple[str, int]], features: Features | None, source: str):
        self._paths = [path for path, _ in files]
        self._ends = list(accumulate(count for _, count in files))
        self._features, self._source_name = features, source
        parts = [f"{path}[0:{count}]" for path, count in files if count]  # so that none is opened before it is read
        self._source = ArrayRecordDataSource(parts) if parts else ()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Record:
        """The record at `index`, from 0 to `len(self) - 1`.

        Raises:
          IndexError: there is no such place.
          BadRecord: the example has no image or no name.
          UserError: a file is gone or damaged there.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {len(self)}")
        file = bisect_right(self._ends, index)
        path = self._paths[file]
        try:
            example = self._source[index]
            if self._features is None:
                return decode_example(example)
            feature = parse_example(example).features.feature
        except (RuntimeError, OSError, ValueError, IndexError) as error:
            raise UserError(
                f"{path} cannot be read ({str(error) or type(error).__name__}); prepare it again"
            ) from error
        # As TFDS itself writes the `tfds_id` of an example.
        place = f"{Path(path).name}__{index - (self._ends[file - 1] if file else 0)}"
        return self._record(feature, self._features, place)

    def _record(self, feature: Mapping[str, Any], features: Features, place: str) -> Record:
        text = {field: text_of(feature, name, features.names) for field, name in features.fields.items()}
        key = text.get("key") or place
        images = feature[features.image].bytes_list.value if features.image in feature else ()
        if not images or not images[0]:
            raise BadRecord(key, "image is empty")
        taxon = tidy_taxon(text)
        if taxon == Taxon():
            raise BadRecord(key, "no name at any rank")
        attributes = {name: text_of(feature, name, features.names) for name in features.attributes}
        return record_of(key, images[0], taxon, {**text, "source": text.get("source") or self._source_name}, attributes)


def open_tfds(
    name: str,
    data_dir: Path | None = None,
    *,
    label_names: LabelNames = "scientific_name",
    columns: Mapping[str, str] | None = None,
    attributes: Sequence[str] = (),
) -> dict[str, TfdsSource]:
    """Opens a dataset that TFDS has prepared; downloads nothing, and runs no code of the dataset.

    Args:
      name: as TFDS writes it (`plant_village`, `my_set/config:1.0.0`), or the directory of a prepared dataset.
      data_dir: where TFDS keeps its datasets; TFDS_DATA_DIR or ~/tensorflow_datasets if not given.
      label_names: what the classes of the label are called by.
      columns: field of a record -> feature, for what is not recognised; '' leaves a field alone.
      attributes: features to keep with each record.

    Raises:
      UsageError: there is no such dataset, or it has no image, label or feature that was named.
      UserError: it is damaged, or its files are not ArrayRecord.
    """
    directory = find_dataset(name, data_dir)
    _check_classes(directory / "features.json")
    try:
        info = tfds.builder_from_directory(directory).info
        formats, splits, known = info.available_file_formats(), info.splits, dict(flat(info.features))
    except Exception as error:  # TFDS raises many kinds for damaged metadata
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"dataset {directory} cannot be opened ({reason}); prepare it again") from error
    array_record = tfds.core.FileFormat.ARRAY_RECORD
    if array_record not in formats:
        found = ", ".join(sorted(entry.value for entry in formats)) or "an unknown format"
        raise UserError(
            f"dataset {directory} is stored as {found}, which has no random access; run `tfds convert_format "
            f"--dataset_version_dir={directory} --out_file_format=array_record` (it needs TensorFlow)"
        )
    if info.file_format != array_record:
        info.set_file_format(array_record, override=True, override_if_initialized=True)
        splits = info.splits
    features = None
    if not ({"image", *REQUIRED_TEXT_FIELDS} <= known.keys()) or columns or attributes:
        features = choose_features(
            known,
            directory,
            info.supervised_keys,
            label_names=label_names,
            columns=columns or {},
            attributes=attributes,
        )
    sources = {name: TfdsSource(_files(directory, split), features, info.name) for name, split in splits.items()}
    return {split: source for split, source in sources.items() if len(source)} or _no_examples(directory)


def find_dataset(name: str, data_dir: Path | None = None) -> Path:
    """The directory of a prepared dataset; of several versions the newest.

    Raises:
      UsageError: it is not prepared, or has several configurations and none is named.
    """
    if (given := Path(name).expanduser()).is_dir() and (given / "features.json").is_file():
        return given
    root = Path(data_dir if data_dir is not None else _default_data_dir()).expanduser()
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(
            f"dataset {name!r}: neither the directory of a prepared dataset (no features.json) nor a name such as "
            "plant_village, my_set/config or my_set/config:1.0.0"
        )
    base, config, version = root / match["name"], match["config"], match["version"]
    there: dict[str, dict[tuple[int, ...], Path]] = {}
    for folder in [file.parent for pattern in ("*", "*/*") for file in base.glob(f"{pattern}/features.json")]:
        if re.fullmatch(r"\d+\.\d+\.\d+", folder.name):
            number = tuple(int(part) for part in folder.name.split("."))
            there.setdefault("" if folder.parent == base else folder.parent.name, {})[number] = folder
    if config is None and len(there) > 1:
        names = ", ".join(sorted(name for name in there if name))
        raise UsageError(f"dataset {name} has configurations: {names}; write {match['name']}/CONFIG")
    versions = there.get(config, {}) if config else next(iter(there.values()), {})
    wanted = {number: folder for number, folder in versions.items() if version in (None, folder.name)}
    if not wanted:
        others = ", ".join(str(folder.relative_to(root)) for found in there.values() for folder in found.values())
        raise UsageError(
            f"dataset {name} is not prepared in {root} (there is {others or 'no version of it'}); prepare it with "
            f"TFDS, which needs TensorFlow: tfds build {match['name']} --file_format=array_record --data_dir={root}"
        )
    return max(wanted.items())[1]


def _check_classes(path: Path) -> None:
    """Refuses features of classes that are not TFDS's own, which opening the dataset would import."""
    try:
        content = path.read_text(encoding="utf-8")
        json.loads(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({getattr(error, 'strerror', None) or error}); prepare it again"
        ) from error
    for name in re.findall(r'"(?:pythonClassName|type)"\s*:\s*"([^"]*)"', content):
        if "." in name and not name.startswith("tensorflow_datasets.core.features."):
            raise UserError(f"{path}: features of class {name} are not read; only those of TFDS itself are")


def _files(directory: Path, split: Any) -> list[tuple[str, int]]:
    """The files of a split and the examples in each."""
    try:
        paths, counts = [os.fspath(path) for path in split.filepaths], list(split.shard_lengths)
    except Exception as error:  # odd templates of file names
        raise UserError(f"dataset {directory}: the files of split {split.name!r} are not known ({error})") from error
    for path in paths:
        if os.path.dirname(os.path.normpath(path)) != os.path.normpath(directory):  # noqa: PTH120 no look at the disk
            raise UserError(f"dataset {directory} names a file outside itself: {path}; do not trust it")
        if not Path(path).is_file():
            raise UserError(f"dataset {directory} lacks {Path(path).name}; prepare it again")
    return list(zip(paths, counts, strict=True))


def _no_examples(directory: Path) -> dict[str, TfdsSource]:
    raise UserError(f"dataset {directory} has no examples")


def _default_data_dir() -> str:
    from tensorflow_datasets.core import constants  # imports every feature of TFDS

    return str(constants.DATA_DIR)
