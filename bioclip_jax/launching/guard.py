"""A small process of its own that ends what a supervisor started, should the supervisor be killed without a word.

It reads a pipe whose other end only the supervisor holds: a line of process ids whenever they change, then the end of
the pipe, however the supervisor ended. The groups of the processes that were named last are then killed. Run as a file,
it imports nothing of this package and starts in hundredths of a second.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TextIO


class Guard:
    """The supervisor's end of the pipe; entered for as long as it may start processes."""

    def __enter__(self) -> Guard:
        command = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        return self

    def watch(self, process_ids: Iterable[int]) -> None:
        """From now on these are to be killed, each with its group, and no others."""
        pipe = self._process.stdin
        # Without its guard a run can still be trained.
        with contextlib.suppress(BrokenPipeError):
            print(*process_ids, file=pipe, flush=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()


def kill_group(process_id: int) -> None:
    """Kills the process and all that it has started, as far as there are any left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of dead ones
        os.killpg(process_id, signal.SIGKILL)


def _guard(pipe: TextIO) -> None:
    named: list[int] = []
    for line in pipe:
        named = [int(word) for word in line.split()]
    for process_id in named:
        kill_group(process_id)


if __name__ == "__main__":
    for _number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(_number, signal.SIG_IGN)  # whoever stops everything means the supervisor, which says when
    _guard(sys.stdin)
