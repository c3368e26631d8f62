"""A profile of a few steps, when a flag or SIGUSR1 asks for one: `jax.profiler` traces, which xprof opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax

from bioclip_jax.errors import UsageError

FOLDER = "profile"
STEPS_ON_REQUEST = 5


def parse_steps(text: str | None) -> range:
    """The steps that `--profile-steps FIRST:COUNT` names; none without one.

    Raises:
        UsageError: it is not two numbers.
    """
    if text is None:
        return range(0)
    first, _, count = text.partition(":")
    if not (first.isdigit() and count.isdigit() and int(count)):
        raise UsageError(f"--profile-steps is {text!r}; it has to be FIRST:COUNT, as 100:5")
    return range(int(first), int(first) + int(count))


class Profiler:
    """Traces a run's steps into its work directory, on every process its own devices.

    Args:
        work_dir: of the run.
        steps: to be traced.
        say: shows a line.
    """

    def __init__(self, work_dir: Path, steps: range, say: Callable[[str], None]):
        self._folder, self._steps, self._say = work_dir / FOLDER, steps, say
        self._running: int | None = None

    def request(self, next_step: int) -> None:
        """The next steps are traced, unless some are already."""
        if self._running is None:
            self._steps = range(next_step, next_step + STEPS_ON_REQUEST)

    def before(self, step: int) -> None:
        """Begins before the first step that is to be traced."""
        if self._running is None and step in self._steps:
            try:
                jax.profiler.start_trace(str(self._folder))
            except (RuntimeError, OSError) as error:  # a profile is not worth a run
                self._steps = range(0)
                self._say(f"WARNING: no profile could be begun ({error})")
                return
            self._running = step

    def after(self, step: int) -> None:
        """Ends once the figures of the last one are there."""
        if self._running is not None and step >= self._steps[-1]:
            self.close(step)

    def close(self, step: int | None = None) -> None:
        """Ends what is running, as before the end of the run."""
        if self._running is None:
            return
        try:
            jax.profiler.stop_trace()
        except (RuntimeError, OSError) as error:
            self._running, self._steps = None, range(0)
            self._say(f"WARNING: the profile could not be written ({error})")
            return
        until = "" if step is None else f" to {step}"
        self._say(
            f"profile of steps {self._running}{until} is in {self._folder}; open it with `pip install xprof` and "
            f"`xprof --logdir {self._folder}`"
        )
        self._running, self._steps = None, range(0)
