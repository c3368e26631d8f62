"""What a person sees of a run: a bar with the time left on a terminal, plain lines in a log."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from bioclip_jax.config import TrainConfig


class StepProgress:
    """Shows steps, loss, speed and the time left."""

    def __init__(self, config: TrainConfig, console: Console):
        """A line every `config.log_every` steps where the console is no terminal."""
        self._config, self._console = config, console
        self._bar = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )

    @contextlib.contextmanager
    def running(self, first_step: int) -> Iterator[None]:
        """The bar is drawn while inside."""
        self._rate_since: tuple[int, float] | None = None
        self._task = self._bar.add_task("", total=self._config.total_steps, completed=first_step)
        with self._bar:
            yield

    def advance(self, step: int, figures: dict[str, float]) -> None:
        """Step `step` (from 0) is done."""
        text = (
            f"loss {figures['loss']:.3f}  accuracy {figures['accuracy']:.2f}  "
            f"{figures['images_per_second']:.0f} images/s  waiting for data {figures['data_wait_share']:.0%}"
        )
        self._bar.update(self._task, completed=step + 1, description=text)
        done, total = step + 1, self._config.total_steps
        if self._rate_since is None:  # the first step compiles, which says nothing of the others
            self._rate_since = (done, time.monotonic())
        if not self._console.is_terminal and (done % self._config.log_every == 0 or done == total):
            left = (
                f"  {self._time_left(done, *self._rate_since)} left"
                if done > self._rate_since[0] and done < total
                else ""
            )
            self._console.print(f"step {done}/{total}  {text}{left}", soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """A line of its own."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def _time_left(self, done: int, first: int, start: float) -> str:
        seconds = round((time.monotonic() - start) / (done - first) * (self._config.total_steps - done))
        return str(datetime.timedelta(seconds=seconds))
