"""The other processes of a run: noticing who is gone, and leaving without waiting for the dead.

Every process shows a sign of life every few seconds through JAX's coordination service. One that sees a peer silent for
too long says so in a line and ends with exit code 42, whatever its devices wait for: all processes are then started
again together. One that hears that a peer has failed ends with that peer's exit code, as a restart would not mend it.
Where there is one process only, nothing here does anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

import jax
from jax._src import distributed  # the coordination service has no public door; Orbax takes this one, too

from bioclip_jax.errors import UserError
from bioclip_jax.parallel.distributed import RUN_AGAIN, answers, seconds_of

PATIENCE_VARIABLE, PATIENCE_SECONDS = "BIOCLIP_JAX_PEER_SECONDS", 60.0
"""How long a peer may be silent."""
_BEATS = 12  # signs of life within that time
_PREFIX = "bioclip_jax/peers/"
_GOOD_BYE, _FAILED = "left", "failed"  # the latter with the exit code
_LASTING = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
"""How errors of JAX's runtime begin that come again."""
_SIGNALLED = 128  # and more: ended by a signal, or asked to
_CALLED_BY_C: list[Any] = []
_NO_ANSWER = "process 0 does not answer any more"


class Peers:
    """Watches the others for as long as it is entered.

    Attributes:
        agreed: all processes end now and know it, so that none of them takes another's leave for a failure.
    """

    def __init__(self) -> None:
        self.count, self.here = jax.process_count(), jax.process_index()
        self.agreed = False
        self._patience = seconds_of(PATIENCE_VARIABLE, PATIENCE_SECONDS)
        self._client: Any = distributed.global_state.client
        self._seen: dict[str, tuple[str, float]] = {}
        self._left = threading.Event()
        self._speaking = threading.Lock()
        self._bearable = self._patience
        self._exit_code = 0

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and speaks for all."""
        return self.here == 0

    def __enter__(self) -> Peers:
        if self.count > 1:
            if not self.is_first:
                _CALLED_BY_C.append(_on_abort(self._judge_abort))
            threading.Thread(target=self._watch, name="peers", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.count == 1:
            return
        if error is not None and not self.agreed:
            self._leave_at_once(error)
        self._exit_code = error.exit_code if isinstance(error, UserError) else 0
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # this process is done, whatever became of the first
            self._await_others()

    def _await_others(self) -> None:
        self._say_last(_GOOD_BYE)
        deadline = time.monotonic() + self._patience
        # The first process is the door of the coordination service, so it is the last to go.
        while self.is_first and time.monotonic() < deadline:
            if sum(value.startswith((_GOOD_BYE, _FAILED)) for value in self._states().values()) == self.count:
                break
            time.sleep(0.05)

    def _leave_at_once(self, error: BaseException) -> NoReturn:
        """Ends this process: a regular end would wait for computations that peers will never finish."""
        if not isinstance(error, UserError | KeyboardInterrupt):
            # Most often it is a peer's death that shows here; the watch ends the process if it finds one.
            self._bearable = 4 * self._patience / _BEATS
            time.sleep(6 * self._patience / _BEATS)
        code = _exit_code(error)
        try:
            self._say_last(f"{_FAILED} {code}")
        except jax.errors.JaxRuntimeError:
            self._end_for(_NO_ANSWER)
        if isinstance(error, UserError):
            # Names in files may hold anything, and a terminal obeys some of it.
            text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(error))
            print(f"error: {text}", file=sys.stderr)
        elif isinstance(error, KeyboardInterrupt):
            print("interrupted", file=sys.stderr)
        else:
            traceback.print_exception(error)
        if self.is_first:
            time.sleep(2 * self._patience / _BEATS)  # until the others have read why
        _end(code)

    def _watch(self) -> None:
        beat = self._patience / _BEATS
        heard = time.monotonic()
        number = 0
        while not self._left.wait(beat if number else 0):
            number += 1
            try:
                with self._speaking:  # or a number could follow the last word
                    if not self._left.is_set():
                        self._say(str(number))
                states = self._states()
                heard = time.monotonic()
            except jax.errors.JaxRuntimeError:
                if time.monotonic() - heard > 3 * beat and not self._left.is_set():
                    self._end_for(_NO_ANSWER)
                continue
            self._judge(states)

    def _judge(self, states: dict[str, str]) -> None:
        now = time.monotonic()
        for index, state in states.items():
            if self._seen.get(index, ("", 0.0))[0] != state:
                self._seen[index] = (state, now)
            if self._left.is_set() or state == _GOOD_BYE:
                continue
            if state.startswith(_FAILED) and now - self._seen[index][1] > 2 * self._patience / _BEATS:
                # By now this process would have its own word for what all of them agreed on.
                self._end_for(f"process {index} stopped: see its output")
            silent = now - self._seen[index][1]
            if silent > self._bearable:
                self._end_for(f"process {index} has given no sign of life for {silent:.0f} s")

    def _judge_abort(self, number: int) -> None:
        """Called where JAX aborts the process, as it does the moment that it loses process 0."""
        if self._left.is_set():  # process 0 was quicker to leave
            _end(self._exit_code)
        if not answers(distributed.global_state.coordinator_address or ""):
            self._end_for(_NO_ANSWER)

    def _end_for(self, reason: str) -> NoReturn:
        # Whoever loses process 0 may have heard before why it, or another one, went.
        words = [state.split() for state, _ in self._seen.values() if state.startswith(_FAILED)]
        codes = [int(code) for _, code in words if int(code) < _SIGNALLED and int(code) != RUN_AGAIN]
        again = "; start all processes again, and they continue from the last checkpoint" if not codes else ""
        print(f"error: {reason}{again}", file=sys.stderr)
        _end(max(codes, default=RUN_AGAIN))

    def _say_last(self, state: str) -> None:
        with self._speaking:
            self._left.set()
            self._say(state)

    def _say(self, state: str) -> None:
        self._client.key_value_set(f"{_PREFIX}{self.here}", state, allow_overwrite=True)

    def _states(self) -> dict[str, str]:
        return {key.rpartition("/")[2]: value for key, value in self._client.key_value_dir_get(_PREFIX)}


def _exit_code(error: BaseException) -> int:
    """What ends the process says whether a restart may mend it, as it may a device or a network that failed."""
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, jax.errors.JaxRuntimeError) and not str(error).startswith(_LASTING):
        return RUN_AGAIN
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _on_abort(function: Callable[[int], None]) -> Any:
    """Has C call `function` for SIGABRT: Python's own handlers come too late. It has to outlive the process."""
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(function)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
    return handler


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
