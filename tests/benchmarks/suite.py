"""Measures a suite with the tasks of all published benchmarks: first with photos to encode, then with features cached.

    python tests/benchmarks/suite.py [--images 10000] [--width 768] [--seeds 1] [--resamples 1000]

The photos are squares of 8 x 8 pixels, some 25 of a class, drawn in a temporary folder and shared out among benchmarks
that are called as the published ones and have their kinds of tasks; the model is a random projection of pixels. The
encoding of photos is not what is measured: the second time is, of the same command in a new process, with the
features, but no result of a task, in the cache. It includes importing and compiling.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.published.annotations import tasks_of
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.evaluation.run import evaluate
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.one_shot import OneShot
from bioclip_jax.evaluation.tasks.probe import Probe
from bioclip_jax.evaluation.tasks.semi_supervised import SemiSupervisedKMeans
from bioclip_jax.evaluation.tasks.svm_search import SVMSearch
from bioclip_jax.images import decode
from bioclip_jax.text.taxonomy import Taxon

META_ALBUM = ("plankton", "insects", "insects2", "plantnet", "fungi", "plantvillage", "medicinal_leaf", "plantdoc_mini")
CAMERA_TRAPS = ("desert_lion", "ena24", "island", "orinoquia", "ohio_small_animals")
SHARES = {
    "nabirds": 10,
    **dict.fromkeys(META_ALBUM, 4),
    "rare_species": 10,
    **dict.fromkeys(CAMERA_TRAPS, 2),
    "newt": 13,
    "fishnet": 10,
    "awa2": 6,
    "herbarium19": 6,
    "plantdoc": 3,
}
"""Per cent of the photos."""
PER_CLASS = 25
PER_NEWT_TASK = 130


class Projection:
    """A model whose features are a random projection of pixels; its texts are random."""

    name = "random projection"
    logit_scale = 20.0

    def __init__(self, width: int):
        self.fingerprint = f"random-projection-{width}"
        self._matrix = np.random.default_rng(0).normal(size=(192, width)).astype(np.float32)

    def preprocess(self, image: Any) -> np.ndarray:
        """uint8 `[8, 8, 3]`."""
        return decode(image)

    def encode_image(self, images: np.ndarray, *, normalize: bool = True) -> np.ndarray:
        """float32 `[n, width]`."""
        features = (images.reshape(len(images), -1).astype(np.float32) / 255 - 0.5) @ self._matrix
        return features / np.linalg.norm(features, axis=1, keepdims=True) if normalize else features

    def encode_text(self, texts: list[str]) -> np.ndarray:
        """float32 `[m, width]`."""
        features = np.stack([np.random.default_rng(list(t.encode())).normal(size=self._matrix.shape[1]) for t in texts])
        return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


def draw(folder: Path, name: str, count: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Photos of classes, and their class numbers."""
    seed = list(name.encode())
    stream = np.random.default_rng(seed)
    classes = max(2, count // PER_CLASS)
    number = np.arange(count) % classes
    means = stream.integers(60, 196, (classes, 8, 8, 3))
    (folder / name).mkdir(exist_ok=True)
    files = tuple(f"{row:05}.png" for row in range(count))
    for file, mean in zip(files, means[number], strict=True):
        if not (folder / name / file).exists():
            noise = stream.normal(0, 60, (8, 8, 3))
            Image.fromarray(np.clip(mean + noise, 0, 255).astype(np.uint8)).save(folder / name / file)
    return files, number


def taxon(number: int) -> Taxon:
    """Of a class: four species to a genus, and so on up."""
    names = [f"{rank}{number // 4**level}" for level, rank in enumerate(("s", "G", "F", "O", "C", "P"))]
    species, genus, family, order, class_, phylum = names
    return Taxon("Animalia", phylum, class_, order, family, genus, species, common_name=f"beast {number}")


def make(folder: Path, name: str, count: int, seeds: tuple[int, ...]) -> TaskBenchmark:
    """A benchmark of `count` photos with the tasks of the recipe of its name."""
    files, number = draw(folder, name, count)
    label = np.array([f"kind {n}" for n in number])
    stream = np.random.default_rng(0)
    halves = np.arange(count) // (number.max() + 1) % 2 == 0
    tasks: tuple[Any, ...]
    if name in ("newt", "fishnet", "awa2", "plantdoc"):
        columns = {
            "class": label,
            "label": number % 2,
            "task": np.array([f"task {n}" for n in np.arange(count) // PER_NEWT_TASK]),
            "traits": stream.integers(0, 2, (number.max() + 1, 9))[number],
            "attributes": stream.integers(0, 2, (number.max() + 1, 85))[number],
        }
        splits = {
            split: PhotoList(
                folder / name,
                tuple(files[row] for row in rows),
                {column: values[rows] for column, values in columns.items()},
            )
            for split, rows in (("train", np.flatnonzero(halves)), ("test", np.flatnonzero(~halves)))
        }
        tasks = {
            "newt": (SVMSearch("newt", "train", "test", seeds=seeds),),
            "fishnet": (Probe("fishnet", "train", "test", "traits", learning_rate=1e-4, seeds=seeds),),
            "awa2": (Probe("awa2", "train", "test", "attributes", metric="f1", learning_rate=1e-5, seeds=seeds),),
            "plantdoc": (OneShot("plantdoc", "train", "test"),),
        }[name]
    elif name == "herbarium19":
        splits = {"train": PhotoList(folder / name, files, {"class": label})}
        old = tuple(f"kind {n}" for n in range(number.max() // 2 + 1))
        tasks = (SemiSupervisedKMeans("herbarium19", "train", old_classes=old, seeds=seeds),)
    else:
        taxa = tuple(taxon(n) for n in number) if name in ("rare_species", *CAMERA_TRAPS) else ()
        photos = PhotoList(folder / name, files, {"class": label}, taxa)
        splits, tasks = {"test": photos}, tasks_of(photos)
    about = dict.fromkeys(("description", "license", "citation", "source"), "drawn")
    return TaskBenchmark(name, **about, splits=splits, tasks=tasks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where photos and results lie (for the processes of this script)")
    options = parser.parse_args()
    if options.folder is None:
        with tempfile.TemporaryDirectory() as folder:
            drawn = subprocess.Popen([sys.executable, __file__, *sys.argv[1:], "--folder", folder])
            if drawn.wait():
                sys.exit("the first run failed")
            for path in Path(folder).glob("results/features/*.npz"):
                with np.load(path) as kept:
                    is_photos = "names" in kept.files
                if not is_photos:
                    path.unlink()
            started = time.perf_counter()
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--folder", folder], check=True)
            print(f"the suite with features cached, whole process: {time.perf_counter() - started:.1f} s")
        return
    suite = [
        make(options.folder, name, max(50, options.images * share // 100), tuple(range(options.seeds)))
        for name, share in SHARES.items()
    ]
    images = sum(len(photos) for benchmark in suite for photos in benchmark.splits.values())
    path = options.folder / "results" / "results.sqlite"
    again = path.exists()
    started = time.perf_counter()
    with (options.folder / "log").open("w") as log:
        from rich.console import Console

        settings = dataclasses.replace(Settings(), resamples=options.resamples)
        model = Projection(options.width)
        evaluate(model, suite, path, settings=settings, console=Console(file=log, width=120), again=again)
    seconds = time.perf_counter() - started
    with Results(path) as results:
        for number, run in results.runs().items():
            print(f"  {run.benchmark:20} {run.seconds:7.1f} s {len(results.rows(Figure, number)):6} figures")
            left_out = [note for note in json.loads(run.notes) if "not measured" in note]
            print("".join(f"    {note}\n" for note in left_out), end="")
    state = "features cached" if again else "photos encoded"
    print(f"{len(suite)} benchmarks, {images:,} photos, {os.cpu_count()} cores, {state}: {seconds:.1f} s", flush=True)


if __name__ == "__main__":
    main()
