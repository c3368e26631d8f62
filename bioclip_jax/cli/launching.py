"""`launch`: jobs for schedulers and machines, rendered, shown and submitted."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from bioclip_jax.cli.configs import load_configs
from bioclip_jax.cli.parsing import PROGRAM, parse, parse_known, split_at_dashes
from bioclip_jax.cli.rehearsal import with_fields
from bioclip_jax.errors import UsageError
from bioclip_jax.launching.site import Site, read_site

if TYPE_CHECKING:
    from bioclip_jax.launching.hardware import Hardware
    from bioclip_jax.launching.job import Job
    from bioclip_jax.launching.sweep import Point

COMMAND = "launch"


@dataclasses.dataclass(frozen=True)
class Flags:
    """Of the launch itself."""

    work_dir: str
    """Folder of the run that all its hosts see, or gs://BUCKET/FOLDER, which is mounted; of a grid, the folder of its
    points' folders."""
    topology: str = ""
    """TPU slices, as v5e-256, v5p:4x4x4 or 2xv6e-64, or GPUs, as h100x32."""
    nodes: int = 1
    """Machines, where no topology is given (slurm, k8s-gpu)."""
    tasks: Literal["gpu", "node"] = "gpu"
    """One process for each GPU, or one for each node (slurm)."""
    site: Path | None = None
    """YAML file with what is yours: project, queue, image and so on. Its keys are the flags below."""
    name: str = ""
    """Of the job; made of the config's and the folder's if not given."""
    max_restarts: int = 50
    """How often a job is started again that asked for it (exit code 42) or was ended by a signal."""
    grace_seconds: int = 0
    """Between SIGTERM and SIGKILL; 0 takes what one save of this config may need."""
    spot: tyro.conf.FlagCreatePairsOff[bool] = False
    """Cheaper machines that may be taken away at any time (TPUs, k8s-gpu on GKE)."""
    cache: Literal["none", "ram", "local-ssd"] = "none"
    """Where each host keeps files of datasets that lie in object storage."""
    cache_gigabytes: int = 0
    """Room for them."""
    at_once: int = 0
    """Jobs of a sweep that may run at the same time (slurm); 0 for all."""
    profile_steps: str = ""
    """FIRST:COUNT of steps whose profile is written to profile/ in the work directory."""
    out: Path | None = None
    """Folder for the rendered files; without it they are shown only, or lie in launch-NAME once submitted."""
    submit: tyro.conf.FlagCreatePairsOff[bool] = False
    """Start the job by the engine's own command line tool."""

    def __post_init__(self) -> None:
        if not self.work_dir.strip():
            raise UsageError("--work-dir is empty; give a folder that all hosts see, or gs://BUCKET/FOLDER")
        for name in ("max_restarts", "grace_seconds", "cache_gigabytes", "at_once"):
            if getattr(self, name) < 0:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it cannot be below 0")
        if (self.cache == "none") != (self.cache_gigabytes == 0):
            raise UsageError(
                f"--cache is {self.cache} and --cache-gigabytes {self.cache_gigabytes}; give both or neither"
            )
        if self.profile_steps and not re.fullmatch(r"\d+:[1-9]\d*", self.profile_steps):
            raise UsageError(f"--profile-steps is {self.profile_steps!r}; it has to be FIRST:COUNT, as 100:5")


def launch(arguments: Sequence[str]) -> None:
    """Render a job for a cluster or a machine (SLURM, Kubernetes, TPU VMs ...), show it, and with --submit start it."""
    from bioclip_jax.launching.targets import TARGETS

    given, after = split_at_dashes(arguments)
    wants_help = bool({"-h", "--help"} & set(given))
    if not given or given[0].startswith("-"):
        print(_usage(TARGETS))
        if not wants_help:
            raise UsageError("name a target and a config")
        return
    target, *rest = given
    if target not in TARGETS:
        known = [*TARGETS, "local"]
        near = difflib.get_close_matches(target, known, n=1)
        hint = f"did you mean {near[0]}? there are" if near else "there are"
        raise UsageError(f"no target is called {target!r}; {hint} {', '.join(known)}")
    if not rest or rest[0].startswith("-"):
        if wants_help:
            _parse_flags(["--help"], f"{COMMAND} {target} CONFIG")
        raise UsageError(f"name a config: {PROGRAM} {COMMAND} {target} CONFIG --work-dir FOLDER")
    config, *rest = rest
    flags, site, fields = _parse_flags(rest, f"{COMMAND} {target} {config}")
    _launch(target, config, flags, site, [*fields, *after])


def _usage(targets: dict[str, Any]) -> str:
    lines = [
        f"usage: {PROGRAM} {COMMAND} TARGET CONFIG --work-dir FOLDER [flags] [fields of the config]",
        "",
        "targets:",
    ]
    lines += [f"  {name:<12}{target.summary}" for name, target in targets.items()]
    lines.append(f"  {'local':<12}this machine, many processes: a rehearsal (`{PROGRAM} {COMMAND} local --help`)")
    return "\n".join([*lines, "", f"`{PROGRAM} {COMMAND} TARGET --help` explains the flags."])


def _parse_flags(arguments: Sequence[str], command: str) -> tuple[Flags, Site, list[str]]:
    """Flags, the site as its file and its flags say, and what is left for the config."""
    path = _value_of("--site", arguments)
    base = Site() if path is None else read_site(Path(path))

    def collect(
        flags: Annotated[Flags, tyro.conf.arg(name="")], site: Annotated[Site, tyro.conf.arg(name="")] = base
    ) -> tuple[Flags, Site]:
        """Render a job, show it, and with --submit start it.

        What is not listed here is a field of the config, as `bioclip-jax train CONFIG --help` lists them.
        """
        return flags, site

    if "--help" in arguments or "-h" in arguments:
        parse(collect, ["--help"], command)
    (flags, site), fields = parse_known(collect, arguments, command)
    return flags, site, fields


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for place, word in enumerate(arguments):
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
        if word == flag and place + 1 < len(arguments):
            return arguments[place + 1]
    return None


def _launch(target: str, name: str, flags: Flags, site: Site, fields: list[str]) -> None:
    from bioclip_jax.launching import checks
    from bioclip_jax.launching.environment import environment
    from bioclip_jax.launching.job import name_of, parse_work_dir, require_name
    from bioclip_jax.launching.rendering import shown, write
    from bioclip_jax.launching.submit import submit
    from bioclip_jax.launching.sweep import points
    from bioclip_jax.launching.targets import TARGETS, Options, render

    configs = load_configs(name)
    configs = with_fields(name, configs, fields, "train") if fields else configs
    hardware = _hardware(target, flags, site)
    local = TARGETS[target].sees_this_disk and "://" not in flags.work_dir
    work_dir = str(Path(flags.work_dir).absolute()) if local else flags.work_dir
    job_name = require_name(flags.name) if flags.name else name_of(name, parse_work_dir(work_dir))
    # A user may mount in their own folders only, and each run's mount goes with it.
    mounts = str(Path.home() / "gcs" / job_name) if target == "vm" else "/gcs"
    folder = flags.out or Path(f"launch-{job_name}")
    folder = folder.absolute() if target == "vm" else folder  # systemd asks for whole paths
    uses_image = site.container != "none" if target == "slurm" else bool(site.image)
    in_container = uses_image or not TARGETS[target].sees_this_disk
    jobs = []
    for point in points(name, configs, work_dir):
        checks.check_devices(point.config, hardware)
        checks.check_paths(point.config, in_container=in_container, has_cache=flags.cache != "none")
        job = _job(point, job_name, mounts, flags, fields)
        jobs.append(dataclasses.replace(job, environment=environment(hardware, site.variables)))
        checks.check_work_dir(jobs[-1].work_dir, point.config)
    rendering = render(target, jobs, hardware, site, Options(job_name, folder, flags.tasks, flags.at_once))
    notes = (*rendering.notes, *checks.notes(jobs, next(iter(configs.values()))))
    rendering = dataclasses.replace(rendering, notes=notes)
    print(shown(rendering, str(folder)), flush=True)
    if flags.submit:
        submit(target, rendering, folder)
    elif flags.out:
        write(rendering, folder)


def _hardware(target: str, flags: Flags, site: Site) -> Hardware:
    """Of the topology, or machines by their number.

    Raises:
        UsageError: a target for TPUs without a topology, or an unknown one.
    """
    from bioclip_jax.launching.hardware import Machines, TpuSlices
    from bioclip_jax.launching.targets import TARGETS

    if not flags.topology:
        if "machines" not in TARGETS[target].runs_on:
            raise UsageError(f"{target} needs --topology, as v5e-256 or 2xv6e-64")
        return Machines(flags.nodes, site.gpus_per_node)
    if flags.nodes != 1:
        raise UsageError(f"--topology {flags.topology} and --nodes {flags.nodes}: give one of them")
    from bioclip_jax.planning.topology import parse

    topology = parse(flags.topology)
    if topology.is_gpu:
        return Machines(topology.hosts, topology.chips // topology.hosts, topology.generation)
    return TpuSlices(topology.generation, topology.shape, topology.slices)


def _job(point: Point, name: str, mounts: str, flags: Flags, fields: Sequence[str]) -> Job:
    """The job of one point of a sweep, or of the only run."""
    from bioclip_jax.launching.checks import paths_read
    from bioclip_jax.launching.grace import grace_seconds
    from bioclip_jax.launching.job import Cache, Job, job_name, parse_work_dir
    from bioclip_jax.recipes import is_bare_name

    config, _, variant = point.argument.partition(":")
    path = None if is_bare_name(config) else Path(config).expanduser().resolve()
    streams = {"data": point.config.global_batch_size}
    streams |= {"replay": point.config.replay_batch_size} if point.config.replay_batch_size else {}
    rows = sum(streams.values())
    cache = None
    if flags.cache != "none":
        cache = Cache(flags.cache, flags.cache_gigabytes, {stream: size / rows for stream, size in streams.items()})
    profile = ("--profile-steps", flags.profile_steps) if flags.profile_steps else ()
    return Job(
        name=job_name(f"{name}-{point.name}") if point.name else name,
        config=str(path) if path else config,
        work_dir=parse_work_dir(point.work_dir, mounts),
        fields=(*profile, *fields),
        variant=variant,
        config_text=path.read_text(encoding="utf-8") if path else "",
        reads=paths_read(point.config),
        max_restarts=flags.max_restarts,
        grace_seconds=flags.grace_seconds or grace_seconds(point.config),
        cache=cache,
        spot=flags.spot,
    )
