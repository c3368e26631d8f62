"""Herbarium 19: finding species that have no label, among pressed plants (generalised category discovery).

    bioclip-jax eval MODEL herbarium19 --root DIR

DIR holds `small-train/<class>/<file>` (about 34,000 photos of 683 species; `small-validation` is not used) of the
Herbarium Challenge 2019, https://storage.googleapis.com/nybg/herbarium-2019-fgvc6, and which classes are old:
`herbarium_19_class_splits.pkl` of github.com/sgvaze/generalized-category-discovery (data/ssb_splits), or the same as
`herbarium_19_class_splits.json`, `{"Old": [...], "New": [...]}` of places in the sorted class folders, or their names.
A pickle file can run any code when Python loads it: it is never loaded here, its lists of numbers are read one opcode
at a time, and anything else in it is refused.

Labels: 341 old classes, of whose photos 80 per cent are labelled, and 342 new ones. Protocol: semi-supervised k-means
with 683 clusters; clusters are matched to old and to new classes separately (`paper`) or at once (`corrected`).
Licence: not stated by the publisher; see the challenge's terms. Citation: Tan et al., arXiv:1906.05372; class
split: Vaze et al., CVPR 2022.
Known faults: separate matching lets one cluster stand for two classes and raises accuracy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.published.layouts import Layout, differences, printable
from bioclip_jax.evaluation.published.plain_pickle import read_plain_pickle
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.semi_supervised import SemiSupervisedKMeans

LAYOUT = Layout(
    "herbarium19",
    "https://storage.googleapis.com/nybg/herbarium-2019-fgvc6 and github.com/sgvaze/generalized-category-discovery",
    """
small-train/<class>/<file>.jpg         683 classes
herbarium_19_class_splits.json         {"Old": [341 classes], "New": [342 classes]}
  or herbarium_19_class_splits.pkl
""",
)
SPLIT_FILE = "herbarium_19_class_splits"


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    folder = LAYOUT.open(root)
    photos = LAYOUT.image_folder(folder, "small-train")
    path = LAYOUT.need(folder, f"{SPLIT_FILE}.json", f"{SPLIT_FILE}.pkl")
    folders = LAYOUT.folders(folder, "small-train")
    old, new = _class_splits(path, folders)
    chosen = set(old) | set(new)
    rows = [row for row, label in enumerate(photos.labels) if label in chosen]
    labels = [photos.labels[row] for row in rows]
    with_photos = set(labels)
    old = tuple(name for name in old if name in with_photos)
    if not old or with_photos <= set(old):
        raise UserError(
            f"{path}: the photos of small-train are of {len(old)} old classes and no new ones, or of none old"
        )
    counted = {"classes": len(with_photos), "old classes": len(old), "new classes": len(with_photos) - len(old)}
    return TaskBenchmark(
        name=LAYOUT.name,
        description="Scans of pressed flowering plants (Melastomataceae); half of the species are labelled in part.",
        license="not stated by the publisher; see the source",
        citation="Tan et al., The Herbarium Challenge 2019 Dataset, arXiv:1906.05372; class split: Vaze et al., "
        "Generalized Category Discovery, CVPR 2022",
        source=LAYOUT.source,
        splits={"train": PhotoList(folder, tuple(photos.files[row] for row in rows), {"class": np.array(labels, str)})},
        tasks=(SemiSupervisedKMeans("herbarium19", "train", "class", old_classes=old),),
        notes=(
            *photos.notes,
            *(
                (f"{len(folders) - len(chosen)} class folders are in neither list",)
                if len(folders) > len(chosen)
                else ()
            ),
            *differences({"classes": 683, "old classes": 341, "new classes": 342}, counted),
        ),
    )


def _class_splits(path: Path, folders: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the old and the new classes, in the order of the file."""
    found: Any
    if path.suffix == ".pkl":
        found = read_plain_pickle(path)
    else:
        try:
            found = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not JSON, or cannot be read") from error
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list | tuple) for key in ("Old", "New")):
        raise UserError(f'{path} holds {type(found).__name__}, not {{"Old": [...], "New": [...]}}')
    old, new = (tuple(_name(entry, path, folders) for entry in found[key]) for key in ("Old", "New"))
    if len({*old, *new}) < len(old) + len(new):
        raise UserError(f"{path} lists a class twice")
    return old, new


def _name(entry: object, path: Path, folders: list[str]) -> str:
    if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < len(folders):
        return folders[entry]
    if isinstance(entry, str) and entry in folders:
        return entry
    raise UserError(
        f"{path} lists the class {printable(str(entry)[:40])}, but small-train has {len(folders)} class folders: "
        "is the download complete?"
    )
