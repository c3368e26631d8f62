"""Measures loading: photos to uint8 batches of 256 at 224 pixels, beside the reference's own way, and at full scale.

    python tests/benchmarks/loader.py [--photos FOLDER] [SECTION ...]

FOLDER has a `metadata.csv` and the photos that it names (BIOCLIP_JAX_PHOTOS if not given; drawn photos without either).
They are squashed to 224 x 224 pixels, and in some rows 720 pixels at the longest side. Each row is the median and the
range of five runs or more, page cache warm, all cores. What is compared is measured in turns, and a ratio is taken turn
by turn. The sections:

    rates      ArrayRecord and tars
    reference  the same tars by webdataset, torchvision and open_clip (needs the `peers` extra)
    workers    threads, and processes beside them
    corrupt    one sample of a hundred that cannot be used, and none
    scale      24,236 files and 214 million records: opening, the first batch, memory, blocks
    memory     over as many batches as an hour has

Everything is written in a temporary folder (3 GB).
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
from drawing import processor
from loader_child import loader_of, open_any
from loader_data import CORRUPT_ONE_IN, Unlike, many_shards, many_tars, photo_records, write_tars
from rich.console import Console

from bioclip_jax.config import DataConfig
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.loader import Loader
from bioclip_jax.pipeline.record import Record, RecordSource

RUNS = 5
ROWS = 256
HERE = Path(__file__).parent


class Data:
    """What the sections read, written when it is first asked for."""

    def __init__(self, photos: Path | None, folder: Path):
        self._photos, self.folder = photos, folder

    @functools.cached_property
    def small(self) -> list[Record]:
        """224 x 224 pixels."""
        return self._records(224, 4000 if self._photos else 2000)

    @functools.cached_property
    def large(self) -> list[Record]:
        """720 pixels at the longest side."""
        return self._records(720, 800)

    def _records(self, size: int, most: int) -> list[Record]:
        records = photo_records(self._photos, size, most)
        kilobytes = statistics.mean(len(record["image"]) for record in records) / 1000
        genera = len({(record["genus"], record["species"]) for record in records})
        print(f"{len(records):,} photos of {size} px, {kilobytes:.0f} kB each, {genera} species", flush=True)
        return records

    @functools.cached_property
    def tars(self) -> str:
        """Ten tars of the small photos."""
        return self._tars("tars", self.small)

    @functools.cached_property
    def large_tars(self) -> str:
        """Ten tars of the large photos."""
        return self._tars("large_tars", self.large)

    @functools.cached_property
    def corrupt_tars(self) -> str:
        """The small photos with a hundredth corrupt."""
        return self._tars("corrupt_tars", self.small, corrupt=True)

    def _tars(self, name: str, records: Sequence[Record], **options: bool) -> str:
        write_tars(self.folder / name, records, **options)
        return f"{self.folder / name}/shard-{{00000..00009}}.tar"

    @functools.cached_property
    def dataset(self) -> str:
        """The small photos as a dataset directory built from the tars."""
        return self._built("dataset", self.tars)

    @functools.cached_property
    def large_dataset(self) -> str:
        """The large photos as a dataset directory built from the tars."""
        return self._built("large_dataset", self.large_tars)

    def _built(self, name: str, tars: str) -> str:
        out = self.folder / name
        with Path(os.devnull).open("w") as nowhere:
            build({"train": open_any(tars)}, out, name="photos", console=Console(file=nowhere))
        return str(out)


def show(what: str, values: Sequence[float], unit: str, target: str = "") -> None:
    """Prints a row: median, range, unit, and what is wanted."""
    digits = 0 if statistics.median(values) >= 100 else 2
    median, low, high = (f"{value:,.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    print(f"{what:64} {median:>8} ({low} to {high}) {unit:9} {target}".rstrip(), flush=True)


def in_turns(works: Mapping[str, Callable[[], Any]], runs: int = RUNS) -> dict[str, list[Any]]:
    """Does each piece of work in turn, several times over."""
    results: dict[str, list[Any]] = {name: [] for name in works}
    for _ in range(runs):
        for name, work in works.items():
            results[name].append(work())
    return results


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Turn by turn."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def rate(loader: Loader, batches: int = 24, warm: int = 8) -> float:
    """Images per second of some batches, after some others."""
    return rate_and_cost(loader, batches, warm)[0]


def rate_and_cost(loader: Loader, batches: int = 24, warm: int = 8) -> tuple[float, float]:
    """Images per second, and this process's milliseconds of processor time per image, which depend less on others."""
    made = loader.batches(0, 10**6)
    try:
        for _ in range(warm):
            next(made)
        start, used = time.perf_counter(), time.process_time()
        for _ in range(batches):
            next(made)
        images = batches * ROWS
        return images / (time.perf_counter() - start), 1000 * (time.process_time() - used) / images
    finally:
        made.close()


def loader_over(source: RecordSource, **config: int) -> Loader:
    """A loader of this benchmark's batches."""
    return loader_of(source, DataConfig(**config), ROWS, 224)


def rates(data: Data) -> None:
    """ArrayRecord and tars, in turns."""
    sources = {"ArrayRecord": open_any(data.dataset), "tars": open_any(data.tars)}
    works = {name: functools.partial(rate, loader_over(source)) for name, source in sources.items()}
    works["no caption twice"] = functools.partial(rate, loader_over(Unlike(sources["ArrayRecord"])))
    results = in_turns(works)
    show("ArrayRecord", results["ArrayRecord"], "images/s", "(at least 3,000 on two cores)")
    show("tars with indexes", results["tars"], "images/s")
    show("  over ArrayRecord", ratios(results["tars"], results["ArrayRecord"]), "x", "(at least 0.9)")
    show("ArrayRecord, no caption comes twice", results["no caption twice"], "images/s")


def reference(data: Data) -> None:
    """The reference's own way on the same tars, in turns."""
    for size, tars, dataset, wanted, batches in (
        (224, data.tars, data.dataset, "(at least 10)", 24),
        (720, data.large_tars, data.large_dataset, "(at least 2.5)", 8),
    ):
        works = {
            "ArrayRecord": functools.partial(rate, loader_over(open_any(dataset)), batches),
            "tars": functools.partial(rate, loader_over(open_any(tars)), batches),
            "reference": functools.partial(reference_rate, tars, 6 if size == 224 else 4),
        }
        results = in_turns(works)
        show(f"{size} px: reference, 2 worker processes, tars", results["reference"], "images/s")
        for name in ("tars", "ArrayRecord"):
            show(f"{size} px: {name}", results[name], "images/s")
            show("  over the reference", ratios(results[name], results["reference"]), "x", wanted)


def reference_rate(tars: str, batches: int) -> float:
    """Images per second of the reference, in processes of its own that start and end here."""
    paths = [str(path) for path in sorted(Path(tars).parent.glob("*.tar"))]
    command = [sys.executable, str(HERE / "loader_reference.py"), "--batch", str(ROWS), "--batches", str(batches)]
    return float(last_line([*command, *paths])["rate"])


def workers(data: Data) -> None:
    """Threads and processes, in turns."""
    source = open_any(data.dataset)
    settings = {f"{count} thread{'s' * (count > 1)}": {"threads": count} for count in (1, 2, 4, 8)}
    settings |= {
        f"{count} process{'es' * (count > 1)} of 2 threads": {"threads": 2, "processes": count} for count in (1, 2)
    }
    settings["2 processes of 1 thread"] = {"threads": 1, "processes": 2}
    results = in_turns(
        {name: functools.partial(rate, loader_over(source, **config)) for name, config in settings.items()}
    )
    for name, values in results.items():
        show(f"ArrayRecord, {name}", values, "images/s")


def corrupt(data: Data) -> None:
    """Corrupt samples and none, in turns."""
    sources = {"none": open_any(data.tars), "some": open_any(data.corrupt_tars)}
    loaders = {name: loader_over(source) for name, source in sources.items()}
    replaced = [one for step in range(8) for one in loaders["some"].batch(step).replaced]
    kinds = ", ".join(sorted({one.reason.partition(":")[0] for one in replaced}))
    show(f"replaced ({kinds})", [100 * len(replaced) / (8 * ROWS)], "%")
    turns = in_turns({name: functools.partial(rate_and_cost, loader) for name, loader in loaders.items()}, 3 * RUNS)
    (none, none_cost), (some, some_cost) = (zip(*turns[name], strict=True) for name in ("none", "some"))
    show("tars, all samples usable", none, "images/s")
    show(f"tars, 1 of {CORRUPT_ONE_IN} corrupt", some, "images/s")
    show("  lost", [100 * (1 - ratio) for ratio in ratios(some, none)], "%", "(at most 3)")
    lost = [100 * (1 - ratio) for ratio in ratios(none_cost, some_cost)]
    show("  lost by processor time", lost, "%", "(at most 3)")


def scale(data: Data) -> None:
    """The size of TreeOfLife-200M: each run is a process of its own."""
    sets = {
        "ArrayRecord": many_shards(data.folder / "many_shards", data.small[:500]),
        "tars": many_tars(data.folder / "many_tars", data.small[:500]),
    }
    for name, path in sets.items():
        start, far, later, blocks = in_turns(
            {
                "start": functools.partial(child, "first-batch", path),
                "far": functools.partial(child, "first-batch", path, step=1_000_000),
                "later": functools.partial(child, "first-batch", path, step=1000, batches=24),
                "blocks": functools.partial(child, "first-batch", path, step=1000, batches=24, block_size=1000),
            }
        ).values()
        what = f"24,236 files, {name}: first batch of 512"
        show(f"{what}, step 0", [run["first"] for run in start], "s", "(less than 60)")
        show(f"{what}, step 1,000,000", [run["first"] for run in far], "s", "(less than 60)")
        show("  of which opening", [run["opened"] for run in start + far], "s")
        after = [[run["first"] - run["opened"] for run in runs] for runs in (far, start)]
        show("  from opened to first batch, step 1,000,000 over step 0", ratios(*after), "x", "(1)")
        show("  peak memory of the process over 24 batches", [run["peak"] for run in later], "MB", "(at most 2,000)")
        show("  descriptors", [run["descriptors"] for run in later], "", "(at most 4,096)")
        show("  records in any order, block_size 1", [run["rate"] for run in later], "images/s")
        show("  block_size 1,000", [run["rate"] for run in blocks], "images/s")


def memory(data: Data) -> None:
    """The memory of a process while it makes batches of 16 photos; no caption comes twice, so that caches fill up."""
    result = child("memory", data.dataset, "--unlike")
    for made, resident in zip(result["batches"], result["resident"], strict=True):
        print(f"{f'memory after {made:,.0f} batches':64} {resident:8,.0f} MB", flush=True)


def child(command: str, path: str, *flags: str, **options: int) -> dict:
    """Runs `loader_child.py`."""
    named = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return last_line([sys.executable, str(HERE / "loader_child.py"), command, *flags, *named, path])


def last_line(command: list[str]) -> dict:
    """Runs a process and reads the JSON in its last line."""
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


SECTIONS = {work.__name__: work for work in (rates, reference, workers, corrupt, scale, memory)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--photos", type=Path, default=os.environ.get("BIOCLIP_JAX_PHOTOS"))
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"all, or some of {', '.join(SECTIONS)}")
    options = parser.parse_args()
    if unknown := [name for name in options.sections if name not in SECTIONS]:
        parser.error(f"no section is called {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    packages = ("numpy", "simplejpeg", "opencv-python-headless", "array-record", "grain", "pillow", "webdataset")
    print(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages if installed(name)))
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        data = Data(Path(options.photos) if options.photos else None, Path(folder))
        for name in options.sections or SECTIONS:
            print(f"-- {name}", flush=True)
            SECTIONS[name](data)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    return 0


def installed(package: str) -> bool:
    """Whether a package is there."""
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
