"""Which features of a TFDS dataset become which fields of a record."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tensorflow_datasets as tfds

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.tables import COLUMN_NAMES, find_columns
from bioclip_jax.text.taxonomy import RANKS

LabelNames = Literal["scientific_name", "common_name"]


@dataclass(frozen=True)
class Features:
    """Which feature of an example holds what.

    Attributes:
      image: the feature with the encoded image.
      fields: field of a record -> feature.
      names: of the classes of each feature that is a class label.
      attributes: features that are kept as the record's `attributes`.
    """

    image: str
    fields: Mapping[str, str]
    names: Mapping[str, Sequence[str]]
    attributes: tuple[str, ...] = ()


def choose_features(
    known: Mapping[str, Any],
    directory: Path,
    supervised: Any = None,
    *,
    label_names: LabelNames = "scientific_name",
    columns: Mapping[str, str],
    attributes: Sequence[str] = (),
) -> Features:
    """Which feature holds which field: as `columns` says, else by `tables.COLUMN_NAMES`, else by its kind.

    The image and the label are those of the supervised keys, else the only ones of their kind.

    Args:
      known: the features by name, `folder/name` for one within another.
      directory: for messages.
      supervised: the (image, label) that TFDS trains on.
      label_names: the field that a label gives.
      columns: field -> feature; '' leaves a field alone.
      attributes: features to keep.

    Raises:
      UsageError: a feature is not there or of another kind, or there is no image or no name.
    """
    told = f"the features of {directory} are: {', '.join(known)}"
    pair = [key for key in (supervised or ()) if isinstance(key, str)]
    images = [name for name, feature in known.items() if isinstance(feature, tfds.features.Image)]
    names = {name: found for name, feature in known.items() if (found := _class_names(feature))}
    labels = list(names)
    plain = [name for name, feature in known.items() if name in labels or _is_scalar(feature)]
    image = columns.get("filepath") or next((key for key in pair if key in images), "")
    if not image and len(images) == 1:
        image = images[0]
    if image not in images:
        which = f"{image!r} is no image" if image else f"{len(images)} features are images"
        raise UsageError(f"{which}; name one with --columns filepath=FEATURE; {told}")
    if (dtype := known[image].np_dtype) != "uint8":
        raise UsageError(f"feature {image!r} holds {dtype} values, not a photo of 8 bits; {told}")
    # Other names than `key` itself need not be unique.
    mapping = {"filepath": image, "split": "", **({} if "key" in plain else {"key": ""}), **columns}
    label = next((key for key in pair if key in labels), labels[0] if len(labels) == 1 else "")
    if label and label_names not in mapping and label not in mapping.values():
        own = any(label in COLUMN_NAMES[field] for field in RANKS)  # a label called `species` says what it is
        mapping |= {} if own else {label_names: label}
    fields = find_columns([*plain, image], mapping, directory)
    del fields["filepath"]
    for name in attributes:
        if name not in plain:
            raise UsageError(f"--attributes {name}: no such feature with a single text or number; {told}")
    return Features(image, fields, names, tuple(attributes))


def flat(features: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Features by the name that an example stores them under."""
    for name, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            yield from flat(feature, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", feature


def _class_names(feature: Any) -> tuple[str, ...]:
    """The names of the classes of a label; none where it only counts them."""
    if not isinstance(feature, tfds.features.ClassLabel):
        return ()
    names = feature.names
    return () if names == [str(number) for number in range(len(names))] else tuple(names)


def _is_scalar(feature: Any) -> bool:
    # Images, boxes and sequences are kinds of tensors, too.
    single = type(feature) in (tfds.features.Scalar, tfds.features.Tensor) and feature.shape == ()
    return isinstance(feature, tfds.features.Text) or single


def text_of(feature: Mapping[str, Any], name: str, names: Mapping[str, Sequence[str]]) -> str:
    """A feature of an example as text; '' where it has none. The name of a class loses its number and underscores."""
    if name not in feature:
        return ""
    value = feature[name]
    if name in names:
        number = value.int64_list.value[0] if value.int64_list.value else -1  # -1 is TFDS's 'no label'
        if not 0 <= number < len(names[name]):
            return ""
        return " ".join(re.sub(r"^\d+\.", "", names[name][number]).replace("_", " ").split())
    found = value.bytes_list.value or value.int64_list.value or value.float_list.value
    if not found:
        return ""
    return found[0].decode("utf-8", "replace").strip() if isinstance(found[0], bytes) else f"{found[0]}"
