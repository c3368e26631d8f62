"""Asks compilers: a process for each question, so many at once, and none for what is known already."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.planning.cache import AnswerCache
from bioclip_jax.planning.question import Question, Reply

_CHILD = "from bioclip_jax.planning.child import main; main()"
_DETAILS = 5  # last lines of a compiler that died


class Watcher(Protocol):
    """Is told what happens; from several threads."""

    def started(self, question: Question) -> None:
        """A process compiles."""

    def ended(self, question: Question, reply: Reply | None) -> None:
        """It is done; without a reply it failed."""

    def known(self, question: Question) -> None:
        """Nothing had to be compiled."""


class Compilers:
    """Replies to questions, from the cache or from a child process. Close it to end all processes.

    Args:
        cache: what is known already.
        jobs: processes at a time; each takes two or three GB of memory.
        again: ask even what is known.
        watcher: is told what happens.
        run: what compiles; for tests.
    """

    def __init__(
        self,
        cache: AnswerCache,
        jobs: int,
        watcher: Watcher,
        *,
        again: bool = False,
        run: Callable[[Question, _Children], Reply] | None = None,
    ):
        if jobs < 1:
            raise UsageError(f"--jobs is {jobs}; there has to be at least one")
        self._cache, self._again, self._watcher, self._run = cache, again, watcher, run or _run
        self._free, self._children = threading.Semaphore(jobs), _Children()
        self.jobs = jobs
        self._asked: dict[str, threading.Lock] = {}
        self._replies: dict[str, Reply] = {}
        self._lock = threading.Lock()

    def ask(self, question: Question) -> Reply:
        """What the compiler says; safe from several threads, of which one asks and the others wait.

        Raises:
            UserError: the question makes no sense to the compiler, it is not installed, or it died.
        """
        key = question.to_json()
        with self._lock:
            one_at_a_time = self._asked.setdefault(key, threading.Lock())
        with one_at_a_time:
            if key not in self._replies:
                self._replies[key] = self._reply(question)
            return self._replies[key]

    def _reply(self, question: Question) -> Reply:
        known = None if self._again else self._cache.get(question)
        if known is not None:
            self._watcher.known(question)
            return known
        reply = None
        with self._free:
            self._watcher.started(question)
            try:
                reply = self._run(question, self._children)
            finally:
                self._watcher.ended(question, reply)
        if not reply.answer.lacks:
            self._cache.put(question, reply)
        return reply

    def close(self) -> None:
        """Ends what still compiles; whoever waits for it gets an error."""
        self._children.end()

    def __enter__(self) -> Compilers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Children:
    """Processes that must not outlive this one's interest in them."""

    def __init__(self) -> None:
        self._lock, self._running, self._ended = threading.Lock(), set[subprocess.Popen[str]](), False

    def start(self, arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
        with self._lock:
            if self._ended:
                raise UserError("interrupted")
            pipe = subprocess.PIPE
            child = subprocess.Popen(
                arguments,
                stdin=pipe,
                stdout=pipe,
                stderr=pipe,
                env=environment,
                text=True,
                errors="replace",
                process_group=0,  # it ends with what it starts
            )
            self._running.add(child)
        return child

    def remove(self, child: subprocess.Popen[str]) -> None:
        with self._lock:
            self._running.discard(child)

    def end(self) -> None:
        with self._lock:
            self._ended = True
            for child in self._running:
                _kill(child)


def _kill(child: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def _run(question: Question, children: _Children) -> Reply:
    """Has a child process answer."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    child = children.start([sys.executable, "-P", "-c", _CHILD], environment)
    try:
        out, err = child.communicate(question.to_json())
    finally:
        children.remove(child)
        if child.poll() is None:
            _kill(child)
            child.wait()
    try:
        content = json.loads(out)
    except ValueError:
        raise _died(question, child.returncode, err) from None
    if "error" in content:
        raise _error(content)
    return Reply.from_json(content["reply"])


def _error(content: dict[str, Any]) -> UserError:
    kind = UsageError if content["kind"] == "usage" else UserError
    error = kind(content["error"])
    error.details = tuple(content["details"])
    return error


def _died(question: Question, code: int, err: str) -> UserError:
    how = f"was ended by {_signal_name(-code)}" if code < 0 else f"ended with code {code}"
    hint = " (out of this machine's memory? try --jobs 1)" if code == -signal.SIGKILL else ""
    lines = tuple(line for line in err.splitlines() if line.strip())[-_DETAILS:]
    said = "; its last lines:" * bool(lines)
    error = UserError(f"topology {question.topology}: the process that compiles {how}{hint}{said}")
    error.details = lines
    return error


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"
