"""Where a process stands among others: by flags, by the environment, or alone; and what is said when that is wrong."""

import subprocess
import sys

import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.parallel import distributed
from bioclip_jax.parallel.distributed import Place, cluster_of, place_of

pytestmark = pytest.mark.core

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
VARIABLES = {"JAX_COORDINATOR_ADDRESS": "a:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


def test_flags_name_a_place_and_variables_do_where_there_are_no_flags():
    assert place_of("host:12", 2, 1, {}) == Place("host:12", 2, 1)
    assert place_of(None, None, None, VARIABLES) == Place("a:1234", 4, 3)
    assert place_of(None, None, 0, VARIABLES) == Place("a:1234", 4, 0)
    assert place_of(None, None, None, {}) is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("host:12", None, None), r"missing is --num-processes \(JAX_NUM_PROCESSES\), --process-id \(JAX_PROCESS_ID\)"),
        (("host", 2, 0), "--coordinator is 'host'; it has to be HOST:PORT"),
        (("host:http", 2, 0), "--coordinator is 'host:http'"),
        (("host:12", 2, 2), "--process-id is 2; with --num-processes 2 the processes are 0 to 1"),
        (("host:12", 0, 0), "--num-processes is '0'; it has to be a number from 1 on"),
        (("host:12", 2, -1), "--process-id is '-1'"),
    ],
)
def test_flags_that_name_no_place_are_refused(flags, message):
    with pytest.raises(UsageError, match=message):
        place_of(*flags, {})


def test_variables_that_are_incomplete_are_the_clusters_business_where_there_is_one():
    some = {"JAX_COORDINATOR_ADDRESS": "a:1234"}
    assert place_of(None, None, None, some | SLURM) is None
    with pytest.raises(UsageError, match="missing is"):
        place_of(None, None, None, some)


def test_pod_that_is_told_its_place_asks_no_cluster_for_it():
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "3"}
    told = VARIABLES | {"JAX_COORDINATOR_ADDRESS": "run-worker-0-0.run:1234"}
    assert place_of(None, None, None, pod | told) == Place("run-worker-0-0.run:1234", 4, 3)


@pytest.mark.parametrize(
    ("environment", "cluster"),
    [
        ({}, None),
        (SLURM, "SLURM"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({name: value for name, value in SLURM.items() if name != "SLURM_STEP_NODELIST"}, None),  # without srun
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, None),  # without a TPU
    ],
)
def test_cluster_is_known_by_what_it_sets(environment, cluster):
    assert cluster_of(environment) == cluster


@pytest.mark.parametrize(
    ("environment", "cluster"),
    [
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, "GKE"),
        ({"TPU_WORKER_HOSTNAMES": "a", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_COORDINATOR_ADDRESS": "b:1"}, "GKE"),
        ({}, distributed.TPU_VM),
    ],
)
def test_tpus_are_one_of_many_hosts_where_the_environment_says_so(monkeypatch, environment, cluster):
    monkeypatch.setattr(distributed, "_has_tpu", lambda: True)
    assert cluster_of(environment) == cluster


def test_a_slurm_process_alone_on_its_node_takes_all_of_its_gpus():
    node = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    assert distributed._all_gpus_of_node(node) == list(range(8))
    assert distributed._all_gpus_of_node(node | {"SLURM_NTASKS": "16"}) is None


def test_port_that_is_taken_is_one_line():
    import socket

    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=r"process 0 cannot listen there .*choose another port"):
            distributed._require_free_port(f"localhost:{port}")


# The second is a pod that has no address yet: its name is waited for, too.
@pytest.mark.parametrize("coordinator", ["127.0.0.1:9", "run-worker-0-0.run.invalid:1234"])
def test_coordinator_that_does_not_answer_ends_the_process_with_one_line(coordinator):
    program = f"from bioclip_jax.parallel.distributed import *; start(Place({coordinator!r}, 2, 1), seconds=1)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 42
    assert f"error: the coordinator at {coordinator} did not answer in 1 s" in done.stderr
