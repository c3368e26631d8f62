"""Starts the processes of a run together, and starts all of them again where a cluster's scheduler would.

What becomes of them, by how they end:

    all with 0                       done: 0
    one with 42, or by a signal *    the others get SIGTERM, then SIGKILL, and all are started again, so often; then 1
    one with anything else           the others are ended likewise, and its code is that of the whole
    the supervisor gets SIGTERM      all get SIGTERM, as in a pod that is evicted: 42
    the supervisor gets Ctrl-C       all get it: 130; at the third they are killed
    * or with more than 128, as shells and containers report signals

Nothing outlives the supervisor, not even if it is killed (`guard`).
"""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple

from bioclip_jax.errors import UsageError
from bioclip_jax.launching.guard import Guard, kill_group

RUN_AGAIN, INTERRUPTED, FAILED = 42, 130, 1
"""Exit codes. The first is the trainer's, as `bioclip_jax.parallel.distributed` has it, which needs JAX."""
_KILLED_AT = 3  # so many Ctrl-C
_SIGNALLED = 128  # and the signal's number is the exit code of shells and containers
_LONGEST_LINE = 2**16  # bytes; who writes without line breaks shall not fill the memory
_LONGEST_GRACE = 1e6  # seconds; what waits for a time takes no number however large


@dataclass(frozen=True)
class Policy:
    """How often and how patiently."""

    max_restarts: int = 3
    grace_seconds: float = 120.0
    """Between SIGTERM (or Ctrl-C) and SIGKILL; longer than one save takes, and than a lost peer is waited for."""
    settle_seconds: float = 5.0
    """After the first process has failed: what the others have to say, and to end by themselves, before SIGTERM."""

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise UsageError(f"--max-restarts is {self.max_restarts}; it has to be 0 or more")
        if not 0 < self.grace_seconds <= _LONGEST_GRACE:
            raise UsageError(
                f"--grace-seconds is {self.grace_seconds}; it has to be above 0, and at most {_LONGEST_GRACE:.0f}"
            )


class Command(NamedTuple):
    """What one process is started with."""

    arguments: Sequence[str]
    environment: Mapping[str, str]


class _Ended(NamedTuple):
    process: int
    code: int
    """Negative: the signal that ended it."""


class _Asked(NamedTuple):
    number: int
    """Of the signal that the supervisor got."""


Show = Callable[[int | None, str], None]
"""Takes a line and whose it is: a process's number, or None for the supervisor itself."""


class Supervisor:
    """Runs sets of processes one after the other, while it is entered (in the main thread, whose signals it takes).

    Attributes:
        is_stopped: somebody asked for an end, so that nothing further is to be started.
    """

    def __init__(self, policy: Policy, show: Show):
        self._policy, self._show = policy, show
        self._events: queue.SimpleQueue[_Ended | _Asked] = queue.SimpleQueue()
        self.is_stopped = False

    def __enter__(self) -> Supervisor:
        self._open = contextlib.ExitStack()
        self._guard = self._open.enter_context(Guard())
        self._open.enter_context(_signals_to(self._events))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self, commands: Callable[[], Sequence[Command]]) -> int:
        """The exit code of the processes that `commands` gives anew for every start, after all restarts."""
        for restarts in range(self._policy.max_restarts + 1):
            if restarts:
                self._show(None, f"starting all processes again ({restarts} of at most {self._policy.max_restarts})")
            code = self._asked_in_between()
            if code is None:
                code = self._attempt(commands())
            if code != RUN_AGAIN or self.is_stopped:
                return code
        times = "once" if self._policy.max_restarts == 1 else f"{self._policy.max_restarts} times"
        again = f"they were started again {times} (--max-restarts), " if self._policy.max_restarts else ""
        self._show(None, f"{again}they stopped before the end; the same command continues")
        return FAILED

    def _asked_in_between(self) -> int | None:
        """The exit code where a signal came while nothing ran: nothing is to be started only to be stopped."""
        try:
            event = self._events.get_nowait()  # processes that ended have been noted, every one
        except queue.Empty:
            return None
        self.is_stopped = True
        number = event.number if isinstance(event, _Asked) else signal.SIGTERM
        self._show(None, f"{signal.Signals(number).name}: nothing is started any more")
        return INTERRUPTED if number == signal.SIGINT else RUN_AGAIN

    def _attempt(self, commands: Sequence[Command]) -> int:
        attempt = _Attempt(self._policy, self._show, self._events, self._guard)
        try:
            attempt.start(commands)
            code = attempt.watch()
        finally:
            attempt.kill()
            self.is_stopped = attempt.asked is not None
        return code


class _Attempt:
    """The processes of one start, from the first to the last that ends."""

    def __init__(self, policy: Policy, show: Show, events: queue.SimpleQueue[_Ended | _Asked], guard: Guard):
        self._policy, self._show, self._events, self._guard = policy, show, events, guard
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []
        self._codes: dict[int, int] = {}
        self._terminate_at: float | None = None
        self._kill_at: float | None = None
        self._are_ending = False
        self._interrupts = 0
        self.asked: int | None = None

    def start(self, commands: Sequence[Command]) -> None:
        """Starts them all; each is the leader of a group, which a terminal's Ctrl-C does not reach by itself."""
        for index, command in enumerate(commands):
            process = subprocess.Popen(
                list(command.arguments),
                env=dict(command.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._processes.append(process)
            self._guard.watch(process.pid for process in self._processes)
            assert process.stdout is not None  # noqa: S101 for the type checker
            self._readers.append(_thread(_read, process.stdout, index, self._show))
            _thread(self._await, index, process)
        pids = ", ".join(f"{index} is {process.pid}" for index, process in enumerate(self._processes))
        self._show(None, f"started {len(commands)} process{'es' if len(commands) > 1 else ''}; process ids: {pids}")

    def watch(self) -> int:
        """Waits for all of them, ends those that have to, and returns what becomes of the whole."""
        while len(self._codes) < len(self._processes):
            event = self._next()
            if isinstance(event, _Ended):
                self._note(event)
            elif isinstance(event, _Asked):
                self._forward(event.number)
            else:
                self._press()
        for reader in self._readers:
            reader.join(self._policy.settle_seconds)
        return verdict(list(self._codes.values()), self.asked)

    def kill(self) -> None:
        """Leaves nothing behind, whatever happened."""
        for index in self._left():  # the others' numbers may be some other process's by now
            kill_group(self._processes[index].pid)
        for process in self._processes:
            process.wait()
        self._guard.watch(())

    def _next(self) -> _Ended | _Asked | None:
        """The next event, or None when a deadline has come first."""
        deadlines = [deadline for deadline in (self._terminate_at, self._kill_at) if deadline is not None]
        try:
            return self._events.get(timeout=max(0.0, min(deadlines) - time.monotonic()) if deadlines else None)
        except queue.Empty:
            return None

    def _note(self, event: _Ended) -> None:
        self._codes[event.process] = event.code
        kill_group(self._processes[event.process].pid)  # workers that it had started
        self._guard.watch(self._processes[index].pid for index in self._left())
        if event.code == 0:
            return
        left = len(self._left())
        others = f"; ending the other {left}" if left and not self._are_ending else ""
        self._show(None, f"process {event.process} {_in_words(event.code)}{others}")
        if not self._are_ending:
            self._are_ending = True
            self._terminate_at = time.monotonic() + self._policy.settle_seconds

    def _left(self) -> list[int]:
        return [index for index in range(len(self._processes)) if index not in self._codes]

    def _forward(self, number: int) -> None:
        self.asked = number if self.asked in (None, number) else signal.SIGTERM
        self._are_ending = True
        self._interrupts += number == signal.SIGINT
        if self._interrupts >= _KILLED_AT:
            self._terminate_at, self._kill_at = None, time.monotonic()
            return
        self._show(None, f"{signal.Signals(number).name}: all processes are asked to save and end")
        self._signal_all(number)

    def _press(self) -> None:
        """A deadline has come."""
        if self._terminate_at is not None:
            self._signal_all(signal.SIGTERM)
            return
        self._show(None, f"process {', '.join(map(str, self._left()))} did not end in time and is killed")
        for index in self._left():
            kill_group(self._processes[index].pid)
        self._kill_at = None

    def _signal_all(self, number: int) -> None:
        # To the process alone, as a pod's: its workers go on for as long as it needs them.
        for index in self._left():
            self._processes[index].send_signal(number)
        self._terminate_at = None
        if self._kill_at is None:
            self._kill_at = time.monotonic() + self._policy.grace_seconds

    def _await(self, index: int, process: subprocess.Popen[bytes]) -> None:
        self._events.put(_Ended(index, process.wait()))


def verdict(codes: Sequence[int], asked: int | None) -> int:
    """What processes that ended with these codes are worth together, and RUN_AGAIN where they should be started again.

    Args:
        codes: in the order in which they ended; negative for a signal.
        asked: the signal that the supervisor got meanwhile, if any.
    """
    failed = [code for code in codes if 0 < code <= _SIGNALLED and code != RUN_AGAIN]
    if not any(codes):
        return 0
    if asked == signal.SIGINT:
        return INTERRUPTED
    return failed[0] if failed else RUN_AGAIN


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was ended by signal {-code}"


def _read(stream: IO[bytes], index: int, show: Show) -> None:
    with stream:
        while line := stream.readline(_LONGEST_LINE):
            # Of a line that was written over and over, a progress bar, what a terminal would show in the end.
            show(index, line.decode(errors="replace").rstrip("\r\n").rpartition("\r")[2])


def _thread(target: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def _signals_to(events: queue.SimpleQueue[_Ended | _Asked]) -> Iterator[None]:
    """Ctrl-C, SIGTERM and the end of the terminal become events; what was ignored (nohup) stays ignored."""

    def put(number: int, _: object) -> None:
        events.put(_Asked(signal.SIGTERM if number == signal.SIGHUP else number))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.getsignal(number) for number in numbers}
    for number, handler in previous.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, put)
    try:
        yield
    finally:
        for number, handler in previous.items():
            if handler is not None:
                signal.signal(number, handler)
