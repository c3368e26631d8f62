"""SLURM: one batch script, whose step is one task for each GPU or for each node; a sweep is an array of jobs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from bioclip_jax.errors import UsageError
from bioclip_jax.launching import scripts
from bioclip_jax.launching.hardware import Machines
from bioclip_jax.launching.job import Job
from bioclip_jax.launching.rendering import FOLDER, File, Rendering, require_plain
from bioclip_jax.launching.site import Site

TARGET = "slurm"
_SIGNAL_SLACK = 60
"""Seconds by which SLURM's warning before the time limit may come late."""


def render(
    jobs: Sequence[Job],
    hardware: Machines,
    site: Site,
    *,
    tasks: str = "gpu",
    at_once: int = 0,
    name: str = "",
) -> Rendering:
    """One script for all jobs.

    Args:
        jobs: one, or the points of a sweep.
        hardware: of each of them.
        site: of the user.
        tasks: gpu for one process for each GPU, node for one for each node.
        at_once: how many jobs of a sweep may run at the same time; 0 for no limit.
        name: of the script and the SLURM job.

    Raises:
        UsageError: a bucket as work directory, or values that sbatch's options cannot hold.
    """
    name = name or jobs[0].name
    for job in jobs:
        if job.work_dir.bucket:
            raise UsageError(f"{TARGET} has no gs:// folders; give --work-dir as a folder on a disk that all nodes see")
        if not Path(job.work_dir.folder).is_absolute():
            raise UsageError(f"--work-dir is {job.work_dir.folder}; {TARGET} needs the whole path, from / on")
    if site.container != "none":
        site.require(f"{TARGET} with container {site.container}", "image")
    text = scripts.fill(
        "slurm.sh",
        sbatch="\n".join(f"#SBATCH {option}" for option in _options(jobs, hardware, site, tasks, at_once, name)),
        prologue="\n".join(site.prologue),
        settings=_settings(jobs, hardware, site),
        clean_up=_clean_up(jobs[0]),
    )
    file = f"{name}.sbatch"
    log = f"{site.log_dir}/" * bool(site.log_dir) + _log(name, len(jobs))
    numbers = "%A is the array's number, %a the job's in it" if len(jobs) > 1 else "%j is the job's number"
    notes = (f"log: {log} ({numbers})" + ("" if site.log_dir else ", in the folder where sbatch is called"),)
    return Rendering((File(file, text),), (("sbatch", f"{FOLDER}/{file}"),), notes)


def _options(jobs: Sequence[Job], hardware: Machines, site: Site, tasks: str, at_once: int, name: str) -> list[str]:
    job, gpus = jobs[0], hardware.gpus_per_node
    per_node = gpus if tasks == "gpu" and gpus else 1
    log_dir = require_plain(site.log_dir, "log_dir", "an option of sbatch")
    limit = f"%{at_once}" if at_once else ""
    options = {
        "--job-name": name,
        "--array": f"0-{len(jobs) - 1}{limit}" if len(jobs) > 1 else "",
        "--nodes": str(hardware.nodes),
        "--ntasks-per-node": str(per_node),
        # Every task sees all GPUs of its node and takes its own: NCCL wants to see them all.
        "--gpus-per-node": str(gpus) if gpus else "",
        "--cpus-per-task": str(max(1, site.cpus // per_node)) if site.cpus else "",
        "--mem": f"{site.memory_gigabytes}G" if site.memory_gigabytes else "",
        "--time": site.time_limit,
        "--partition": site.partition,
        "--account": site.account,
        "--qos": site.queue,
        "--reservation": site.reservation,
        # To this script, which hands it on; `requeue` is for nodes that die.
        "--signal": f"B:TERM@{job.grace_seconds + _SIGNAL_SLACK}",
        "--output": f"{log_dir}/" * bool(log_dir) + _log(name, len(jobs)),
    }
    lines = [
        f"{option}={require_plain(value, option, 'an option of sbatch')}" for option, value in options.items() if value
    ]
    own = [require_plain(option, "sbatch_options", "an option of sbatch") for option in site.sbatch_options]
    for option in own:
        if not option.startswith("-"):
            raise UsageError(f"sbatch_options: {option!r} is no option; write it as --constraint=h100")
    return [*lines, "--requeue", "--open-mode=append", *own]


def _log(name: str, count: int) -> str:
    return f"{name}-%A-%a.log" if count > 1 else f"{name}-%j.log"


def _settings(jobs: Sequence[Job], hardware: Machines, site: Site) -> str:
    job = jobs[0]
    lines = [
        scripts.assignments({"MAX_RESTARTS": job.max_restarts, "GRACE_SECONDS": job.grace_seconds}),
        scripts.exports(job.environment),
    ]
    if job.cache:
        lines.append(f"CACHE_BASE={_cache_base(job, site)}")
        lines.append('CACHE_DIR="$CACHE_BASE/bioclip-jax-$SLURM_JOB_ID"')
    each = [scripts.settings_of(one, one.command(), "CACHE_DIR") for one in jobs]
    if len(jobs) == 1:
        lines += each
    else:
        cases = "".join(f"{place})\n{text}\n;;\n" for place, text in enumerate(each))
        lines.append(f'case "${{SLURM_ARRAY_TASK_ID:?is set in arrays of jobs only}}" in\n{cases}esac')
    return "\n".join([*lines, *_container(jobs, hardware, site)])


def _cache_base(job: Job, site: Site) -> str:
    """Shell that names a fast folder of the node."""
    if job.cache and job.cache.kind == "ram":
        return "/dev/shm"  # noqa: S108 in memory, where it is meant to be
    return shlex.quote(site.local_disk) if site.local_disk else '"${SLURM_TMPDIR:-${TMPDIR:-/tmp}}"'


def _clean_up(job: Job) -> str:
    if not job.cache:
        return ""
    each_node = '--nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1'
    # A job that was cancelled can start no further step, and the time limit leaves a minute.
    return f"""if [[ $(scontrol show job "$SELF") == *JobState=RUNNING* ]]; then
    timeout {_SIGNAL_SLACK - 15} srun {each_node} rm -rf -- "$CACHE_DIR"
else
    rm -rf -- "$CACHE_DIR"
fi"""


def _container(jobs: Sequence[Job], hardware: Machines, site: Site) -> list[str]:
    """Arrays SRUN and CONTAINER: what comes before the command."""
    job = jobs[0]
    if site.container == "none":
        return ["SRUN=()", "CONTAINER=()"]
    mounts = _mounts(jobs, site)
    make = f"mkdir -p {shlex.quote(job.work_dir.visible)}"  # only what is there can be mounted
    cache = ['"$CACHE_BASE:$CACHE_BASE"'] if job.cache else []
    if site.container == "pyxis":
        joined = ",".join([*mounts, *(["$CACHE_BASE:$CACHE_BASE"] if job.cache else [])])
        image = shlex.quote(_enroot_name(site.image))
        return [make, f'SRUN=(--container-image={image} --container-mounts="{joined}")', "CONTAINER=()"]
    binds = " ".join(f"--bind {bind}" for bind in [*(shlex.quote(mount) for mount in mounts), *cache])
    gpu = "--nv " if hardware.gpus_per_node else ""
    return [make, "SRUN=()", f"CONTAINER=(apptainer exec {gpu}{binds} {shlex.quote(site.image)})"]


def _enroot_name(image: str) -> str:
    """An image as pyxis wants it: REGISTRY#NAME, where docker has REGISTRY/NAME. NAME alone is Docker Hub's."""
    registry, slash, name = image.partition("/")
    is_host = "." in registry or ":" in registry or registry == "localhost"
    return f"{registry}#{name}" if slash and is_host and not image.startswith(".") and "#" not in image else image


def _mounts(jobs: Sequence[Job], site: Site) -> list[str]:
    """FOLDER:AS of all that a container has to see, whichever of the jobs it runs."""
    own = [mount if ":" in mount else f"{mount}:{mount}" for mount in site.mounts]
    found = [job.work_dir.visible for job in jobs]
    found += [str(Path(job.config).resolve().parent) for job in jobs if job.config_text]
    found += [path for job in jobs for path in job.reads]
    folders = [folder for folder in dict.fromkeys(found) if folder != "/"]
    for folder in folders:
        if set(folder) & set(':,"$`\\'):
            raise UsageError(f'{folder} cannot be mounted: its name has one of : , " $ ` \\')
    for mount in own:
        require_plain(mount, "mounts", "a mount")
    return [*(f"{folder}:{folder}" for folder in folders), *own]
