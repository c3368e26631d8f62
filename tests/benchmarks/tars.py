"""Measures tars as they lie: indexing, random reads, and opening as many as TreeOfLife-200M has.

    python tests/benchmarks/tars.py [FOLDER]

The tars are written in FOLDER (a temporary one if not given; 0.6 GB), 11 members a sample as upstream writes them. Each
rate is the median and the best of five runs, page cache warm: per second of one core's time, except where threads are
named. Members' headers are read in large blocks; the same walk with one read per header is measured beside it.
"""

from __future__ import annotations

import io
import os
import platform
import random
import resource
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bioclip_jax.pipeline.tar_headers import read_member
from bioclip_jax.pipeline.tar_index import index_tar
from bioclip_jax.pipeline.tar_index_file import index_path
from bioclip_jax.pipeline.tars import open_tars
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import Taxon

RUNS = 5
SAMPLES = 8830  # in a tar of TreeOfLife-200M
TARS = 24_236
RAVEN = Taxon("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus", "corax", "", "Common Raven")


def write_tar(path: Path, samples: int, image_bytes: int, file_format: int = tarfile.PAX_FORMAT) -> Path:
    """A tar in upstream's layout; the images are noise of about the size that photos have."""
    draw = random.Random(0)
    noise = draw.randbytes(2 * image_bytes)
    texts = {f"{kind}.txt": caption(RAVEN, kind).encode() for kind in ALL_TEXT_TYPES}
    mtime = 1700000000.123456 if file_format == tarfile.PAX_FORMAT else 1700000000
    with tarfile.open(path, "w", format=file_format) as tar:
        for _ in range(samples):
            key, start = f"{draw.getrandbits(128):032x}", draw.randrange(image_bytes // 2)
            image = noise[start : start + image_bytes + draw.randrange(image_bytes // 10)]
            for suffix, data in sorted({"jpg": image, **texts}.items()):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime = len(data), mtime
                tar.addfile(info, io.BytesIO(data))
    return path


def show(what: str, work: Callable[[], int], clock: Callable[[], float] = time.process_time) -> None:
    """Prints how much of `work` is done in a second."""
    rates = []
    for _ in range(RUNS):
        start = clock()
        rates.append(work() / (clock() - start))
    print(f"{what:58} median {statistics.median(rates):8,.0f}/s, best {max(rates):8,.0f}/s")


def walk_by_single_reads(path: Path) -> int:
    """The samples of a tar, each header read by itself."""
    members, position = 0, 0
    with path.open("rb", buffering=0) as file:
        while member := read_member(lambda offset, length: os.pread(file.fileno(), length, offset), position):
            members, position = members + 1, member.end
    return members // 11


def walk_by_standard_library(path: Path) -> int:
    """The samples of a tar as `tarfile` finds them."""
    with tarfile.open(path) as tar:
        return sum(1 for _ in tar) // 11


def reads(source, places: list[int], threads: int) -> int:
    """Reads records at these places."""
    if threads == 1:
        for place in places:
            source[place]
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(
                pool.map(
                    lambda part: [source[place] for place in part] and None,
                    [places[i::threads] for i in range(threads)],
                )
            )
    return len(places)


def measure_opening(folder: Path) -> None:
    """Opens as many tars as TreeOfLife-200M has: links to one."""
    folder.mkdir()
    first = write_tar(folder / "shard-00000.tar", 100, 1000)
    open_tars(first)
    for tar in range(1, TARS):
        path = folder / f"shard-{tar:05}.tar"
        os.link(first, path)
        os.link(index_path(first), index_path(path))
    before, start = memory(), time.perf_counter()
    source = open_tars(f"{folder}/shard-{{00000..{TARS - 1}}}.tar")
    opened = time.perf_counter() - start
    source[len(source) // 2]
    print(f"{TARS:,} tars: opened in {opened:.1f} s, first record after {time.perf_counter() - start:.1f} s")
    draw = random.Random(0)
    show(
        "records/s over all tars, nearly each from a closed one",
        lambda: reads(source, draw.choices(range(len(source)), k=5000), 1),
    )
    descriptors = len(list(Path("/dev/fd").iterdir()))
    print(f"memory +{(memory() - before) / 2**20:.0f} MB in all, {descriptors} file descriptors open")


def memory() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(folder: Path) -> int:
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {platform.processor() or platform.machine()}")
    tars = {
        "PAX": write_tar(folder / "pax.tar", SAMPLES, 28_000),
        "GNU": write_tar(folder / "gnu.tar", SAMPLES // 4, 28_000, tarfile.GNU_FORMAT),
    }
    for name, path in tars.items():
        show(f"{name}, indexed samples/s", lambda path=path: len(index_tar(path)[1]))
        show(f"{name}, samples/s if each header is read by itself", lambda path=path: walk_by_single_reads(path))
    show("PAX, samples/s by the standard library", lambda: walk_by_standard_library(tars["PAX"]))
    source = open_tars(tars["PAX"])
    places = random.Random(1).choices(range(len(source)), k=10_000)
    show("PAX, random records/s", lambda: reads(source, places, 1))
    show("PAX, random records/s by 4 threads, wall clock", lambda: reads(source, places, 4), time.perf_counter)
    measure_opening(folder / "many")
    return 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(Path(sys.argv[1])))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(Path(temporary)))
