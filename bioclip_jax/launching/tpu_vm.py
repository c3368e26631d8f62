"""TPU VMs, without Kubernetes: a queued resource whose hosts run a startup script.

https://cloud.google.com/tpu/docs/queued-resources, .../multislice-introduction
"""

from __future__ import annotations

from bioclip_jax.errors import UsageError
from bioclip_jax.launching import machine, scripts
from bioclip_jax.launching.hardware import TpuSlices
from bioclip_jax.launching.job import Job
from bioclip_jax.launching.rendering import FOLDER, File, Rendering
from bioclip_jax.launching.site import Site

TARGET = "tpu-vm"
_FOLDER = "/opt/bioclip-jax"
_LONGEST_SCRIPT = 200_000
"""Bytes. A metadata value holds 256 KB."""


def render(job: Job, hardware: TpuSlices, site: Site) -> Rendering:
    """The startup script, and the command that asks for the machines.

    Raises:
        UsageError: a key of the site is missing, or TPU VMs cannot give what the job wants.
    """
    site.require(TARGET, "project", "zone", "image")
    if job.cache and job.cache.kind == "local-ssd":
        raise UsageError(f"{TARGET} has no local SSD; say --cache ram")
    if not job.work_dir.bucket and not site.startup:
        raise UsageError(
            f"--work-dir {job.work_dir.folder} would be on the disk of each TPU VM, and go with it; give "
            "gs://BUCKET/FOLDER, or mount a shared disk by `startup` lines of your --site file"
        )
    script = File(f"{job.name}.startup.sh", _startup_script(job, hardware, site))
    if len(script.text.encode()) > _LONGEST_SCRIPT:
        raise UsageError(f"{job.config}: too long for a startup script; put the config into the image")
    zone = (f"--project={site.project}", f"--zone={site.zone}")
    notes = (
        f"when it is its turn: gcloud compute tpus queued-resources describe {job.name} {' '.join(zone)}",
        "log, on a host: journalctl --unit " + _unit(job),
        "a queued resource that is done or was preempted has to be deleted before its name is free:",
        f"  gcloud compute tpus queued-resources delete {job.name} --force {' '.join(zone)}",
    )
    return Rendering((script,), (_command(job, hardware, site, script.name),), notes)


def _unit(job: Job) -> str:
    return f"bioclip-jax-{job.name}.service"


def _command(job: Job, hardware: TpuSlices, site: Site, script: str) -> tuple[str, ...]:
    several = hardware.slices > 1
    nodes = [f"--node-count={hardware.slices}", f"--node-prefix={job.name}"] if several else [f"--node-id={job.name}"]
    flags = {
        "--network": site.network,
        "--subnetwork": site.subnetwork,
        "--service-account": site.service_account,
    }
    return (
        *("gcloud", "compute", "tpus", "queued-resources", "create", job.name),
        *(f"--project={site.project}", f"--zone={site.zone}"),
        f"--accelerator-type={hardware.accelerator_type}",
        f"--runtime-version={site.runtime_version or hardware.runtime_version}",
        *nodes,
        *(f"{flag}={value}" for flag, value in flags.items() if value),
        "--scopes=https://www.googleapis.com/auth/cloud-platform",
        *(["--internal-ips"] if site.internal_ips else []),
        *(["--spot"] if job.spot else []),
        *(["--reserved"] if site.reservation else []),
        f"--metadata-from-file=startup-script={FOLDER}/{script}",
    )


def _startup_script(job: Job, hardware: TpuSlices, site: Site) -> str:
    config_at = f"{_FOLDER}/{job.name}.py" if job.config_text else ""
    files = {
        f"{_FOLDER}/{job.name}.sh": machine.run_script(job, hardware, site, config_at=config_at, target=TARGET),
        f"/etc/systemd/system/{_unit(job)}": machine.service(job, f"{_FOLDER}/{job.name}.sh"),
    }
    if config_at:
        files[config_at] = job.config_text
    settings = {"FOLDER": _FOLDER, "UNIT": _unit(job), "IMAGE": site.image}
    return scripts.fill(
        "tpu_vm.sh",
        settings=scripts.assignments(settings),
        startup="\n".join(site.startup),
        files="\n".join(_written(path, text) for path, text in files.items()),
    )


def _written(path: str, text: str) -> str:
    """A here-document, none of whose lines is its end."""
    end = "END_OF_FILE"
    while end in text:
        end += "_"
    lines = text if text.endswith("\n") else text + "\n"
    return f"cat >{path} <<'{end}'\n{lines}{end}"
