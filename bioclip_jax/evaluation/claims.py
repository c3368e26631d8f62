"""Who measures which run: workers that write to one results database share a suite without talking to each other.

A worker claims a run before it measures it, and says every few seconds that it is alive. A run that a living worker
holds is left to it. The claim of one that has not been heard of for a minute is taken over; of one that died on this
host, after two missed signs of life (not at once: containers can share a host's name, but not its processes). So
workers on several machines can be given the same command, as long as their clocks agree to some seconds. A claim saves
work and nothing else: where two workers measure one run all the same, the later result takes the earlier one's place.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.results import Claim, Results

STALE_SECONDS = 60.0
BEAT_SECONDS = 10.0
_NUMBERS = itertools.count()


class Claims:
    """The claims of one worker; a context manager, during which its claims are kept alive.

    Args:
        path: the results database, which exists.
    """

    def __init__(self, path: Path):
        self._path = path
        self._host = socket.gethostname().replace(":", "_")
        self.owner = f"{self._host}:{os.getpid()}:{next(_NUMBERS)}"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_alive, name="claims", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()

    @contextlib.contextmanager
    def hold(self, results: Results, identity: str) -> Iterator[str | None]:
        """Holds the claim of a run during a block; gives the other worker's name instead if that is measuring it."""
        now = time.time()
        claim = Claim(identity, self.owner, now, now)
        other = results.claim(claim, self._may_take)
        try:
            yield None if other is None else _in_words(other)
        finally:
            if other is None:
                with contextlib.suppress(UserError):  # then it dies with this process
                    results.release(claim)

    def _may_take(self, claim: Claim) -> bool:
        silent = time.time() - claim.heartbeat
        if silent > STALE_SECONDS:
            return True
        host, pid, _ = claim.owner.rsplit(":", 2)
        return silent > 2 * BEAT_SECONDS and host == self._host and not _is_alive(int(pid))

    def _keep_alive(self) -> None:
        # A database connection belongs to one thread. Where the database is locked, the next beat will do.
        while not self._stop.wait(BEAT_SECONDS):
            with contextlib.suppress(UserError), Results(self._path, create=True) as results:
                results.beat(self.owner, time.time())


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        return True
    return True


def _in_words(claim: Claim) -> str:
    host, pid, _ = claim.owner.rsplit(":", 2)
    return f"process {pid} on {host}"
