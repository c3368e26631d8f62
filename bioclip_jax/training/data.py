"""A run's data: a loader for each stream, and what it is called where a run notes what it saw."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Generator, Mapping, Sequence

from jax.sharding import Mesh

from bioclip_jax.config import DataConfig, DatasetConfig, TrainConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.parallel.sharding import batch_sharding, rows_here
from bioclip_jax.pipeline.file_cache import FileCache, files_folder
from bioclip_jax.pipeline.loader import Batch, Loader, make_loader, require_vocabulary
from bioclip_jax.pipeline.manifest import read_manifest
from bioclip_jax.pipeline.names import is_recipe
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.pipeline.record import BadRecord, RecordSource
from bioclip_jax.pipeline.sample import scientific_name

BIO, REPLAY = "bio", "replay"


def open_streams(config: TrainConfig, mesh: Mesh) -> dict[str, Loader]:
    """The loader of the photos of organisms and, if there is one, of the replay data: this process's rows of each.

    Raises:
        UserError: the data are bad, too few, or do not divide over the devices.
    """
    require_vocabulary(config.model.text.vocab_size)
    streams = {BIO: _loader(config, config.data, "data", config.global_batch_size, config.seed, mesh)}
    if config.replay_batch_size:
        # Its own seed: otherwise both streams would draw the same crops.
        streams[REPLAY] = _loader(config, config.replay, "replay", config.replay_batch_size, config.seed + 2**40, mesh)
    return streams


def open_validation(config: TrainConfig, mesh: Mesh, species: Mapping[str, int] | None = None) -> Loader:
    """The loader of the held-out split that `config.evaluation` names: the photos' centre squares, this process's rows.

    Args:
        config: of the run.
        mesh: of its devices.
        species: the training data's classes, where it has them.

    Raises:
        UserError: as `open_streams`.
    """
    data = dataclasses.replace(
        config.data,
        split=config.evaluation.validation_split,
        mixed_with=(),
        with_replacement=False,
        restart_every_steps=0,
        crop_scale=(1.0, 1.0),
        crop_ratio=(1.0, 1.0),
        horizontal_flip=False,
    )
    return _loader(config, data, "evaluation", config.global_batch_size, config.seed, mesh, species)


def species_of(streams: Mapping[str, Loader]) -> int:
    """How many classes a run's photos have; 0 where it knows none."""
    return len(streams[BIO].sample.species or ())


def zipped(streams: Mapping[str, Loader], first_step: int, last_step: int) -> Generator[dict[str, Batch]]:
    """One batch of each stream, step by step. Each runs through its own records: none restarts because another does."""
    batches = {name: loader.batches(first_step, last_step) for name, loader in streams.items()}
    try:
        for _ in range(first_step, last_step):
            yield {name: next(stream) for name, stream in batches.items()}
    finally:
        for stream in batches.values():
            stream.close()


def dataset_note(config: TrainConfig) -> tuple[str, str] | None:
    """Name and hash of the dataset directories of a run; None where a recipe is among them, which has no hash."""
    replay = config.replay.datasets if config.replay_batch_size else ()
    names = [one.dataset for one in (*config.data.datasets, *replay)]
    if any(is_recipe(name) for name in names):
        return None
    manifests = [read_manifest(name, check_files=False) for name in names]
    if len(manifests) == 1:
        return manifests[0].name, manifests[0].hash
    together = hashlib.sha256("".join(manifest.hash for manifest in manifests).encode()).hexdigest()
    return " + ".join(manifest.name for manifest in manifests), together


def _loader(
    config: TrainConfig,
    data: DataConfig,
    field: str,
    rows: int,
    seed: int,
    mesh: Mesh,
    species: Mapping[str, int] | None = None,
) -> Loader:
    batch = "replay_batch_size" if field == "replay" else "global_batch_size"
    if rows % mesh.size:
        raise UsageError(f"{batch} {rows} does not divide over {mesh.size} devices")
    sources = [_source(one, field, _cache(data)) for one in data.datasets]
    return make_loader(
        sources,
        data,
        image_size=config.model.vision.image_size,
        context_length=config.model.text.context_length,
        global_batch_size=rows,
        seed=seed,
        token_lengths=[_token_lengths(one.dataset) for one in data.datasets],
        weights=[one.weight for one in data.datasets],
        rows=rows_here(batch_sharding(mesh), rows),
        species=species or _classes(sources) if config.loss.kind == "species" and field != "replay" else None,
        names=(field, batch),
    )


def _classes(sources: Sequence[RecordSource]) -> dict[str, int]:
    """A number for each scientific name, in alphabetical order; reads every record once."""
    names = set()
    for source in sources:
        for index in range(len(source)):
            try:
                names.add(scientific_name(source[index]))
            except BadRecord:
                continue
    return {name: place for place, name in enumerate(sorted(names))}


def _cache(data: DataConfig) -> FileCache:
    return FileCache(data.cache_folder or files_folder(), data.cache_bytes or None)


def _source(one: DatasetConfig, field: str, cache: FileCache) -> RecordSource:
    splits = open_dataset(one.dataset, one.arguments, cache)
    name = "evaluation.validation_split" if field == "evaluation" else f"{field}.split"
    if one.split not in splits:
        raise UsageError(f"{name} {one.split!r} is not one of {', '.join(splits)} in {one.dataset}")
    if not len(splits[one.split]):
        raise UsageError(f"{name} {one.split!r} of {one.dataset} has no records")
    return splits[one.split]


def _token_lengths(dataset: str) -> Mapping[str, int]:
    """Longest caption per text type as a dataset directory's manifest has it; empty for a recipe."""
    return {} if is_recipe(dataset) else read_manifest(dataset, check_files=False).token_lengths


def records(loader: Loader) -> int:
    """How many records a stream runs through."""
    return sum(len(source) for source in loader.sources)
