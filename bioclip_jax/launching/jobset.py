"""Kubernetes: a JobSet, of TPU slices on GKE or of machines with GPUs anywhere. Kueue queues it where a queue is named.

https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2, https://cloud.google.com/kubernetes-engine/docs/how-to/tpu-multislice
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bioclip_jax.launching import pods
from bioclip_jax.launching.hardware import Machines, TpuSlices
from bioclip_jax.launching.job import Job
from bioclip_jax.launching.pods import Tree
from bioclip_jax.launching.rendering import FOLDER, File, Rendering
from bioclip_jax.launching.site import Site

TPU_TARGET, GPU_TARGET = "gke-jobset", "k8s-gpu"
PORT = 12345
"""Of process 0, to which the others come."""
_INDEX = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
_SLICE, _NODE = "slice", "node"
_PATIENCE = {"BIOCLIP_JAX_START_SECONDS": "86400"}
"""Node pools that were preempted come back one by one, and a restart would take the pods out of the queue again."""


def render(jobs: Sequence[Job], hardware: TpuSlices | Machines, site: Site, name: str = "") -> Rendering:
    """One file with a JobSet for each job, and a ConfigMap where the config is the user's own file.

    Raises:
        UsageError: a key of the site is missing for what the job wants.
    """
    target = TPU_TARGET if isinstance(hardware, TpuSlices) else GPU_TARGET
    site.require(target, "image")
    pods.require_names(site)
    name = name or jobs[0].name
    documents: list[Tree] = []
    for job in jobs:
        documents += [pods.config_map(job, site)] if job.config_text else []
        documents.append(job_set(job, hardware, site))
    file = f"{name}.yaml"
    namespace = ["--namespace", site.namespace] if site.namespace else []
    where = f" --namespace {site.namespace}" if site.namespace else ""
    several = (f"{len(jobs)} jobs; of the first:",) if len(jobs) > 1 else ()
    notes = (
        *several,
        f"state: kubectl get jobset {jobs[0].name}{where}",
        f"log of process 0: kubectl logs --follow --container {pods.CONTAINER}{where} --selector "
        f"jobset.sigs.k8s.io/jobset-name={jobs[0].name},jobset.sigs.k8s.io/job-index=0,"
        "batch.kubernetes.io/job-completion-index=0",
        f"to stop it, saved, or to start it again once it has ended: kubectl delete jobset {jobs[0].name}{where} "
        "--cascade=foreground, which waits for its pods; then the same command continues it",
    )
    command = ("kubectl", "apply", *namespace, "--filename", f"{FOLDER}/{file}")
    return Rendering((File(file, to_yaml(documents)),), (command,), notes)


def to_yaml(documents: Sequence[Tree]) -> str:
    """Documents as YAML that any reader takes for the same."""
    import yaml

    style = {"Dumper": _dumper(yaml), "sort_keys": False, "allow_unicode": True, "width": 118}
    return "---\n".join(yaml.dump(document, **style) for document in documents)


def _dumper(yaml: Any) -> Any:
    """A safe dumper that writes every list and map in full, where they stand: no anchors."""

    class Dumper(yaml.SafeDumper):  # type: ignore[misc, name-defined, unused-ignore]
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        lines = value.split("\n")
        style = "|" if len(lines) > 1 and not any(line.endswith(" ") for line in lines) else None
        if not all(line.isprintable() for line in lines):
            style = '"'  # other styles lose line breaks of other kinds
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def items(dumper: Any, value: list[Any]) -> Any:
        numbers = len(value) > 1 and all(isinstance(item, int) for item in value)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=numbers)

    Dumper.add_representer(str, text)
    Dumper.add_representer(list, items)
    return Dumper


def job_set(job: Job, hardware: TpuSlices | Machines, site: Site) -> Tree:
    """The JobSet of one job: slices are its replicas, hosts of a slice the pods of each."""
    if isinstance(hardware, TpuSlices):
        replicas, hosts, role = hardware.slices, hardware.hosts, _SLICE
        template = _tpu_pod(job, hardware, site)
        # A slice of several hosts is a node pool, and its pods share that with no other slice's. A pool of single hosts
        # has room for as many slices.
        exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
        annotations = exclusive if hosts > 1 else {}
    else:
        replicas, hosts, role = 1, hardware.nodes, _NODE
        template = _gpu_pod(job, hardware, site)
        annotations = {}
    spec = {
        "completionMode": "Indexed",
        "completions": hosts,
        "parallelism": hosts,
        "backoffLimit": 0,
        "podFailurePolicy": pods.failure_policy(),
        "template": template,
    }
    labels = {"app.kubernetes.io/name": "bioclip-jax"}
    labels |= {"kueue.x-k8s.io/queue-name": site.queue} if site.queue else {}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": pods.metadata(job.name, site, labels=labels, annotations=annotations),
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": job.max_restarts,
                "restartStrategy": "BlockingRecreate",  # who is still saving is waited for
                "rules": [
                    {"name": "final", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]},
                ],
            },
            "replicatedJobs": [{"name": role, "replicas": replicas, "template": {"spec": spec}}],
        },
    }


def _variables(job: Job, pools: int) -> list[Tree]:
    patience = {name: value for name, value in _PATIENCE.items() if name not in job.environment} if pools > 1 else {}
    return [pods.env(name, value) for name, value in (*job.environment.items(), *patience.items())]


def _tpu_pod(job: Job, hardware: TpuSlices, site: Site) -> Tree:
    labels = {
        "cloud.google.com/gke-tpu-accelerator": hardware.gke_accelerator,
        "cloud.google.com/gke-tpu-topology": hardware.gke_topology,
    }
    labels |= {"cloud.google.com/reservation-name": site.reservation} if site.reservation else {}
    entries = _variables(job, hardware.slices)
    user = 0 if site.run_as_user < 0 else site.run_as_user
    devices = {"google.com/tpu": hardware.chips_per_host}
    return pods.pod_template(job, site, entries, devices, labels | site.node_labels, user)


def _gpu_pod(job: Job, hardware: Machines, site: Site) -> Tree:
    entries = _variables(job, hardware.nodes)
    if hardware.nodes > 1:
        # The pods find each other by name; process 0 is the first pod of the first job.
        entries += [
            pods.env("JAX_COORDINATOR_ADDRESS", f"{job.name}-{_NODE}-0-0.{job.name}:{PORT}"),
            pods.env("JAX_NUM_PROCESSES", str(hardware.nodes)),
            {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": _INDEX}}},
        ]
    devices = {"nvidia.com/gpu": hardware.gpus_per_node} if hardware.gpus_per_node else {}
    user = pods.IMAGE_USER if site.run_as_user < 0 else site.run_as_user
    return pods.pod_template(job, site, entries, devices, site.node_labels, user)
