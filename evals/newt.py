"""NeWT, natural world tasks: 164 binary tasks beyond species (age, sex, health, behaviour, context), by SVM search.

    bioclip-jax eval MODEL newt --root DIR

DIR holds `newt2021_labels.csv` (columns id, label, split, task, task_cluster, task_subcluster) and
`newt2021_images/<id>.jpg`, from the links on https://github.com/visipedia/newt.

Labels: 0 or 1 within each task. Protocol: per task 100 candidates of kernel, C and gamma by 5-fold cross-validation on
the task's training photos, the best one refitted; micro accuracy over the test photos of all tasks, mean of three
seeds.
Licence: the photos' own, of iNaturalist, the Macaulay Library and others; the publisher's code is MIT.
Citation: Van Horn et al., CVPR 2021.
Known faults: none of the files; the reference implementation takes tasks in no fixed order, which changes nothing.
"""

from __future__ import annotations

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.published.layouts import Layout, differences, first_of_each, inside
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.svm_search import SVMSearch
from bioclip_jax.pipeline.tables import read_table, text_column

LAYOUT = Layout(
    "newt",
    "https://github.com/visipedia/newt (newt2021_labels.csv and newt2021_images)",
    """
newt2021_labels.csv         id, label, split, task, task_cluster, task_subcluster
newt2021_images/<id>.jpg
""",
)
COLUMNS = ("id", "label", "split", "task", "task_cluster", "task_subcluster")
TASKS = 164


def benchmark(root: str | None = None) -> TaskBenchmark:
    """The benchmark on the files in `root`."""
    folder = LAYOUT.open(root)
    path = LAYOUT.need(folder, "newt2021_labels.csv")
    table, ragged = read_table(path)
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise LAYOUT.wrong(folder, f"{path.name} has no column {', '.join(missing)}")
    values = {name: [value.strip() for value in text_column(table, name).to_pylist()] for name in COLUMNS}
    if wrong := sorted(set(values["label"]) - {"0", "1"}):
        raise UserError(f"table {path}: labels are 0 or 1, one is {wrong[0]!r}")
    if wrong := sorted(set(values["split"]) - {"train", "test"}):
        raise UserError(f"table {path}: splits are train and test, one is {wrong[0]!r}")
    ids = inside(values["id"], path)
    rows, notes = first_of_each(
        [f"{task}/{key}" for task, key in zip(values["task"], ids, strict=True)], values["label"]
    )
    files = np.array([f"{key}.jpg" for key in ids])
    below, partial = LAYOUT.images_below(folder, list(dict.fromkeys(files.tolist())), ("newt2021_images", "images", ""))
    columns = {
        "label": np.array(values["label"], np.int64),
        "task": np.array(values["task"], str),
        "cluster": np.array(values["task_cluster"], str),
        "subcluster": np.array(values["task_subcluster"], str),
    }
    split = np.array(values["split"], str)
    splits = {}
    for name in ("train", "test"):
        of_split = rows[split[rows] == name]
        if not len(of_split):
            raise UserError(f"table {path}: no photo is of split {name}")
        chosen = tuple(f"{below}/{file}".strip("/") for file in files[of_split])
        splits[name] = PhotoList(folder, chosen, {key: column[of_split] for key, column in columns.items()})
    return TaskBenchmark(
        name=LAYOUT.name,
        description="164 binary tasks on photos of the natural world: attributes, behaviour, context, health, species.",
        license="each photo's own; the publisher states none for the whole",
        citation="Van Horn et al., Benchmarking Representation Learning for Natural World Image Collections, CVPR 2021",
        source=LAYOUT.source,
        splits=splits,
        tasks=(SVMSearch("newt", "train", "test"),),
        notes=(
            *((f"{len(ragged)} lines of {path.name} have another number of cells than its header",) if ragged else ()),
            *notes,
            *partial,
            *differences({"tasks": TASKS}, {"tasks": len(set(values["task"]))}),
        ),
    )
