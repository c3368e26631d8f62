"""The targets by name: what each runs on, and how it renders jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from bioclip_jax.errors import UsageError
from bioclip_jax.launching import jobset, machine, slurm, tpu_vm, xpk
from bioclip_jax.launching.hardware import Hardware, Machines, TpuSlices
from bioclip_jax.launching.job import Job
from bioclip_jax.launching.rendering import Rendering
from bioclip_jax.launching.site import Site


@dataclasses.dataclass(frozen=True)
class Target:
    """Where jobs can be started."""

    summary: str
    runs_on: tuple[Literal["tpu", "machines"], ...]
    program: str
    """That submits: of the engine."""
    install: str
    """How to get that program."""
    sees_this_disk: bool = False
    """Paths on this machine are paths in the job."""


KUBECTL = "https://kubernetes.io/docs/tasks/tools has it, and `gcloud components install kubectl`"
GCLOUD = "https://cloud.google.com/sdk/docs/install has it"
TARGETS = {
    xpk.TARGET: Target("TPU slices on GKE, by xpk", ("tpu",), "xpk", "pip install xpk"),
    jobset.TPU_TARGET: Target("TPU slices on GKE, by a JobSet", ("tpu",), "kubectl", KUBECTL),
    tpu_vm.TARGET: Target("TPU VMs, by a queued resource", ("tpu",), "gcloud", GCLOUD),
    slurm.TARGET: Target(
        "machines of a SLURM cluster", ("machines",), "sbatch", "a login node of the cluster has it", True
    ),
    jobset.GPU_TARGET: Target("GPU machines of a Kubernetes cluster, by a JobSet", ("machines",), "kubectl", KUBECTL),
    machine.TARGET: Target(
        "this machine, by systemd", ("machines", "tpu"), "systemctl", "or run the script itself by bash", True
    ),
}


@dataclasses.dataclass(frozen=True)
class Options:
    """What belongs to the whole launch rather than to a job."""

    name: str
    folder: Path
    """Where the files will lie."""
    tasks: Literal["gpu", "node"] = "gpu"
    at_once: int = 0


def render(target: str, jobs: Sequence[Job], hardware: Hardware, site: Site, options: Options) -> Rendering:
    """What a target makes of jobs that run on the same kind of hardware.

    Raises:
        UsageError: the target cannot give what a job wants, or the site lacks a key.
    """
    require_fit(target, jobs, hardware)
    _require_options(target, jobs, site, options)
    if target in (jobset.TPU_TARGET, jobset.GPU_TARGET):
        return jobset.render(jobs, hardware, site, options.name)
    if target == slurm.TARGET:
        machines = cast("Machines", hardware)
        return slurm.render(jobs, machines, site, tasks=options.tasks, at_once=options.at_once, name=options.name)
    if target == machine.TARGET:
        return machine.render(jobs[0], hardware, site, options.folder)
    one = xpk.render if target == xpk.TARGET else tpu_vm.render
    return _together([one(job, cast("TpuSlices", hardware), site) for job in jobs])


def require_fit(target: str, jobs: Sequence[Job], hardware: Hardware) -> None:
    """Raises UsageError where a target does not have such hardware, or not for so many jobs."""
    if hardware.kind not in TARGETS[target].runs_on:
        others = ", ".join(name for name, other in TARGETS.items() if hardware.kind in other.runs_on)
        raise UsageError(f"--topology {hardware}: {target} runs on other hardware; {others} have it")
    if isinstance(hardware, TpuSlices) and hardware.slices > 1 and hardware.hosts == 1 and target != tpu_vm.TARGET:
        raise UsageError(f"--topology {hardware}: on GKE, slices that work together have several hosts each")
    if jobs[0].spot and target in (slurm.TARGET, machine.TARGET):
        raise UsageError(f"--spot is for machines of a cloud; on {target}, a partition or the machine itself decides")
    if target == machine.TARGET:
        hosts = hardware.slices * hardware.hosts if isinstance(hardware, TpuSlices) else hardware.nodes
        if hosts > 1:
            raise UsageError(f"--topology {hardware} is {hosts} machines; {target} is one")
        if len(jobs) > 1:
            raise UsageError(f"{target} runs one job, and the config is a grid; name a variant, or see `launch local`")


def _require_options(target: str, jobs: Sequence[Job], site: Site, options: Options) -> None:
    """Raises UsageError for options that a target does not have, or that exclude each other."""
    if target != slurm.TARGET and (options.at_once or options.tasks != "gpu"):
        raise UsageError(f"--at-once and --tasks are {slurm.TARGET}'s; {target} has nothing like them")
    if jobs[0].spot and site.reservation:
        raise UsageError(
            f"--spot, and machines of the reservation {site.reservation}: give one (--reservation '' for none)"
        )
    if target == tpu_vm.TARGET and set(str(options.folder)) & set(",="):
        raise UsageError(f"--out {options.folder}: gcloud takes no path with commas or equals signs for its metadata")


def _together(renderings: Sequence[Rendering]) -> Rendering:
    """Of the jobs of a sweep, which are submitted one after the other."""
    files = tuple(file for rendering in renderings for file in rendering.files)
    commands = tuple(command for rendering in renderings for command in rendering.commands)
    several = (f"{len(renderings)} jobs; of the first:",) if len(renderings) > 1 else ()
    return Rendering(files, commands, (*several, *renderings[0].notes))
