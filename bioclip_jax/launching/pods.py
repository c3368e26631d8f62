"""Pods of a job: the part of a JobSet that TPUs and GPUs have in common."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from bioclip_jax.errors import UsageError
from bioclip_jax.launching.job import RESTARTED, Job
from bioclip_jax.launching.site import Site, parse_toleration
from bioclip_jax.launching.storage import CSI_ANNOTATIONS, CSI_DRIVER, csi_options

CONTAINER = "train"
CACHE = "/cache"
CONFIG = "/etc/bioclip-jax/config.py"
IMAGE_USER = 1000
"""Of launch/Dockerfile."""
_MOST_CONFIG_BYTES = 900_000  # of the 1 MiB that a ConfigMap holds

_SPOT = "cloud.google.com/gke-spot"
"""Label of GKE's spot nodes, and the taint of those that GKE makes by itself."""

Tree = dict[str, Any]


def pod_template(
    job: Job,
    site: Site,
    environment: list[Tree],
    devices: Mapping[str, int],
    labels: Mapping[str, str],
    user: int,
) -> Tree:
    """The pod of one host.

    Args:
        job: of which the command, the work directory and the cache are.
        site: of the user.
        environment: entries of the container's `env`.
        devices: what the container asks for, as {'google.com/tpu': 4}.
        labels: of the nodes to run on.
        user: id to run as; files of a mounted bucket are theirs.

    Raises:
        UsageError: the work directory is neither in a bucket nor on the volume that the site names.
    """
    volumes, mounts = _volumes(job, site, user)
    spot = [f"{_SPOT}=true:NoSchedule"] if job.spot else []
    spec: Tree = {
        "restartPolicy": "Never",  # one pod alone cannot join the others again: all are started again
        "terminationGracePeriodSeconds": job.grace_seconds,
        "securityContext": {"runAsUser": user} | ({"runAsGroup": user, "fsGroup": user} if user else {}),
        "nodeSelector": ({_SPOT: "true"} if job.spot else {}) | dict(labels),
        "tolerations": [parse_toleration(text) for text in (*spot, *site.tolerations)],
        "containers": [_container(job, site, environment, devices, mounts)],
        "volumes": volumes,
    }
    spec |= {"serviceAccountName": site.service_account} if site.service_account else {}
    spec |= {"priorityClassName": site.priority} if site.priority else {}
    spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"} if site.host_network else {}
    mark = {"metadata": {"annotations": dict(CSI_ANNOTATIONS)}} if job.work_dir.bucket else {}
    return {**mark, "spec": _without_empty(spec)}


def _container(job: Job, site: Site, environment: list[Tree], devices: Mapping[str, int], mounts: list[Tree]) -> Tree:
    amounts: dict[str, Any] = dict(devices)
    requests = amounts | ({"cpu": site.cpus} if site.cpus else {})
    requests |= {"memory": f"{site.memory_gigabytes}G"} if site.memory_gigabytes else {}
    container: Tree = {
        "name": CONTAINER,
        "image": site.image,
        # The image's entry point is an init, which hands SIGTERM on; a command as process 1 would not get it at first.
        "args": [literal(word) for word in job.command(CONFIG, CACHE)],
        "env": environment,
        "resources": _without_empty({"requests": requests, "limits": amounts}),
        "volumeMounts": mounts,
    }
    container |= {"envFrom": [{"secretRef": {"name": site.secret}}]} if site.secret else {}
    container |= {"securityContext": {"privileged": True}} if site.privileged else {}
    return container


def _without_empty(tree: Tree) -> Tree:
    return {name: value for name, value in tree.items() if value not in ({}, [])}


def _volumes(job: Job, site: Site, user: int) -> tuple[list[Tree], list[Tree]]:
    """Volumes of the pod, and where its container sees them."""
    volumes: list[Tree] = [{"name": "shared-memory", "emptyDir": {"medium": "Memory"}}]
    mounts: list[Tree] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]  # noqa: S108 NCCL and worker processes
    if job.work_dir.bucket:
        attributes = {"bucketName": job.work_dir.bucket, "mountOptions": csi_options(user)}
        attributes |= {"hostNetworkPodKSA": "true"} if site.host_network else {}  # GKE 1.33.3 and later
        volumes.append({"name": "bucket", "csi": {"driver": CSI_DRIVER, "volumeAttributes": attributes}})
        mounts.append({"name": "bucket", "mountPath": job.work_dir.mount})
    else:
        _require_on_volume(job, site)
    for path in job.reads:
        if not site.volume_claim or not PurePosixPath(path).is_relative_to(site.volume_path):
            raise UsageError(f"{path} is read, and on no volume: --volume-path is {site.volume_path or 'not given'}")
    if site.volume_claim:
        if not site.volume_path.startswith("/"):
            raise UsageError(f"volume_path is {site.volume_path!r}; give the whole path at which pods mount the volume")
        volumes.append({"name": "disk", "persistentVolumeClaim": {"claimName": site.volume_claim}})
        mounts.append({"name": "disk", "mountPath": site.volume_path})
    if job.cache:
        # On GKE an emptyDir lies on local SSD where the node pool was made with some for ephemeral storage.
        medium = {"medium": "Memory"} if job.cache.kind == "ram" else {}
        volumes.append({"name": "cache", "emptyDir": {**medium, "sizeLimit": f"{job.cache.gigabytes}G"}})
        mounts.append({"name": "cache", "mountPath": CACHE})
    if job.config_text:
        volumes.append({"name": "config", "configMap": {"name": config_name(job)}})
        mounts.append({"name": "config", "mountPath": str(PurePosixPath(CONFIG).parent), "readOnly": True})
    return volumes, mounts


def _require_on_volume(job: Job, site: Site) -> None:
    folder = job.work_dir.folder
    if not site.volume_claim or not site.volume_path:
        raise UsageError(
            f"--work-dir {folder} is in no bucket: give gs://BUCKET/FOLDER, or say by --volume-claim and --volume-path "
            "which shared disk the pods mount"
        )
    if PurePosixPath(site.volume_path) not in PurePosixPath(folder).parents:
        raise UsageError(f"--work-dir {folder} is not below --volume-path {site.volume_path}, where the shared disk is")


def config_map(job: Job, site: Site) -> Tree:
    """The user's config file, for all pods to read.

    Raises:
        UsageError: it is too long for that.
    """
    if len(job.config_text.encode()) > _MOST_CONFIG_BYTES:
        raise UsageError(f"{job.config}: too long for a ConfigMap; put the config into the image")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(config_name(job), site),
        "data": {PurePosixPath(CONFIG).name: job.config_text},
    }


def config_name(job: Job) -> str:
    """Of the ConfigMap."""
    return f"{job.name}-config"


def require_names(site: Site) -> None:
    """Raises UsageError where a name is none that Kubernetes takes (RFC 1123)."""
    for key in ("namespace", "queue", "service_account", "secret", "priority", "volume_claim"):
        value = getattr(site, key)
        if value and not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
            raise UsageError(f"{key} is {value!r}; names in Kubernetes are lower-case letters, digits, dashes and dots")


def metadata(name: str, site: Site, **more: Mapping[str, str]) -> Tree:
    """Name and namespace, and labels or annotations where there are some."""
    namespace = {"namespace": site.namespace} if site.namespace else {}
    return _without_empty({"name": name, **namespace, **{key: dict(value) for key, value in more.items()}})


def failure_policy() -> Tree:
    """Of each Kubernetes job: which deaths of a pod end the whole run.

    A pod that was evicted or preempted counts as one to be started again whatever its exit code. Of the others, those
    that asked for it and those that a signal ended are started again; the rest fail the job for good.
    """
    disrupted = {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    final = {"containerName": CONTAINER, "operator": "NotIn", "values": list(RESTARTED)}
    return {"rules": [disrupted, {"action": "FailJob", "onExitCodes": final}]}


def env(name: str, value: str) -> Tree:
    """A variable."""
    return {"name": name, "value": literal(value)}


def literal(text: str) -> str:
    """Kubernetes replaces $(NAME) in commands and variables, unless the $ is doubled."""
    return text.replace("$(", "$$(")
