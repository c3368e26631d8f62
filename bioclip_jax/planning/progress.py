"""What a person sees while compilers work: a line for each with its time on a terminal, plain lines elsewhere."""

from __future__ import annotations

import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from bioclip_jax.planning.question import Question, Reply


def settings_of(question: Question) -> str:
    """What is compiled, in a few words."""
    c = question.config
    pairs = f"{c.global_batch_size:,}" + (f" + {c.replay_batch_size:,}" if c.replay_batch_size else "")
    parts = [question.topology, f"{pairs} pairs", f"remat {c.remat_policy}"]
    if c.micro_batches > 1:
        parts.append(f"{c.micro_batches} micro-batches")
    if c.mesh.fsdp > 1:
        parts.append(f"fsdp {c.mesh.fsdp}")
    if c.mesh.shard_optimizer:
        parts.append("optimizer sharded")
    return ", ".join(parts)


class CompileProgress:
    """Draws what is being compiled; a context manager. `left` says how many questions may still come, at most."""

    def __init__(self, console: Console):
        self._console = console
        self._bar = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console, transient=True,
            disable=not console.is_terminal,
        )  # fmt: skip
        self._lock = threading.Lock()
        self._tasks: dict[str, tuple[TaskID, float]] = {}
        self._left: dict[str, int] = {}
        self._seconds: list[float] = []
        self._whole: TaskID | None = None

    def __enter__(self) -> CompileProgress:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._bar.stop()

    def started(self, question: Question) -> None:
        """A process compiles."""
        with self._lock:
            task = self._bar.add_task(f"compiling {settings_of(question)}", total=None)
            self._tasks[question.to_json()] = task, time.monotonic()
        self._say(f"compiling {settings_of(question)} (a minute or more)")

    def ended(self, question: Question, reply: Reply | None) -> None:
        """It is done."""
        with self._lock:
            task, start = self._tasks.pop(question.to_json())
            self._bar.remove_task(task)
            self._seconds.append(time.monotonic() - start)
        if reply is not None:
            says = "fits" if reply.answer.fits else "does not fit"
            self._say(f"{settings_of(question)}: {says}, {self._seconds[-1]:.0f} s{self._time_left()}")

    def known(self, question: Question) -> None:
        """Nothing had to be compiled."""

    def left(self, topology: str, questions: int) -> None:
        """So many questions about a topology may still come."""
        with self._lock:
            self._left[topology] = questions
            if self._whole is not None:
                self._bar.remove_task(self._whole)
                self._whole = None
            if note := self._time_left():
                self._whole = self._bar.add_task(f"searching{note}", total=None)

    def _time_left(self) -> str:
        questions = sum(self._left.values())
        if not questions or not self._seconds:
            return ""
        seconds = questions * sum(self._seconds) / len(self._seconds)
        return f"; at most {questions} more, about {max(round(seconds / 60), 1)} min"

    def _say(self, text: str) -> None:
        if not self._console.is_terminal:
            self._console.print(text, soft_wrap=True, highlight=False, markup=False)
