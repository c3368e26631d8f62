"""GKE by xpk: one command, which makes the JobSet itself. https://github.com/AI-Hypercomputer/xpk"""

from __future__ import annotations

import base64
import re
import shlex

from bioclip_jax.errors import UsageError
from bioclip_jax.launching.hardware import TpuSlices
from bioclip_jax.launching.job import Job
from bioclip_jax.launching.rendering import File, Rendering, quoted
from bioclip_jax.launching.site import Site
from bioclip_jax.launching.storage import csi_options

TARGET = "gke-xpk"
CONFIG = "/dev/shm/bioclip-jax-config.py"  # noqa: S108 which xpk puts in memory
_CACHE = "/dev/shm/bioclip-jax"  # noqa: S108 likewise
_PRIORITIES = ("very-low", "low", "medium", "high", "very-high")


def render(job: Job, hardware: TpuSlices, site: Site) -> Rendering:
    """The command `xpk workload create`, as a script to keep.

    xpk starts the run again by the same exit codes as we do and by 127, and forwards SIGTERM to what its command has
    replaced itself with.

    Raises:
        UsageError: a key of the site is missing, or xpk cannot give what the job wants.
    """
    site.require(TARGET, "project", "zone", "cluster", "image")
    if job.cache and job.cache.kind == "local-ssd":
        raise UsageError(f"{TARGET} gives no local SSD; say --cache ram, or use gke-jobset")
    if job.work_dir.bucket and not site.storage:
        raise UsageError(f"{TARGET} mounts a bucket by the name that it was attached under; give it as --storage")
    if site.priority and site.priority not in _PRIORITIES:
        raise UsageError(f"priority is {site.priority!r}; xpk has {', '.join(_PRIORITIES)}")
    cluster = (f"--cluster={site.cluster}", f"--project={site.project}", f"--zone={site.zone}")
    command = (
        *("xpk", "workload", "create", f"--workload={job.name}", *cluster),
        f"--tpu-type={hardware.xpk_type}",
        f"--num-slices={hardware.slices}",
        f"--docker-image={site.image}",
        f"--max-restarts={job.max_restarts}",
        f"--termination-grace-period-seconds={job.grace_seconds}",
        *(_option("--namespace", site.namespace)),
        *(_option("--priority", site.priority)),
        *(_option("--storage", site.storage)),
        *(_option("--reservation", site.reservation)),
        *(["--spot"] if job.spot else []),
        f"--command={_command(job)}",
    )
    script = "#!/bin/bash\n" + " \\\n    ".join([quoted(command[:3]), *map(shlex.quote, command[3:])]) + "\n"
    bucket = ("once for a cluster, if the bucket is not attached yet:", f"  {quoted(attach_command(job, site))}")
    notes = (
        *(bucket if job.work_dir.bucket else ()),
        f"log: {quoted(('xpk', 'workload', 'list', *cluster))} names the page",
        # Without --workload it would delete all that run in the cluster.
        f"to stop it, saved: {quoted(('xpk', 'workload', 'delete', f'--workload={job.name}', *cluster))}",
    )
    return Rendering((File(f"{job.name}.xpk.sh", script),), (command,), notes)


def _option(flag: str, value: str) -> list[str]:
    return [f"{flag}={value}"] if value else []


def attach_command(job: Job, site: Site) -> tuple[str, ...]:
    """What attaches the bucket to a cluster, once. xpk asks for a size, which a bucket does not have."""
    return (
        *("xpk", "storage", "attach", site.storage, f"--cluster={site.cluster}", f"--project={site.project}"),
        *(f"--zone={site.zone}", "--type=gcsfuse", f"--bucket={job.work_dir.bucket}", "--size=100"),
        *(f"--mount-point={job.work_dir.mount}", "--readonly=false", "--auto-mount=false"),
        f"--mount-options={csi_options()}",
    )


def _command(job: Job) -> str:
    """One line of shell: xpk writes it into a YAML block and runs it by bash."""
    variables = [f"{name}={value}" for name, value in job.environment.items()]
    words = ["env", *variables, *job.command(CONFIG, _CACHE)]
    start = f"exec {' '.join(_on_one_line(word) for word in words)}"
    if not job.config_text:
        return start
    return f"echo {base64.b64encode(job.config_text.encode()).decode()} | base64 --decode >{CONFIG} && {start}"


def _on_one_line(word: str) -> str:
    """A word of bash without line breaks."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = re.sub(r"[\\']", lambda found: "\\" + found[0], word)
    return "$'" + "".join(c if c.isprintable() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in escaped) + "'"
