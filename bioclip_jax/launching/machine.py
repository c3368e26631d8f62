"""A machine of one's own, without a scheduler: a script that starts the run again, and a systemd unit that runs it.

The same two files serve a machine that one is logged in to (`vm`) and every host of a TPU VM (`tpu-vm`).
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

from bioclip_jax.errors import UsageError
from bioclip_jax.launching import scripts
from bioclip_jax.launching.hardware import Hardware, TpuSlices
from bioclip_jax.launching.job import Job
from bioclip_jax.launching.rendering import FOLDER, File, Rendering, require_plain
from bioclip_jax.launching.site import Site
from bioclip_jax.launching.storage import gcsfuse_flags

TARGET = "vm"
CACHE_IN_CONTAINER = "/cache"


def render(job: Job, hardware: Hardware, site: Site, folder: Path) -> Rendering:
    """For the machine that this is rendered on, as the user who does it; the files will lie in `folder`.

    Raises:
        UsageError: a key of the site is missing for what the job wants.
    """
    if not Path(job.work_dir.folder).is_absolute():
        raise UsageError(f"--work-dir is {job.work_dir.folder}; {TARGET} needs the whole path, from / on")
    script, unit = f"{job.name}.sh", f"{job.name}.service"
    files = (
        File(script, run_script(job, hardware, site, config_at=_absolute(job), target=TARGET)),
        File(unit, service(job, f"{folder.resolve()}/{script}")),
    )
    commands = (("systemctl", "--user", "enable", "--now", f"{FOLDER}/{unit}"),)
    notes = (
        f"or without systemd: bash {script}",
        f"log: journalctl --user --unit {unit} --follow",
        f"to stop it, saved: systemctl --user stop {unit}; for good: systemctl --user disable {unit}",
        "to go on after you log out: loginctl enable-linger",
    )
    return Rendering(files, commands, notes)


def _absolute(job: Job) -> str:
    return str(Path(job.config).resolve()) if job.config_text else ""


def run_script(job: Job, hardware: Hardware, site: Site, *, config_at: str, target: str) -> str:
    """The script that runs a job on a machine. `config_at` is where the user's config file lies there."""
    cache = _cache_folder(job, site, target)
    if site.image:
        command = job.command(config_at, CACHE_IN_CONTAINER)
        flags = [*_docker_flags(job, hardware, site, config_at), *_cache_mount(cache)]
        flags += [word for name in job.environment for word in ("--env", name)]  # values come from this environment
    else:
        command, flags = job.command(config_at, cache), []
    settings = [
        "" if site.image else f"cd {shlex.quote(str(Path.cwd()))} || exit 1",  # where paths of the config begin
        scripts.exports(job.environment),
        scripts.assignments(
            {
                "MAX_RESTARTS": job.max_restarts,
                "IMAGE": site.image,
                "BUCKET": job.work_dir.bucket,
                "BUCKET_MOUNT": job.work_dir.mount,
                "GCSFUSE_FLAGS": gcsfuse_flags(in_container=bool(site.image)) if job.work_dir.bucket else (),
                "CACHE": cache,
                "PROGRAMS": "" if site.image else str(Path(sys.executable).parent),
                "DOCKER_FLAGS": flags,
            }
        ),
        scripts.settings_of(job, command, ""),
    ]
    if site.image and not isinstance(hardware, TpuSlices):  # files belong to whoever runs this
        settings.append('DOCKER_FLAGS+=(--user "$(id -u):$(id -g)" --env HOME=/tmp)')
    if site.image and not job.work_dir.bucket:
        settings.append(f"mkdir -p {shlex.quote(job.work_dir.visible)}")  # as this user, not by docker
    prologue = "\n".join(site.prologue) if target == TARGET else ""  # a TPU VM's startup script has it
    return scripts.fill("machine.sh", settings="\n".join(filter(None, settings)), prologue=prologue)


def _cache_folder(job: Job, site: Site, target: str) -> str:
    """On the machine; '' for none."""
    if not job.cache:
        return ""
    if job.cache.kind == "ram":
        return f"/dev/shm/{job.name}"  # noqa: S108 in memory, where it is meant to be
    site.require(f"{target} with --cache local-ssd", "local_disk")
    return f"{site.local_disk.rstrip('/')}/{job.name}"


def _cache_mount(folder: str) -> list[str]:
    return ["--volume", f"{_mountable(folder)}:{CACHE_IN_CONTAINER}"] if folder else []


def _docker_flags(job: Job, hardware: Hardware, site: Site, config_at: str) -> list[str]:
    flags = ["--init", "--network=host", "--ipc=host"]
    # Root, as on TPUs everywhere: device files and mounted buckets are root's.
    flags += ["--privileged", "--user=0"] if isinstance(hardware, TpuSlices) else []
    if not isinstance(hardware, TpuSlices) and hardware.gpus_per_node:
        flags.append("--gpus=all")
    flags += ["--volume", f"{_mountable(job.work_dir.visible)}:{job.work_dir.visible}"]
    if config_at:
        flags += ["--volume", f"{_mountable(config_at)}:{config_at}:ro"]
    for path in job.reads:
        flags += ["--volume", f"{_mountable(path)}:{path}:ro"]
    for mount in site.mounts:
        require_plain(mount, "mounts", "a mount")
        flags += ["--volume", mount if ":" in mount else f"{mount}:{mount}"]
    return flags


def _mountable(folder: str) -> str:
    if ":" in folder:
        raise UsageError(f"{folder} cannot be mounted into a container: its name has a colon")
    return folder


def service(job: Job, script: str) -> str:
    """A systemd unit that runs the script, after every boot once it is enabled.

    The script itself starts the run again; the unit only stands by for the script's own death. 30 seconds more than the
    grace period are for containers to go.
    """
    return f"""[Unit]
Description=bioclip-jax: {job.name}
Wants=network-online.target
After=network-online.target docker.service

[Service]
Type=exec
ExecStart=/bin/bash {unit_quoted(script)}
KillMode=mixed
TimeoutStopSec={job.grace_seconds + 30}
SuccessExitStatus=42
Restart=on-abnormal
RestartSec=10

[Install]
WantedBy=default.target
"""


def unit_quoted(text: str) -> str:
    """A word of ExecStart, literally (systemd.service(5), "Command lines")."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[\s\"'\\;]", text) or not text else escaped
