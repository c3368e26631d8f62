"""Rehearses a run, or the runs of a sweep, on this machine: the processes of a cluster on CPU devices.

Every process is `bioclip-jax train` and finds its place by the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID, as a pod does; they exchange by Gloo. What they say is shown with their numbers and kept in
logs/process-NUMBER.log of the work directory.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from bioclip_jax.config_json import to_json
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.launching.supervise import Command, Policy, Supervisor
from bioclip_jax.launching.sweep import Point

LOGS = "logs"
_CONFIG, _LAST_FILE = "config.json", "file_sums.json"  # the trainer's; its modules need JAX
_HERE = "127.0.0.1"
_PORTS = range(20_000, 32_768)  # below those that systems give to outgoing connections
_MOST_PENDING = 1_000  # lines that are kept until there is a file for them
_ONE_THREAD_EACH = "--xla_cpu_multi_thread_eigen=false"


@dataclass(frozen=True)
class Rehearsal:
    """The machine that is played."""

    processes: int = 2
    devices_per_process: int = 1

    def __post_init__(self) -> None:
        for flag, value in (("--processes", self.processes), ("--devices-per-process", self.devices_per_process)):
            if value < 1:
                raise UsageError(f"{flag} is {value}; it has to be 1 or more")


def rehearse(points: Sequence[Point], fields: Sequence[str], rehearsal: Rehearsal, policy: Policy) -> int:
    """Trains the points one after the other and returns the exit code of the whole.

    Of a sweep, finished points are passed over, and a point that fails does not keep the others from their turn.

    Args:
        points: of a sweep, or a single one.
        fields: of the config, as flags of `bioclip-jax train`; for all points.
        rehearsal: how many processes, and devices of each.
        policy: of restarts.

    Returns:
        0, 42 after SIGTERM, 130 after Ctrl-C; of a single run its own code, of a sweep 1 where points have failed.
    """
    screen = Screen(sys.stderr)
    failed: list[str] = []
    with Supervisor(policy, screen.show) as supervisor:
        for number, point in enumerate(points):
            if point.variant:
                where = f"{point.variant} ({number + 1} of {len(points)})"
                if is_finished(point):
                    screen.show(None, f"{where}: finished before")
                    continue
                screen.show(None, where)
            with screen.logged(Path(point.work_dir), rehearsal.processes):
                code = supervisor.run(partial(_commands_at_a_free_port, point, fields, rehearsal))
            if supervisor.is_stopped or not point.variant:
                return code
            if code:
                failed.append(point.variant)
    if failed:
        screen.show(None, f"{len(failed)} of {len(points)} points failed: {', '.join(failed)}")
    return 1 if failed else 0


def _commands_at_a_free_port(point: Point, fields: Sequence[str], rehearsal: Rehearsal) -> list[Command]:
    return commands(point, fields, rehearsal, free_port())


def commands(
    point: Point,
    fields: Sequence[str],
    rehearsal: Rehearsal,
    port: int,
    environment: Mapping[str, str] = os.environ,
) -> list[Command]:
    """What the processes are started with, to meet at a port of this machine."""
    arguments = [sys.executable, "-m", "bioclip_jax.cli", "train", point.argument, "--work-dir", point.work_dir]
    common = {
        "XLA_FLAGS": _ONE_THREAD_EACH,  # many devices share few cores, and could wait for each other's threads
        **environment,
        "JAX_PLATFORMS": "cpu",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
        "JAX_NUM_CPU_DEVICES": str(rehearsal.devices_per_process),
        "JAX_COORDINATOR_ADDRESS": f"{_HERE}:{port}",
        "JAX_COORDINATOR_BIND_ADDRESS": f"{_HERE}:{port}",
        "JAX_NUM_PROCESSES": str(rehearsal.processes),
        "PYTHONUNBUFFERED": "1",
    }
    if any(name.lower().endswith("_proxy") for name in environment):  # the processes would look for each other there
        common["no_grpc_proxy"] = _HERE
    return [
        Command([*arguments, *fields], common | {"JAX_PROCESS_ID": str(index)}) for index in range(rehearsal.processes)
    ]


def free_port() -> int:
    """A port of this machine at which nobody listens."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as listener:
            try:
                listener.bind((_HERE, port))
            except OSError:
                continue
            return port
    raise UserError(f"no free port was found between {_PORTS[0]} and {_PORTS[-1]}")


def is_finished(point: Point) -> bool:
    """Whether the work directory holds the last checkpoint of exactly this config; if in doubt, the trainer decides."""
    folder = Path(point.work_dir)
    try:
        before = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    last = folder / "checkpoints" / str(point.config.total_steps) / _LAST_FILE
    return before == json.loads(to_json(point.config)) and last.is_file()


class Screen:
    """Shows what processes say, and keeps it in files as long as a work directory is given."""

    def __init__(self, stream: TextIO):
        self._stream: TextIO | None = stream
        self._logs: list[_Log] = []
        self._lock = threading.Lock()

    @contextmanager
    def logged(self, work_dir: Path, processes: int) -> Iterator[None]:
        """What processes say while inside is kept in the work directory."""
        self._logs = [_Log(work_dir, index) for index in range(processes)]
        try:
            yield
        finally:
            for log in self._logs:
                log.close()
            self._logs = []

    def show(self, index: int | None, line: str) -> None:
        """A line of a process, or of the supervisor (None), which stands in the first log."""
        text = f"rehearsal: {line}" if index is None else f"[{index}] {line}"
        with self._lock:
            if self._stream is not None:
                try:
                    print(text, file=self._stream, flush=True)
                except (OSError, ValueError):  # nobody looks any more; the run goes on
                    self._stream = None
            if (index or 0) < len(self._logs):
                self._logs[index or 0].write(text if index is None else line)


class _Log:
    """One process's file. Nothing is written before the trainer has claimed the directory, which may be another's."""

    def __init__(self, work_dir: Path, index: int):
        self._claim, self._path = work_dir / _CONFIG, work_dir / LOGS / f"process-{index}.log"
        self._before = _version(self._claim)
        self._file: BinaryIO | None = None
        self._pending: deque[str] = deque(maxlen=_MOST_PENDING)

    def write(self, line: str) -> None:
        self._pending.append(line)
        self._flush()

    def close(self) -> None:
        self._flush()
        if self._file is not None:
            self._file.close()

    def _flush(self) -> None:
        with suppress(OSError):  # the screen has it
            # The trainer writes the config anew whenever it takes a directory, and not where it refuses one.
            if self._file is None and _version(self._claim) not in (None, self._before):
                self._path.parent.mkdir(exist_ok=True)
                self._file = self._path.open("ab", buffering=0)  # a full disk loses lines, and repeats none
            if self._file is not None and self._pending:
                text = "".join(f"{line}\n" for line in self._pending)
                self._pending.clear()
                self._file.write(text.encode(errors="backslashreplace"))


def _version(path: Path) -> tuple[int, int] | None:
    """Differs whenever a file was replaced; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
