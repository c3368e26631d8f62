"""Progress of work on records: a bar with the time left on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_SECONDS_BETWEEN_LINES = 10.0


class RecordProgress:
    """Counts records towards `total`; a context manager.

    Args:
      total: how many there are.
      action: what is done to them, such as 'building'.
      console: where to write; standard error if not given.
      unit: what they are called.
    """

    def __init__(self, total: int, action: str, console: Console | None = None, unit: str = "records"):
        self._total, self._action, self._unit = total, action, unit
        self._console = console or Console(stderr=True)
        self._done, self._skipped, self._note = 0, 0, ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(action, total=total, rate="", note="")

    def __enter__(self) -> RecordProgress:
        self._start = self._last_line = time.monotonic()
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def advance(self, records: int = 1, note: str = "") -> None:
        """`records` more are done; `note` stands behind the bar until the next one."""
        self._done += records
        self._note = note or self._note
        self._bar.update(self._task, advance=records, rate=f"{self._rate():,.0f}/s", note=self._note)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._print_line()

    def skip(self, records: int) -> None:
        """`records` had been done before; they count as done but not towards the speed."""
        self._skipped += records
        self.advance(records)

    def _rate(self) -> float:
        return (self._done - self._skipped) / max(time.monotonic() - self._start, 1e-6)

    def _print_line(self) -> None:
        rate = self._rate()
        left = f", {(self._total - self._done) / rate:,.0f} s left" if rate else ""
        note = f", {self._note}" if self._note else ""
        text = f"{self._action}: {self._done:,} of {self._total:,} {self._unit}, {rate:,.0f}/s{left}{note}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
