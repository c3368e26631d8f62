"""What a run asks of its hosts and its storage, beside what they have: decoding, reading, saving."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from bioclip_jax.config import DataConfig, LossConfig, TrainConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.names import is_missing, is_recipe
from bioclip_jax.pipeline.token_lengths import token_bucket
from bioclip_jax.planning.machine import Machine
from bioclip_jax.training.grace import grace_seconds

DECODE_RATE = 1_945.0
"""Images/s of one core, of files of 224 px: 3,890 on two cores of an AMD EPYC (docs/data.md). Files of 720 px: 350."""
RECORD_BYTES = 23_000.0
"""Of a photo of 224 px, JPEG quality 95 (docs/data.md), where no manifest says it."""
STORAGE_RATE = 1e9
"""Bytes/s of a checkpoint of the whole run; an assumption."""


@dataclasses.dataclass(frozen=True)
class Rates:
    """What is assumed of hosts and storage."""

    decode: float = DECODE_RATE
    """Images/s of one core."""
    record_bytes: float | None = None
    """Of a record on disk; None: as the dataset's manifest says, or `RECORD_BYTES`."""
    storage: float = STORAGE_RATE
    """Bytes/s of a checkpoint."""

    def __post_init__(self) -> None:
        flags = {"--decode-rate": self.decode, "--record-bytes": self.record_bytes, "--storage-rate": self.storage}
        for flag, value in flags.items():
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"{flag} is {value}; it has to be a number above 0")


@dataclasses.dataclass(frozen=True)
class Inputs:
    """Of each host, at the shortest step that is to be expected; of the checkpoint, over all hosts."""

    images_per_second: float
    decode_rate: float
    """Images/s of one core that is counted with."""
    cores_needed: int
    cores: int
    """Of a usual host."""
    threads: int
    """That the config has decode on each host."""
    bytes_per_second: float
    record_bytes: float
    """Mean over the streams."""
    is_record_size_known: bool
    """From manifests, or from a flag; otherwise assumed."""
    checkpoint_bytes: int
    checkpoint_seconds: float
    grace_seconds: int
    """That a job needs between SIGTERM and SIGKILL."""

    @property
    def is_enough(self) -> bool:
        """Whether the host's cores can decode what its chips ask for."""
        return self.cores_needed <= self.cores


def inputs_of(
    config: TrainConfig,
    machine: Machine,
    step_seconds: tuple[float, float],
    checkpoint_bytes: int,
    rates: Rates,
    record_bytes: Mapping[str, float],
) -> Inputs:
    """What a config asks for.

    Args:
        config: of the run.
        machine: it runs on.
        step_seconds: shortest and longest step.
        checkpoint_bytes: of the whole state.
        rates: of hosts and storage.
        record_bytes: mean size of a record of each stream, as far as it is known.
    """
    rows = {"bio": config.global_batch_size, "replay": config.replay_batch_size}
    rate = sum(rows.values()) / step_seconds[0] / machine.hosts
    asked = {name: count for name, count in rows.items() if count}
    sizes = {name: record_bytes.get(name, RECORD_BYTES) for name in asked}
    mean = rates.record_bytes or sum(asked[name] * sizes[name] for name in asked) / sum(asked.values())
    save = checkpoint_bytes / rates.storage
    return Inputs(
        images_per_second=rate,
        decode_rate=rates.decode,
        cores_needed=math.ceil(rate / rates.decode),
        cores=machine.cores,
        threads=config.data.threads * max(config.data.processes, 1),
        bytes_per_second=rate * mean,
        record_bytes=mean,
        is_record_size_known=rates.record_bytes is not None or all(name in record_bytes for name in asked),
        checkpoint_bytes=checkpoint_bytes,
        checkpoint_seconds=save,
        grace_seconds=grace_seconds(step_seconds[1], save),
    )


@dataclasses.dataclass(frozen=True)
class Stream:
    """What is known of a stream's data before a run."""

    tokens: int
    """Length that its captions are cut to."""
    why: str
    """Where the length comes from, in words."""
    record_bytes: float | None = None
    """Mean size of a record; None where its data are not here, or say nothing."""


def streams_of(config: TrainConfig, given: Mapping[str, int]) -> dict[str, Stream]:
    """Lengths of captions and sizes of records: as given, or from the data if they are here, else the whole context.

    Raises:
        UsageError: `given` names a stream that there is not, or a length that makes no sense.
        UserError: what the run itself would say of its data.
    """
    datas = {"bio": config.data, **({"replay": config.replay} if config.replay_batch_size else {})}
    context = config.model.text.context_length
    for name, length in given.items():
        if name not in datas:
            raise UsageError(f"--tokens {name}={length}: the config's streams are {', '.join(datas)}")
        if not 1 < length <= context:
            raise UsageError(f"--tokens {name}={length}: the model's captions have 2 to {context} tokens")
    return {name: _stream(config, name, data, given.get(name)) for name, data in datas.items()}


def _stream(config: TrainConfig, name: str, data: DataConfig, given: int | None) -> Stream:
    context = config.model.text.context_length
    is_here = not any(is_missing(one.dataset) for one in data.datasets)
    record_bytes = _mean_record_bytes(data) if is_here else None
    if given is not None:
        length = token_bucket(given, context) if data.trim_text else context
        return Stream(length, f"--tokens {name}={given}", record_bytes)
    if not is_here:
        return Stream(context, "the whole context: the data are not here", None)
    return Stream(_length_by_data(config, data), "by the data", record_bytes)


def _length_by_data(config: TrainConfig, data: DataConfig) -> int:
    """As a run finds it; the size of the batch makes no difference."""
    import jax

    from bioclip_jax.parallel.mesh import make_mesh
    from bioclip_jax.training.data import BIO, open_streams

    one = dataclasses.replace(
        config,
        data=data,
        replay=DataConfig(dataset=""),
        loss=LossConfig(),
        global_batch_size=2,
        replay_batch_size=0,
        micro_batches=1,
    )
    return open_streams(one, make_mesh(devices=jax.devices()[:1]))[BIO].tokens


def _mean_record_bytes(data: DataConfig) -> float | None:
    """Over the datasets with their weights; None where one of them is no dataset directory."""
    from bioclip_jax.pipeline.manifest import read_manifest

    total, weights = 0.0, 0.0
    for one in data.datasets:
        if is_recipe(one.dataset):
            return None
        manifest = read_manifest(one.dataset, check_files=False)
        if one.split not in manifest.splits or not manifest.records(one.split):
            return None
        size = sum(file.bytes for file in manifest.splits[one.split]) / manifest.records(one.split)
        total, weights = total + one.weight * size, weights + one.weight
    return total / weights
