"""What the benchmark and the tests of the loader look at in a process of its own, whose memory is nobody else's.

    python tests/benchmarks/loader_child.py make arrayrecord|tars FOLDER [--shards N]
    python tests/benchmarks/loader_child.py first-batch DATA [--step S] [--batches N] [--descriptors D]
    python tests/benchmarks/loader_child.py memory DATA [--batches N] [--rows R] [--image-size P] [--unlike]

The last line is JSON. Memory is in MB: `peak` is VmHWM of /proc/self/status, the lists are VmRSS.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import resource
import sys
import time
from functools import partial
from pathlib import Path

from loader_data import SHARDS, Unlike, many_shards, many_tars, tiny_records
from rich.console import Console

from bioclip_jax.config import DataConfig
from bioclip_jax.pipeline.loader import Loader, make_loader
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.tars import open_tars

SOME_DESCRIPTORS = 20_000  # more than may be used


def open_any(data: str) -> RecordSource:
    """The records of tars (a pattern that ends in .tar) or of a dataset directory."""
    quiet = Console(file=io.StringIO())
    return open_tars(data, console=quiet) if data.endswith(".tar") else open_dataset(data)["train"]


def loader_of(source: RecordSource, config: DataConfig, rows: int, image_size: int) -> Loader:
    """A loader with the length of captions that a manifest usually gives."""
    lengths = dict.fromkeys(config.text_types, 48)
    return make_loader(
        [source],
        config,
        image_size=image_size,
        context_length=77,
        global_batch_size=rows,
        seed=1,
        token_lengths=[lengths],
    )


def memory(what: str) -> float:
    """A line of /proc/self/status, in MB."""
    found = re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def descriptors() -> int:
    """How many are open now."""
    return len(list(Path("/proc/self/fd").iterdir()))


def first_batch(options: argparse.Namespace) -> dict[str, float]:
    """Opens the data and makes the first batches from a step on."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed = options.descriptors if hard == resource.RLIM_INFINITY else min(options.descriptors, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, allowed))
    start, most = time.perf_counter(), 0
    source = open_any(options.data)
    opened = time.perf_counter() - start
    loader = loader_of(source, DataConfig(block_size=options.block_size), options.rows, options.image_size)
    batches = loader.batches(options.step, options.step + options.batches + 8)
    for made in range(options.batches):
        batch = next(batches)
        assert not batch.replaced
        if not made:
            first = time.perf_counter() - start
        most = max(most, descriptors())
    then = time.perf_counter() - start - first
    batches.close()
    return {
        "records": len(source),
        "opened": opened,
        "first": first,
        "rate": (options.batches - 1) * options.rows / then if options.batches > 1 else 0.0,
        "peak": memory("VmHWM"),
        "descriptors": most,
        "allowed": allowed,
    }


def memory_over_time(options: argparse.Namespace) -> dict[str, list[float]]:
    """Makes batches, and looks at the memory after some of them."""
    source = open_any(options.data)
    loader = loader_of(Unlike(source) if options.unlike else source, DataConfig(), options.rows, options.image_size)
    looks = sorted({min(look, options.batches) for look in (200, 1000, 2000, 10_000, 20_000, 30_000, 42_000)})
    resident = []
    batches = loader.batches(0, options.batches)
    for made, _ in enumerate(batches, 1):
        if made in looks:
            resident.append(memory("VmRSS"))
    return {"batches": [float(look) for look in looks], "resident": resident}


def make(options: argparse.Namespace) -> dict[str, str]:
    """Writes files with tiny photos, as many as TreeOfLife-200M has if not told otherwise."""
    write = {"arrayrecord": many_shards, "tars": partial(many_tars, kinds=("taxonTag",))}[options.kind]
    return {"data": write(Path(options.data), tiny_records(8), options.shards)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    maker = commands.add_parser("make")
    maker.add_argument("kind", choices=("arrayrecord", "tars"))
    maker.add_argument("--shards", type=int, default=SHARDS)
    maker.set_defaults(run=make)
    first = commands.add_parser("first-batch")
    first.add_argument("--step", type=int, default=0)
    first.add_argument("--block-size", type=int, default=1)
    first.add_argument("--descriptors", type=int, default=SOME_DESCRIPTORS)
    first.set_defaults(run=first_batch)
    over_time = commands.add_parser("memory")
    over_time.add_argument("--unlike", action="store_true", help="no caption comes twice")
    over_time.set_defaults(run=memory_over_time)
    for command, batches, rows, size in ((first, 1, 512, 224), (over_time, 42_000, 16, 16)):
        command.add_argument("--batches", type=int, default=batches)
        command.add_argument("--rows", type=int, default=rows)
        command.add_argument("--image-size", type=int, default=size)
    for command in (maker, first, over_time):
        command.add_argument("data")
    options = parser.parse_args()
    print(json.dumps(options.run(options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
