"""Runs the units of work of a build, in this process or in several.

A unit leaves its result in files that appear whole or not at all, so that a build which was stopped or killed knows
what is left to do. The processes are spawned: a fork of a process with threads, such as JAX's, may hang. They end with
this process, however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

import cloudpickle
import cv2

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.progress import RecordProgress

_SECONDS_BETWEEN_COUNTS = 0.1
Item = TypeVar("Item")


class Tally:
    """Counts the records that a unit of work is done with; `report(records, left_out)` hears of it now and then."""

    def __init__(self, report: Callable[[int, int], None]):
        self._report, self._records, self._left_out, self._last = report, 0, 0, time.monotonic()

    def add(self, left_out: bool = False) -> None:
        """One more, which is left out or not."""
        self._records += 1
        self._left_out += left_out
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_COUNTS:
            self.flush()

    def flush(self) -> None:
        """Reports what was not reported yet."""
        self._report(self._records, self._left_out)
        self._records, self._left_out, self._last = 0, 0, time.monotonic()


class Job(Protocol):
    """What is done to each unit: a picklable object, whose result is a file."""

    def __call__(self, unit: Any, tally: Tally, /) -> None:
        """Does one unit."""


class Progress:
    """The bar of a pass: records over all processes, and how many were left out."""

    def __init__(self, bar: RecordProgress):
        self._bar, self._left_out = bar, 0

    def report(self, records: int, left_out: int) -> None:
        """So many more records are done, of which some were left out."""
        self._left_out += left_out
        self._bar.advance(records, note=f"{self._left_out:,} left out" if self._left_out else "")

    def skip(self, records: int, left_out: int) -> None:
        """So many records had been done before, of which some were left out."""
        self._left_out += left_out
        self._bar.skip(records)


def run(job: Job, units: Sequence[Any], workers: int, progress: Progress) -> None:
    """Does all units of work: here if there is one worker, else in that many processes.

    Raises:
      UserError: the job cannot be sent to other processes, or one of them was killed.
      Exception: whatever the first unit that fails raises; the others are given up.
    """
    if workers > 1 and len(units) > 1:
        _run_in_processes(job, units, min(workers, len(units)), progress)
        return
    tally = Tally(progress.report)
    for unit in units:
        job(unit, tally)
        tally.flush()


@contextmanager
def mapped(function: Callable[[int], Item], indices: Iterable[int], threads: int) -> Iterator[Iterator[Item]]:
    """`map` in order, by threads; one thread is this one, which spares what handing over costs."""
    if threads == 1:
        yield map(function, indices)
        return
    with ThreadPoolExecutor(threads) as pool:
        items = ordered_map(pool, function, indices, 4 * threads)
        try:
            yield items
        finally:
            pool.shutdown(cancel_futures=True)


class DoUnit:
    """A job as a function of the unit, for another process: it is pickled with its source, once for all units.

    Args:
      job: what is done to each unit.

    Raises:
      UserError: the source holds something that cannot go to another process.
    """

    def __init__(self, job: Job):
        try:
            self._payload = cloudpickle.dumps(job)
        except Exception as error:  # pickling runs code of the source
            reason = f"{type(error).__name__}: {error}"
            raise UserError(f"the source cannot be sent to other processes ({reason}); use --workers 1") from error
        self._job: Job | None = None

    def __call__(self, unit: Any, report: Callable[[int, int], None] = lambda records, left_out: None) -> None:
        """Does one unit; `report` hears of its records, as `Tally` says."""
        if self._job is None:
            try:
                self._job = cloudpickle.loads(self._payload)
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise UserError(f"the source does not work in another process ({reason}); use --workers 1") from error
        tally = Tally(report)
        self._job(unit, tally)
        tally.flush()

    def __getstate__(self) -> dict[str, Any]:
        return {"_payload": self._payload, "_job": None}


def _run_in_processes(job: Job, units: Sequence[Any], workers: int, progress: Progress) -> None:
    context = multiprocessing.get_context("spawn")
    do = DoUnit(job)
    counts = context.Array("Q", 2)
    # Nothing is ever sent: its end is the sign to end, also where this process is killed.
    alive, keep_alive = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(workers, context, _start, (do, alive, counts))
    reported = [0, 0]

    def report() -> None:
        now = list(counts.get_obj())  # without its lock, which a killed worker would keep
        progress.report(now[0] - reported[0], now[1] - reported[1])
        reported[:] = now

    try:
        with _workers_ignore_interrupts():
            waiting = {pool.submit(_work, unit) for unit in units}
        while waiting:
            done, waiting = wait(waiting, timeout=0.25, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
            report()
        pool.shutdown()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; what is finished is kept, the same command goes "
            "on from there (fewer --workers need less memory)"
        ) from error
    finally:
        keep_alive.close()
        pool.shutdown(cancel_futures=True)
        alive.close()


@contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """Processes started within never hear of Ctrl-C, which this one answers for them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker:
    """What a worker process holds."""

    do: DoUnit
    counts: Any


def _start(do: DoUnit, alive: Connection, counts: Any) -> None:
    threading.Thread(target=_end_with, args=(alive,), daemon=True).start()
    cv2.setNumThreads(1)  # the processes share the cores
    _Worker.do, _Worker.counts = do, counts


def _end_with(alive: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        alive.recv()
    os._exit(1)


def _work(unit: Any) -> None:
    _Worker.do(unit, _count)


def _count(records: int, left_out: int) -> None:
    with _Worker.counts.get_lock():
        _Worker.counts[0] += records
        _Worker.counts[1] += left_out
