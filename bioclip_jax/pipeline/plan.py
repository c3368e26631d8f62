"""The plan of a build, and what is known of each finished shard: together they let a build go on after a stop.

How large the files become is estimated from a few records of each split, so that the number of files, and with it their
names, is known from the start; a build of two passes knows it after the first. The same sample tells one source from
another.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.manifest import BUILD_FOLDER, ShardFile, write_json
from bioclip_jax.pipeline.prepare import Prepared, prepare
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.shards import shard_name

_PLAN = "plan.json"
_SAMPLE = 64
_ASSUMED_RECORD_BYTES = 100_000  # where no record of the sample is usable


@dataclass(frozen=True)
class Plan:
    """What a build will write.

    Attributes:
      name: of the dataset.
      records: of each split; those of the source, after the first of two passes those that are left.
      shards: files of each split.
      record_bytes: mean size of a record in the sample of each split.
      fingerprint: of the source and of every option.
      ordered: the first of two passes wrote down which records are left, and in which order; see `write_order`.
    """

    name: str
    records: Mapping[str, int]
    shards: Mapping[str, int]
    record_bytes: Mapping[str, float]
    fingerprint: str
    ordered: bool = False

    def span(self, split: str, index: int) -> range:
        """The places that shard `index` of a split takes."""
        records, shards = self.records[split], self.shards[split]
        return range(records * index // shards, records * (index + 1) // shards)

    def shard_name(self, split: str, index: int) -> str:
        """The file name of shard `index` of a split."""
        return shard_name(self.name, split, index, self.shards[split])

    def entries(self, directory: Path, split: str, index: int) -> Sequence[int]:
        """The records that shard `index` of a split takes, each as twice its index in the source, and 1 if its image
        was looked at before and goes in untouched.
        """
        span = self.span(split, index)
        if not self.ordered:
            return range(2 * span.start, 2 * span.stop, 2)
        path = order_path(directory, split)
        try:
            return np.load(path, mmap_mode="r")[span.start : span.stop].tolist()
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}); build again with --overwrite") from error


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is on disk, how many records it left out by reason, and the longest captions found until then."""

    file: ShardFile
    rejected: Mapping[str, int]
    token_lengths: Mapping[str, int]


def make_plan(
    source: Mapping[str, RecordSource],
    name: str,
    shard_bytes: int,
    options: ImageOptions,
    more: object,
    pool: ThreadPoolExecutor,
) -> Plan:
    """Looks at a few records of each split, evenly spaced, and decides how many files it becomes.

    Args:
      source: the records of each split.
      name: of the dataset.
      shard_bytes: about how large a file becomes.
      options: what is done to images.
      more: any other options that make another dataset, as JSON has them.
      pool: reads the records.
    """
    digest = hashlib.sha256(json.dumps([name, shard_bytes, asdict(options), more]).encode())
    shards, record_bytes = {}, {}
    for split, records in source.items():
        count = len(records)
        places = sorted({count * i // _SAMPLE for i in range(_SAMPLE)})
        sizes = []
        digest.update(json.dumps([split, count]).encode())
        for item in pool.map(partial(prepare, records, options=options), places):
            if isinstance(item, Prepared):
                sizes.append(len(item.example))
                digest.update(item.example)
            else:
                digest.update(json.dumps([item.key, item.reason]).encode())
        record_bytes[split] = sum(sizes) / len(sizes) if sizes else _ASSUMED_RECORD_BYTES
        shards[split] = number_of_shards(count, count * record_bytes[split], shard_bytes)
    records_of = {split: len(records) for split, records in source.items()}
    return Plan(name, records_of, shards, record_bytes, digest.hexdigest())


def number_of_shards(records: int, total_bytes: float, shard_bytes: int) -> int:
    """How many files these records become."""
    return min(records, max(1, -int(-total_bytes // shard_bytes)))


def write_plan(directory: Path, plan: Plan) -> None:
    """Leaves the plan in the build folder."""
    write_json(directory / BUILD_FOLDER / _PLAN, asdict(plan))


def read_fingerprint(directory: Path) -> str | None:
    """The fingerprint of the build that was started here; None if there was none."""
    try:
        return str(json.loads((directory / BUILD_FOLDER / _PLAN).read_text(encoding="utf-8"))["fingerprint"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        path = directory / BUILD_FOLDER / _PLAN
        raise UserError(f"{path} cannot be read ({error}); build again with --overwrite") from error


def order_path(directory: Path, split: str) -> Path:
    """Where a build of two passes keeps the entries of a split in their order: `Plan.entries` as uint64 [records]."""
    return directory / BUILD_FOLDER / f"order-{split}.npy"


def write_finished(directory: Path, shard: FinishedShard) -> None:
    """Notes that a shard is on disk."""
    write_json(directory / BUILD_FOLDER / f"{shard.file.name}.json", asdict(shard))


def read_finished(directory: Path, name: str) -> FinishedShard | None:
    """What is known of the shard called `name`; None unless it is on disk in full size."""
    try:
        content = json.loads((directory / BUILD_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        shard = FinishedShard(ShardFile(**content["file"]), content["rejected"], content["token_lengths"])
        return shard if (directory / name).stat().st_size == shard.file.bytes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def temporary_path(path: Path, folder: Path) -> Path:
    """A name in `folder` for what will be called `path`, that no other process uses."""
    return folder / f"{path.name}.{secrets.token_hex(4)}.tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to, which gets its name at the end; nothing is left if that fails.

    Raises:
      UserError: it cannot be written, a full disk for example.
    """
    temporary = temporary_path(path, path.parent)
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
