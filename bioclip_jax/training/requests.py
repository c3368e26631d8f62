"""What somebody asks of a run while it trains: Ctrl-C, SIGTERM, SIGUSR1, and the clock of its checkpoints."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from bioclip_jax.parallel.distributed import RUN_AGAIN
from bioclip_jax.training.signals import PROFILE, SAVE, STOP

CTRL_C, TERMINATED = 1, 2
"""Values of STOP; the processes of a run agree on the larger."""


@contextlib.contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """While no step runs, SIGTERM ends the process at once, with exit code 42: nothing is there that could be lost."""

    def end(*_: object) -> None:
        os.write(2, b"\nstopped before a step was done; run the same command again\n")
        os._exit(RUN_AGAIN)

    try:
        previous = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        if previous is not None:  # one that was not installed from Python cannot be put back
            signal.signal(signal.SIGTERM, previous)


class Requests:
    """Collects requests until the loop heeds them.

    Args:
        save_every_minutes: between two checkpoints by time; 0 for none.
        now: a clock, in seconds.
    """

    def __init__(self, save_every_minutes: float = 0.0, now: Callable[[], float] = time.monotonic):
        self.stop = 0
        self._profile = False
        self._every, self._now = save_every_minutes * 60, now
        self._saved_at = now()

    def flags(self) -> dict[int, int]:
        """What is asked for, by column of the signals."""
        save = self._every > 0 and self._now() - self._saved_at >= self._every
        profile, self._profile = self._profile, False  # asked for once
        return {STOP: self.stop, SAVE: int(save), PROFILE: int(profile)}

    def saved(self) -> None:
        """A checkpoint was begun just now."""
        self._saved_at = self._now()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM asks for a stop, a second Ctrl-C ends at once, SIGUSR1 asks for a profile."""
        handlers = {
            signal.SIGINT: lambda *_: self._ask_to_stop(CTRL_C),
            signal.SIGTERM: lambda *_: self._ask_to_stop(TERMINATED),
            signal.SIGUSR1: self._ask_for_profile,
        }
        try:
            previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        except ValueError:  # not the main thread: the caller's signals are its own
            previous = {}
        try:
            yield
        finally:
            for number, handler in previous.items():
                if handler is not None:  # one that was not installed from Python cannot be put back
                    signal.signal(number, handler)

    def _ask_to_stop(self, kind: int) -> None:
        if self.stop and kind == CTRL_C:
            raise KeyboardInterrupt
        if not self.stop:
            # Not through rich: the main thread may be in the middle of writing.
            os.write(2, b"\nstopping after this step; Ctrl-C once more to stop at once\n")
        self.stop = max(self.stop, kind)

    def _ask_for_profile(self, number: int, frame: FrameType | None) -> None:
        self._profile = True
