"""What differs from user to user: projects, queues, images, machines. A YAML file of theirs, each key also a flag."""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any, Literal

from bioclip_jax.config_json import from_dict
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.yaml_files import read_values


@dataclasses.dataclass(frozen=True)
class Site:
    """Where jobs run. A target reads the keys that it needs, and says which one is missing."""

    image: str = ""
    """Container image that holds bioclip-jax, as launch/Dockerfile makes it."""
    environment: tuple[str, ...] = ()
    """Variables of the job besides those that a target sets by itself, as NAME=VALUE (in the file, NAME: VALUE). No
    secrets: they stand in the rendered files."""

    project: str = ""
    """Google Cloud project (gke-xpk, tpu-vm)."""
    zone: str = ""
    """Google Cloud zone (gke-xpk, tpu-vm)."""
    cluster: str = ""
    """GKE cluster (gke-xpk)."""
    reservation: str = ""
    """Reservation that the machines are taken from (gke-xpk, gke-jobset, tpu-vm, slurm)."""
    network: str = ""
    """VPC network (tpu-vm)."""
    subnetwork: str = ""
    """VPC subnetwork (tpu-vm)."""
    internal_ips: bool = False
    """No external addresses (tpu-vm)."""
    runtime_version: str = ""
    """TPU software version (tpu-vm); that of the generation if not given."""
    service_account: str = ""
    """Kubernetes service account, or Google service account (tpu-vm), that may read and write the bucket."""
    storage: str = ""
    """Name under which the bucket was attached (gke-xpk)."""
    priority: str = ""
    """Priority class (Kubernetes), or xpk's priority."""

    namespace: str = ""
    """Kubernetes namespace."""
    queue: str = ""
    """Kueue's local queue, or SLURM's quality of service."""
    secret: str = ""
    """Kubernetes secret whose entries become variables, as HF_TOKEN."""
    node_selector: tuple[str, ...] = ()
    """Labels of the nodes to run on, besides those of a TPU slice, as NAME=VALUE (in the file, NAME: VALUE)."""
    tolerations: tuple[str, ...] = ()
    """Taints to tolerate, as KEY:EFFECT or KEY=VALUE:EFFECT."""
    volume_claim: str = ""
    """Persistent volume claim of a shared disk."""
    volume_path: str = ""
    """Where that disk is mounted."""
    cpus: int = 0
    """CPU cores to ask for on each host; 0 asks for none."""
    memory_gigabytes: int = 0
    """Memory to ask for on each host; 0 asks for none."""
    run_as_user: int = -1
    """User id in the container (Kubernetes); -1 is root on TPUs, whose device files are root's, and 1000 elsewhere, the
    user of launch/Dockerfile."""
    host_network: bool = False
    """Pods use their host's own network, which is faster between TPU slices."""
    privileged: bool = False
    """Old GKE versions give TPUs to privileged containers only."""

    partition: str = ""
    """SLURM partition."""
    account: str = ""
    """SLURM account."""
    time_limit: str = ""
    """Of a SLURM job, as 1-00:00:00 or 480; a run that needs longer is queued again."""
    gpus_per_node: int = 8
    """GPUs of a machine (slurm, k8s-gpu, vm); 0 for CPUs only."""
    container: Literal["none", "pyxis", "apptainer"] = "none"
    """How SLURM starts the image; none: the environment that the prologue sets up."""
    mounts: tuple[str, ...] = ()
    """Folders that a SLURM or VM container sees besides the work directory, as FOLDER or FOLDER:AS."""
    prologue: tuple[str, ...] = ()
    """Lines of shell before the command (slurm, vm), as `module load cuda`. They run as they stand here."""
    startup: tuple[str, ...] = ()
    """Lines of shell that root runs on every host before the container starts (tpu-vm), as the mount of a disk."""
    sbatch_options: tuple[str, ...] = ()
    """Further options of sbatch, as --constraint=h100."""
    log_dir: str = ""
    """Existing folder for SLURM's logs; where sbatch is called if not given."""
    local_disk: str = ""
    """Folder on a fast local disk of the machine (slurm, vm)."""

    def __post_init__(self) -> None:
        for pair in (*self.environment, *self.node_selector):
            if "=" not in pair:
                raise UsageError(f"{pair!r} has to be NAME=VALUE")
        for name in self.variables:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise UsageError(f"environment: {name!r} is no name of a variable")
        for name in ("cpus", "memory_gigabytes", "gpus_per_node"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it cannot be below 0")
        if self.image.startswith("-") or any(letter.isspace() for letter in self.image):
            raise UsageError(f"image is {self.image!r}; it has to be the name of a container image, without blanks")
        for toleration in self.tolerations:
            parse_toleration(toleration)
        for field in dataclasses.fields(self):
            if field.name != "environment":  # whose values may hold anything
                _require_one_line(field.name, getattr(self, field.name))

    @property
    def variables(self) -> dict[str, str]:
        """The environment by name."""
        return dict(pair.split("=", 1) for pair in self.environment)

    @property
    def node_labels(self) -> dict[str, str]:
        """The node selector by name."""
        return dict(pair.split("=", 1) for pair in self.node_selector)

    def require(self, target: str, *names: str) -> None:
        """Raises UsageError where a target needs a key that was not given."""
        for name in names:
            if not getattr(self, name):
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{target} needs {flag}, or {name} in your --site file")


def _require_one_line(name: str, value: Any) -> None:
    """What has several lines is a mistake."""
    texts = value if isinstance(value, tuple) else [value]
    for text in texts:
        if isinstance(text, str) and any(not letter.isprintable() for letter in text):
            raise UsageError(f"{name} is {text!r}; it has to be one line without control characters")


def parse_toleration(text: str) -> dict[str, str]:
    """KEY:EFFECT or KEY=VALUE:EFFECT as a Kubernetes toleration.

    Raises:
        UsageError: another form.
    """
    found = re.fullmatch(r"([\w./-]+)(?:=([\w.-]*))?:(NoSchedule|PreferNoSchedule|NoExecute)", text)
    if not found:
        raise UsageError(f"tolerations: {text!r} has to be KEY:EFFECT or KEY=VALUE:EFFECT, with EFFECT as NoSchedule")
    key, value, effect = found.groups()
    if value is None:
        return {"key": key, "operator": "Exists", "effect": effect}
    return {"key": key, "operator": "Equal", "value": value, "effect": effect}


def read_site(path: Path) -> Site:
    """The site that a YAML file describes.

    Raises:
        UsageError: the file cannot be read, or has an unknown key or a value of another type; the message names it.
    """
    return _site_from(read_values(path, "--site", "`image: NAME`"), f"--site {path}")


def _site_from(content: dict[Any, Any], where: str) -> Site:
    """A site from parsed YAML; `where` begins the messages of its errors."""
    known = [field.name for field in dataclasses.fields(Site)]
    for name in content:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3) or known
            raise UsageError(f"{where}: unknown key {str(name)!r}; did you mean {', '.join(near)}?")
    for name in ("environment", "node_selector"):
        if name in content:
            content = content | {name: _pairs(content[name], f"{where}: {name}")}
    for name in ("tolerations", "mounts", "prologue", "startup", "sbatch_options"):
        if name in content and not isinstance(content[name], list):
            raise UsageError(f"{where}: {name}: expected a list, got {content[name]!r}")
    try:
        site = from_dict(Site, content)
    except UserError as error:
        hint = "; put it in quotes" if "expected str" in str(error) else ""
        raise UsageError(f"{where}: {error}{hint}") from None
    assert isinstance(site, Site)  # noqa: S101 for mypy
    return site


def _pairs(value: Any, where: str) -> list[str]:
    """YAML reads 1 and true where a text is meant; such values are better written down in quotes."""
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected NAME: VALUE lines, got {value!r}")
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise UsageError(f"{where}: {name}: {text!r} is not a text; put it in quotes")
    return [f"{name}={text}" for name, text in value.items()]
