"""Rendered JobSets against the schemas of Kubernetes and of JobSet, and what they promise."""

import json
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from bioclip_jax.launching.hardware import TpuSlices
from bioclip_jax.launching.job import RESTARTED, Job, parse_work_dir
from bioclip_jax.launching.jobset import job_set
from bioclip_jax.launching.site import Site

pytestmark = pytest.mark.core

HERE = Path(__file__).parent
SITE = HERE.parents[1] / "launch" / "site.example.yaml"
JOB_SETS = sorted(path.stem for path in (HERE / "goldens").glob("*.txt") if "kind: JobSet" in path.read_text())
VERSION = "1.31"
"""Of Kubernetes: the oldest that a cloud still ran at the end of 2026."""


def documents(golden: str) -> list[dict]:
    text = (HERE / "goldens" / f"{golden}.txt").read_text()
    return list(yaml.safe_load_all(text.partition("# ---------- to start it")[0]))


def only_job_set(golden: str) -> dict:
    (found,) = [document for document in documents(golden) if document["kind"] == "JobSet"]
    return found


def job_spec(job_set: dict) -> dict:
    return job_set["spec"]["replicatedJobs"][0]["template"]["spec"]


def pod_spec(job_set: dict) -> dict:
    return job_spec(job_set)["template"]["spec"]


@pytest.mark.parametrize("golden", JOB_SETS)
def test_objects_are_valid(golden):
    schema = json.loads((HERE / "jobset.schema.json").read_text())
    for document in documents(golden):
        if document["kind"] == "JobSet":
            jsonschema.validate(document, schema)
            # The templates inside are Kubernetes' own.
            for one in document["spec"]["replicatedJobs"]:
                job = {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "metadata": {"name": one["name"]},
                    "spec": one["template"]["spec"],
                }
                kubernetes_validate.validate(job, VERSION, strict=True)
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)


def test_schema_of_job_sets_refuses_what_their_documentation_does_not_have():
    schema = json.loads((HERE / "jobset.schema.json").read_text())
    wrong = only_job_set("gke_jobset")
    wrong["spec"]["failurePolicy"]["maxRestart"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxRestart"):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("golden", JOB_SETS)
def test_names_are_short_enough_for_what_is_appended_to_them(golden):
    for document in documents(golden):
        if document["kind"] == "JobSet":
            (one,) = document["spec"]["replicatedJobs"]
            indexes = f"-{one['replicas'] - 1}-{job_spec(document)['completions'] - 1}"
            last = f"{document['metadata']['name']}-{one['name']}{indexes}"
            assert len(last) + len("-abcde") <= 63


@pytest.mark.parametrize("golden", JOB_SETS)
def test_every_mounted_volume_is_there_and_the_grace_period_is_longer_than_half_a_minute(golden):
    for document in documents(golden):
        if document["kind"] == "JobSet":
            pod = pod_spec(document)
            mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
            assert pod["terminationGracePeriodSeconds"] >= 120


def test_slices_are_replicas_and_hosts_are_pods_of_them():
    one, two = only_job_set("gke_jobset"), only_job_set("gke_jobset_slices")
    assert one["spec"]["replicatedJobs"][0]["replicas"] == 1
    assert job_spec(one)["completions"] == job_spec(one)["parallelism"] == 64
    assert two["spec"]["replicatedJobs"][0]["replicas"] == 2
    assert job_spec(two)["completions"] == 16
    assert pod_spec(two)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "8x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert pod_spec(two)["containers"][0]["resources"]["limits"] == {"google.com/tpu": 4}


def test_slices_of_several_hosts_have_a_node_pool_of_their_own_and_single_hosts_share_one():
    site = Site(image="image")
    job = Job("run", "demo", parse_work_dir("gs://my-bucket/run"))
    several, single = (job_set(job, TpuSlices("v5e", shape), site) for shape in ((4, 4), (2, 4)))
    exclusive = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    assert several["metadata"]["annotations"] == exclusive
    assert "annotations" not in single["metadata"]
    assert pod_spec(single)["containers"][0]["resources"]["limits"] == {"google.com/tpu": 8}


def test_spot_pods_go_to_spot_nodes_and_bear_their_taint():
    spot = pod_spec(only_job_set("gke_jobset_slices"))
    taint = {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    assert taint in spot["tolerations"]
    assert taint not in pod_spec(only_job_set("gke_jobset"))["tolerations"]


def acts_on(job_set: dict, exit_code: int, *, disrupted: bool = False) -> str:
    """What becomes of a run one of whose pods ends so, by the documented meaning of the fields."""
    job = job_spec(job_set)
    for rule in job["podFailurePolicy"]["rules"]:
        if "onPodConditions" in rule:
            matches = disrupted and rule["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
        else:
            listed = exit_code in rule["onExitCodes"]["values"]
            matches = not listed if rule["onExitCodes"]["operator"] == "NotIn" else listed
        if matches:
            reason = {"FailJob": "PodFailurePolicy", "Count": "BackoffLimitExceeded"}[rule["action"]]
            break
    else:
        reason = "BackoffLimitExceeded"
    assert job["backoffLimit"] == 0
    (policy,) = job_set["spec"]["failurePolicy"]["rules"]
    return policy["action"] if reason in policy["onJobFailureReasons"] else "RestartJobSet"


@pytest.mark.parametrize("golden", ["gke_jobset", "k8s_gpu"])
def test_exit_codes_decide_whether_a_run_is_started_again(golden):
    job_set = only_job_set(golden)
    assert {acts_on(job_set, code) for code in (42, 137, 143, 139)} == {"RestartJobSet"}
    assert {acts_on(job_set, code) for code in (1, 2, 126, 127)} == {"FailJobSet"}
    assert acts_on(job_set, 1, disrupted=True) == "RestartJobSet"
    assert job_set["spec"]["failurePolicy"]["maxRestarts"] == 50
    assert set(RESTARTED) == {42, *range(129, 256)}


def test_processes_on_gpus_find_the_first_by_its_name():
    job_set = only_job_set("k8s_gpu")
    name = job_set["metadata"]["name"]
    entries = {entry["name"]: entry for entry in pod_spec(job_set)["containers"][0]["env"]}
    # hostname: <jobSet.name>-<replicatedJob.name>-<job-index>-<pod-index>.<subdomain>, the latter being the set's name
    assert entries["JAX_COORDINATOR_ADDRESS"]["value"].startswith(f"{name}-node-0-0.{name}:")
    assert entries["JAX_NUM_PROCESSES"]["value"] == str(job_spec(job_set)["completions"]) == "4"
    path = entries["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert path == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert job_set["spec"]["network"]["enableDNSHostnames"] is True


def test_bucket_is_mounted_without_memory_of_what_other_hosts_have_changed():
    pod = pod_spec(only_job_set("k8s_gpu"))
    annotations = job_spec(only_job_set("k8s_gpu"))["template"]["metadata"]["annotations"]
    assert annotations["gke-gcsfuse/volumes"] == "true"
    assert {annotations[f"gke-gcsfuse/{name}-limit"] for name in ("cpu", "memory", "ephemeral-storage")} == {"0"}
    (bucket,) = [volume["csi"] for volume in pod["volumes"] if "csi" in volume]
    options = bucket["volumeAttributes"]["mountOptions"].split(",")
    assert {"implicit-dirs", "metadata-cache:ttl-secs:0", "metadata-cache:negative-ttl-secs:0", "uid=1000"} <= set(
        options
    )
    assert "--work-dir" in pod["containers"][0]["args"]
    assert "/gcs/my-bucket/runs/first" in pod["containers"][0]["args"]


def test_config_file_of_the_user_is_what_the_pods_read():
    config, job_set = documents("gke_jobset_slices")
    assert config["data"]["config.py"].startswith("from bioclip_jax.config import")
    pod = pod_spec(job_set)
    volume = next(volume for volume in pod["volumes"] if "configMap" in volume)
    assert volume["configMap"]["name"] == config["metadata"]["name"]
    assert "/etc/bioclip-jax/config.py" in pod["containers"][0]["args"]


def test_every_point_of_a_sweep_is_a_job_set_with_a_folder_of_its_own():
    sets = [document for document in documents("k8s_gpu_sweep") if document["kind"] == "JobSet"]
    folders = [pod_spec(one)["containers"][0]["args"][4] for one in sets]
    assert len(sets) == len(set(folders)) == len({one["metadata"]["name"] for one in sets}) == 2
    assert all(folder.startswith("/disk/runs/sweep/") for folder in folders)
