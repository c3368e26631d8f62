"""What can be known to be wrong with a job before it waits in a queue for a day."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.launching.hardware import Hardware, Machines
from bioclip_jax.launching.job import GCS, Job, WorkDir
from bioclip_jax.recipes import builtin_recipes


def check_devices(config: TrainConfig, hardware: Hardware) -> None:
    """Raises UsageError where the batch or the mesh does not divide over the devices, as the run itself would."""
    if config.attention == "cudnn" and not (isinstance(hardware, Machines) and hardware.gpus_per_node):
        raise UsageError(f"attention cudnn needs NVIDIA GPUs; {hardware} has none")
    devices, inner = hardware.devices, hardware.devices_per_slice
    data, fsdp = config.mesh.data, config.mesh.fsdp
    if fsdp < 1 or inner % fsdp:
        raise UsageError(
            f"mesh.fsdp is {fsdp}, which does not divide the {inner} devices of each slice or node of {hardware}"
        )
    if data not in (-1, devices // fsdp):
        raise UsageError(f"mesh.data {data} x mesh.fsdp {fsdp} is not the {devices} devices of {hardware}")
    for name in ("global_batch_size", "replay_batch_size"):
        size = getattr(config, name)
        if size % (devices * config.micro_batches):
            each = f" in {config.micro_batches} micro_batches each" if config.micro_batches > 1 else ""
            raise UsageError(f"{name} {size} does not divide over the {devices} devices{each} of {hardware}")


def check_work_dir(work_dir: WorkDir, config: TrainConfig) -> None:
    """Raises UsageError where this machine sees the work directory, and it holds another config's run."""
    folder = Path(work_dir.folder)
    if work_dir.bucket or not (folder / "config.json").is_file():
        return
    from bioclip_jax.training.checkpointing import require_same_run

    require_same_run(folder, config)


def check_paths(config: TrainConfig, *, in_container: bool, has_cache: bool) -> None:
    """Raises UsageError for paths that mean nothing where the job runs, and for a cache that nothing would use."""
    datasets = _datasets(config)
    named = [*datasets, ("initial_weights", config.initial_weights)]
    named += [(f"evaluation.benchmarks {name}", root) for name, root in config.evaluation.benchmarks.items()]
    for name, path in named if in_container else ():
        if path and not (_is_elsewhere(path) or Path(path).is_absolute() or path in builtin_recipes("data")):
            raise UsageError(
                f"{name} is {path}, which is relative to a folder that a container does not have; "
                f"give {GCS}BUCKET/FOLDER, or the whole path on a mounted disk"
            )
    if has_cache and not any("://" in dataset for _, dataset in datasets):
        raise UsageError(f"--cache is for datasets in object storage, and data.dataset is {config.data.dataset}")


def _datasets(config: TrainConfig) -> list[tuple[str, str]]:
    streams = {"data": config.data} | ({"replay": config.replay} if config.replay_batch_size else {})
    return [(f"{name}.dataset", one.dataset) for name, stream in streams.items() for one in stream.datasets]


def _is_elsewhere(path: str) -> bool:
    return "://" in path or path.startswith(("tfds:", "hf-hub:"))


def paths_read(config: TrainConfig) -> tuple[str, ...]:
    """Whole paths of what a config reads from disks: datasets, initial weights, roots of benchmarks."""
    datasets = (dataset for _, dataset in _datasets(config))
    named = [*datasets, config.initial_weights, *config.evaluation.benchmarks.values()]
    return tuple(dict.fromkeys(name.rstrip("/") for name in named if Path(name).is_absolute()))


def notes(jobs: Sequence[Job], config: TrainConfig) -> list[str]:
    """What a person should know of jobs that are well-formed: where their results lie, and what spot machines cost."""
    lines = [f"results: {jobs[0].work_dir.url}/ has checkpoints/, metrics.jsonl, tensorboard/ and profile/"]
    if len(jobs) > 1:
        lines[0] += f"; each of the {len(jobs)} jobs has a folder beside it"
    if jobs[0].spot and not config.checkpoint.every_minutes:
        lines.append(
            "spot machines go within 30 s, which is less than a save takes: bound what is lost by "
            "--checkpoint.every-minutes 15"
        )
    return lines
