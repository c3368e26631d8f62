"""The plan of a build, and what is known of each finished shard: together they let a build go on after a stop.

How large the files become is estimated from a few records of each split, so that the number of files, and with it their
names, is known from the start. The same sample tells one source from another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.manifest import BUILD_FOLDER, ShardFile, write_json
from bioclip_jax.pipeline.prepare import Prepared, Rejected, prepare
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.shards import shard_name

_PLAN = "plan.json"
_SAMPLE = 64
_ASSUMED_RECORD_BYTES = 100_000  # where no record of the sample is usable


@dataclass(frozen=True)
class Plan:
    """What a build will write: for each split the number of source records and of files."""

    name: str
    records: Mapping[str, int]
    shards: Mapping[str, int]
    fingerprint: str

    def span(self, split: str, index: int) -> range:
        """The source records that shard `index` of a split takes."""
        records, shards = self.records[split], self.shards[split]
        return range(records * index // shards, records * (index + 1) // shards)

    def shard_name(self, split: str, index: int) -> str:
        """The file name of shard `index` of a split."""
        return shard_name(self.name, split, index, self.shards[split])


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is on disk, the records that it left out, and the longest captions found until then."""

    file: ShardFile
    rejected: tuple[Rejected, ...]
    token_lengths: Mapping[str, int]


def make_plan(
    source: Mapping[str, RecordSource],
    name: str,
    shard_bytes: int,
    image_size: int | None,
    pool: ThreadPoolExecutor,
) -> Plan:
    """Looks at a few records of each split, evenly spaced, and decides how many files it becomes."""
    digest = hashlib.sha256(json.dumps([name, shard_bytes, image_size]).encode())
    shards = {}
    for split, records in source.items():
        count = len(records)
        places = sorted({count * i // _SAMPLE for i in range(_SAMPLE)})
        read: Callable[[int], Prepared | Rejected] = _reader(records, image_size)
        sizes = []
        digest.update(json.dumps([split, count]).encode())
        for item in pool.map(read, places):
            if isinstance(item, Prepared):
                sizes.append(len(item.example))
                digest.update(item.example)
            else:
                digest.update(json.dumps([item.key, item.reason]).encode())
        mean = sum(sizes) / len(sizes) if sizes else _ASSUMED_RECORD_BYTES
        shards[split] = min(count, max(1, -int(-count * mean // shard_bytes)))
    return Plan(name, {split: len(records) for split, records in source.items()}, shards, digest.hexdigest())


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


def write_finished(directory: Path, shard: FinishedShard) -> None:
    """Notes that a shard is on disk."""
    write_json(directory / BUILD_FOLDER / f"{shard.file.name}.json", asdict(shard))


def read_finished(directory: Path, name: str) -> FinishedShard | None:
    """What is known of the shard called `name`; None unless it is on disk in full size."""
    try:
        content = json.loads((directory / BUILD_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        shard = FinishedShard(
            ShardFile(**content["file"]),
            tuple(Rejected(**entry) for entry in content["rejected"]),
            content["token_lengths"],
        )
        return shard if (directory / name).stat().st_size == shard.file.bytes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _reader(records: RecordSource, image_size: int | None) -> Callable[[int], Prepared | Rejected]:
    return lambda index: prepare(records, index, image_size)
