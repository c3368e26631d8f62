"""A dataset that TensorFlow Datasets has prepared on this machine, in ArrayRecord files.

    bioclip-jax data show tfds:plant_village
    bioclip-jax data build tfds:caltech_birds2011 OUT --label-names common_name

Nothing is downloaded here, and TensorFlow is not needed. To prepare a dataset, TFDS itself needs it:

    tfds build plant_village --file_format=array_record
    tfds convert_format --dataset_version_dir=DIR --out_file_format=array_record     (one in TFRecord files)

A dataset whose features are those of our records is read as it is. Of any other, the classes of the label become the
scientific or the common name, and texts and numbers called as columns usually are (`genus`, `license`, ...) become
those fields. A record is called by its file and its place in it, as in TFDS's `tfds_id`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.tfds_source import TfdsSource, open_tfds


def source(
    *,
    name: str,
    data_dir: Path | None = None,
    label_names: Literal["scientific_name", "common_name"] = "scientific_name",
    columns: tuple[str, ...] = (),
    attributes: tuple[str, ...] = (),
) -> dict[str, TfdsSource]:
    """The splits of a prepared dataset.

    Args:
      name: as TFDS writes it (plant_village, my_set/config:1.0.0), or the directory of a prepared dataset.
      data_dir: where TFDS keeps its datasets; TFDS_DATA_DIR or ~/tensorflow_datasets if not given.
      label_names: what the classes of the label are called by.
      columns: which feature holds which field, as field=FEATURE pairs; field= alone leaves that field empty.
      attributes: further features to keep with each record, as text.
    """
    if wrong := [pair for pair in columns if "=" not in pair]:
        raise UsageError(f"--columns {wrong[0]}: write field=FEATURE, such as common_name={wrong[0]}")
    return open_tfds(
        name,
        data_dir,
        label_names=label_names,
        columns=dict(pair.split("=", 1) for pair in columns),
        attributes=attributes,
    )
