"""Measures building datasets: bytes passed through from tars in one and in two passes, and photos resized.

    python tests/benchmarks/build.py [FOLDER]

A tar of 8,830 samples with 11 members each and the datasets are written in FOLDER (a temporary one if not given; 3 GB).
Each rate is the median and the best of five builds, page cache warm: records per second of one core's time, or of the
clock where processes are named. Everything counts: reading, checking, writing, checksums, captions' lengths.
"""

from __future__ import annotations

import io
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from rich.console import Console
from tars import SAMPLES, write_tar

from bioclip_jax.pipeline.build import Selection, build
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.record import Record, RecordSource
from bioclip_jax.pipeline.tar_headers import BLOCK
from bioclip_jax.pipeline.tar_index import index_tar
from bioclip_jax.pipeline.tars import open_tars

RUNS = 5
PHOTOS = 1000
HEADER = ImageOptions(check="header")


class Photos:
    """Drawn photos of 720 x 480 pixels, JPEG quality 95."""

    def __init__(self, different: int = 50):
        draw = np.random.default_rng(0)
        self._images = []
        for _ in range(different):
            scene = cv2.resize(draw.integers(0, 256, (60, 90, 3), np.uint8), (720, 480), interpolation=cv2.INTER_CUBIC)
            grain = draw.normal(0, 1, scene.shape)
            pixels = np.clip(scene + grain, 0, 255).astype(np.uint8)
            self._images.append(simplejpeg.encode_jpeg(pixels, 95, "RGB", "420"))
        self.mean_bytes = statistics.mean(map(len, self._images))

    def __len__(self) -> int:
        return PHOTOS

    def __getitem__(self, index: int) -> Record:
        image = self._images[index % len(self._images)]
        return {"key": f"photo {index}", "image": image, "genus": "Corvus", "species": "corax", "source": "benchmark"}


class Repeated:
    """The records of a source several times over, so that starting processes does not weigh."""

    def __init__(self, source: RecordSource, times: int = 10):
        self._source, self._times = source, times

    def __len__(self) -> int:
        return len(self._source) * self._times

    def __getitem__(self, index: int) -> Record:
        return self._source[index % len(self._source)]


def write_photo_tar(path: Path) -> Path:
    """A tar whose images, apart from their pixels, are JPEGs."""
    write_tar(path, SAMPLES, 28_000)
    head = simplejpeg.encode_jpeg(np.zeros((224, 224, 3), np.uint8), 95, "RGB", "420")[:-2]
    with path.open("r+b") as file:
        for sample in index_tar(path)[1]:
            start = (int(sample["start"]) + int(sample["image"])) * BLOCK
            os.pwrite(file.fileno(), head, start)
            os.pwrite(file.fileno(), b"\xff\xd9", start + int(sample["image_bytes"]) - 2)
    return path


def show(what: str, source, out: Path, clock: Callable[[], float] = time.process_time, **options) -> None:
    """Prints how many records a build does in a second."""
    rates = []
    options = {"threads": 1} | options
    for _ in range(RUNS):
        shutil.rmtree(out, ignore_errors=True)
        start = clock()
        report = build({"train": source}, out, name="benchmark", console=Console(file=io.StringIO()), **options)
        rates.append(len(source) / (clock() - start))
        assert report.manifest.records("train") + sum(report.rejected.values()) == len(source)
    print(f"{what:62} median {statistics.median(rates):7,.0f}/s, best {max(rates):7,.0f}/s")


def main(folder: Path) -> int:
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.processor() or platform.machine()}")
    cv2.setNumThreads(1)
    out = folder / "out"
    tar = open_tars(write_photo_tar(folder / "photos.tar"))
    show("passed through, header check", tar, out, images=HEADER)
    both = Selection(mix=0, dedup=True)
    show("the same in two passes: mixed, without duplicates", tar, out, images=HEADER, selection=both)
    several = {"workers": 2, "threads": 2, "shard_bytes": 2**28}
    many = Repeated(tar)
    show("passed through by 2 processes, by the clock", many, out, time.perf_counter, images=HEADER, **several)
    photos = Photos()
    print(f"photos of 720 x 480 pixels, {photos.mean_bytes / 1000:.0f} kB:")
    show("resized to 224 at the shorter side", photos, out, images=ImageOptions(224))
    show("squashed to 224 x 224", photos, out, images=ImageOptions(224, "squash"))
    show("decoded, and passed through", photos, out)
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
