"""Your own labelled photos as they lie, without building a dataset: zero-shot, few-shot, and ranks where there are any.

    bioclip-jax eval MODEL photo_classes --root photos/metadata.csv
    bioclip-jax eval MODEL photo_classes --root photos

The table (CSV or Parquet; `metadata.csv`, `photos.csv` or `labels.csv` in a folder) has a column `filepath`, relative
to its own folder or to `images` beside it, and either `class` (or `label`) or any of kingdom, phylum, class (`cls`),
order, family, genus, species, common_name. With a column `split`, each split is measured; `train` beside others is what
a linear probe and nearest neighbours learn from.

Labels: the class as it stands, or taxonomic and common name as BioCLIP's evaluation writes them. Protocol: as in the
paper for annotated tables: 81 templates, top 1, 3 and 5; SimpleShot with 1 and 5 shots, 5 folds.
Licence and citation: your own. The benchmark's name is `photos_` and that of the folder, or of the table if it has
another name than those above, so that it is never taken for a published one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.published.annotations import SPLIT, missing_ranks, read_annotations, tasks_of_splits
from bioclip_jax.evaluation.published.layouts import Layout, is_file
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark

LAYOUT = Layout(
    "photo_classes",
    "you",
    """
metadata.csv        columns filepath, class; or filepath, kingdom ... species, common_name
<filepath>          or images/<filepath>
""",
)


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the table `root`, or on the one in the folder `root`."""
    path = Path(root).expanduser() if root else None
    if path is None or not is_file(path):
        path = LAYOUT.need(LAYOUT.open(root), "metadata.csv", "photos.csv", "labels.csv", "metadata.parquet")
    folder = path.parent
    found = read_annotations(path, extra=("split",))
    below, notes = LAYOUT.images_below(folder, found.files, ("", "images"))
    labels = found.columns.get("split", np.full(len(found.files), SPLIT))
    names = [name for name in dict.fromkeys(labels.tolist()) if name]
    if not names:
        raise UserError(f"table {path}: its column split is empty")
    unassigned = int((labels == "").sum())
    splits = {name: found.photos(folder, below, np.flatnonzero(labels == name)) for name in names}
    return TaskBenchmark(
        name=f"photos_{path.parent.resolve().name if path.stem in ('metadata', 'photos', 'labels') else path.stem}",
        description=f"Photos of the table {path.name}.",
        license="not stated",
        citation="not stated",
        source=str(path),
        splits=splits,
        tasks=tasks_of_splits(splits),
        notes=(
            *found.notes,
            *notes,
            *missing_ranks(found.taxa),
            *((f"{unassigned} photos are in no split and were left out",) if unassigned else ()),
        ),
    )
