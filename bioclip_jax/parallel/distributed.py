"""Starts JAX on many hosts: from flags, from the environment, from what a cluster says, or not at all.

`start` comes before anything that touches a device. What goes wrong in it is one line, and it never waits for ever.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax

from bioclip_jax.errors import UsageError, UserError

RUN_AGAIN = 42
"""Exit code of a process that should be started again by whoever started it, all others with it."""
START_VARIABLE, START_SECONDS = "BIOCLIP_JAX_START_SECONDS", 300.0
"""How long the processes wait for each other at the start."""
VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_FLAGS = ("--coordinator", "--num-processes", "--process-id")
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_TPU_HOSTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a process stands among all of them."""

    coordinator: str
    """HOST:PORT at which process 0 listens."""
    num_processes: int
    process_id: int


def seconds_of(variable: str, default: float) -> float:
    """What an environment variable says, in seconds.

    Raises:
        UsageError: it is no positive number.
    """
    text = os.environ.get(variable, str(default))
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{variable} is {text!r}; it has to be a positive number of seconds")
    return seconds


def start(place: Place | None = None, cluster: str | None = None, seconds: float | None = None) -> None:
    """Joins the processes of a run, from a `place` or by what `cluster` says; neither: this process is alone.

    A process whose peers do not come ends with exit code 42 after so many seconds: those of BIOCLIP_JAX_START_SECONDS,
    or 300, if not given.

    Raises:
        UsageError: BIOCLIP_JAX_START_SECONDS is no positive number.
        UserError: process 0 cannot listen at its port, or a cluster does not say what it should.
    """
    if place is None and cluster is None:
        return
    seconds = seconds_of(START_VARIABLE, START_SECONDS) if seconds is None else seconds
    # JAX's own service would take SIGTERM; the loop agrees on a step to stop at by itself.
    jax.config.update("jax_enable_preemption_service", False)
    # A peer that dies is noticed by `Peers`; JAX would abort this process without a word that a user understands.
    jax.config.update("jax_enable_recoverability", True)
    where = f"at {place.coordinator}" if place else f"that {cluster} names"
    with _giving_up(place, where, seconds):
        if place is not None:
            if place.process_id == 0:
                _require_free_port(place.coordinator)
            jax.distributed.initialize(
                place.coordinator,
                place.num_processes,
                place.process_id,
                cluster_detection_method="deactivate",
                initialization_timeout=int(seconds) + 60,
            )
            return
        try:
            jax.distributed.initialize(
                local_device_ids=_all_gpus_of_node(os.environ), initialization_timeout=int(seconds) + 60
            )
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            if cluster == TPU_VM and "coordinator_address" in str(error):
                return  # one host, which has no list of workers
            raise UserError(
                f"{cluster} seems to run this process, but does not say where its peers are ({error}); "
                f"give {', '.join(_FLAGS)}"
            ) from None


def stop() -> None:
    """Leaves the other processes, once all of them have said good-bye (`Peers`). Nothing can be exchanged after."""
    if jax.distributed.is_initialized():
        jax.distributed.shutdown()


def place_of(
    coordinator: str | None,
    num_processes: int | None,
    process_id: int | None,
    environment: Mapping[str, str] = os.environ,
) -> Place | None:
    """The place that flags give, and environment variables where there is no flag; None if there are neither.

    Raises:
        UsageError: some of them are missing, or one makes no sense.
    """
    flags = (coordinator, num_processes, process_id)
    values = [environment.get(name) if flag is None else str(flag) for flag, name in zip(flags, VARIABLES, strict=True)]
    given = [value for value in values if value is not None]
    if not given or (flags == (None, None, None) and len(given) < 3 and cluster_of(environment)):
        return None
    if len(given) < 3:
        missing = [f"{f} ({v})" for f, v, value in zip(_FLAGS, VARIABLES, values, strict=True) if value is None]
        raise UsageError(f"several processes need {', '.join(_FLAGS)}; missing is {', '.join(missing)}")
    address, count, index = given
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise UsageError(f"{_FLAGS[0]} is {address!r}; it has to be HOST:PORT, the same for all processes")
    numbers = {}
    for flag, value, low in ((_FLAGS[1], count, 1), (_FLAGS[2], index, 0)):
        if not value.isdigit() or int(value) < low:
            raise UsageError(f"{flag} is {value!r}; it has to be a number from {low} on")
        numbers[flag] = int(value)
    if numbers[_FLAGS[2]] >= numbers[_FLAGS[1]]:
        raise UsageError(f"{_FLAGS[2]} is {index}; with {_FLAGS[1]} {count} the processes are 0 to {int(count) - 1}")
    return Place(address, numbers[_FLAGS[1]], numbers[_FLAGS[2]])


TPU_VM = "the TPU VM"


def cluster_of(environment: Mapping[str, str] = os.environ) -> str | None:
    """What runs this process among others as far as JAX can tell, in words; None where it runs alone."""
    if all(name in environment for name in _SLURM) and int(environment["SLURM_NTASKS"]) > 1:
        return "SLURM"
    if int(environment.get("OMPI_COMM_WORLD_SIZE", "1")) > 1 and "OMPI_MCA_orte_hnp_uri" in environment:
        return "Open MPI"
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment and not _has_tpu():
        return "Kubernetes" if importlib.util.find_spec("kubernetes") else None
    if not _has_tpu():
        return None
    if any("," in environment.get(name, "") for name in _TPU_HOSTS) or "MEGASCALE_COORDINATOR_ADDRESS" in environment:
        return "GKE"
    # Only a TPU VM's metadata say whether it has peers; a container that has the variables needs not ask.
    return None if any(environment.get(name) for name in _TPU_HOSTS) else TPU_VM


def _has_tpu() -> bool:
    return importlib.util.find_spec("libtpu") is not None and any(
        folder.is_dir() and any(folder.glob(pattern))
        for folder, pattern in ((Path("/dev"), "accel[0-9]*"), (Path("/dev/vfio"), "[0-9]*"))
    )


def _all_gpus_of_node(environment: Mapping[str, str]) -> list[int] | None:
    """JAX takes one GPU for each SLURM process, also where there is one process for all of a node's."""
    nodes, gpus = environment.get("SLURM_STEP_NUM_NODES"), environment.get("SLURM_GPUS_ON_NODE", "")
    alone = nodes is not None and nodes == environment.get("SLURM_NTASKS")
    return list(range(int(gpus))) if alone and gpus.isdigit() else None


def _require_free_port(coordinator: str) -> None:
    port = int(coordinator.rpartition(":")[2])
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError, AttributeError):
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise UserError(
                f"{_FLAGS[0]} {coordinator}: process 0 cannot listen there ({error.strerror}); choose another port"
            ) from None


@contextlib.contextmanager
def _giving_up(place: Place | None, where: str, seconds: float) -> Iterator[None]:
    """Ends the process with a line after so many seconds: JAX would abort it."""

    def give_up() -> None:
        if place is not None and place.process_id and not answers(place.coordinator):
            reason = (
                f"the coordinator {where} did not answer in {seconds:.0f} s; is process 0 there, and the port open?"
            )
        else:
            reason = f"not all processes came to the coordinator {where} in {seconds:.0f} s; see the others' output"
        print(f"error: {reason}", file=sys.stderr, flush=True)
        os._exit(RUN_AGAIN)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def answers(address: str) -> bool:
    """Whether anything listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=2):
            return True
    except OSError:
        return False
