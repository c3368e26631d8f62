"""What becomes of processes that end, are killed, hang, or whose supervisor is told to stop."""

import os
import signal
import subprocess
import sys

import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.launching.supervise import RUN_AGAIN, Command, Policy, Supervisor, verdict
from bioclip_jax.parallel import distributed

pytestmark = pytest.mark.core

SAVES = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(42))
signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
print("ready", flush=True)
while True:
    signal.pause()
"""
HANGS = SAVES.replace("lambda *_: sys.exit(42)", "signal.SIG_IGN").replace(
    "lambda *_: sys.exit(130)", r"lambda *_: os.write(1, b'no\n')"
)
DIES = "import os; os.kill(os.getpid(), 9)"
ENDS = "print('done')"


def command(program):
    return Command([sys.executable, "-I", "-S", "-c", program], os.environ)


class Rehearsed:
    """A supervisor that ran programs, one list of them for every start.

    Args:
        before: what is done before the first start.
        when: what is done, once for each line, when a process says a line.
    """

    def __init__(self, *starts, before=None, when=None, max_restarts=3, grace=20.0, settle=0.3):
        self.lines, self.starts = [], 0
        remaining = iter(starts)

        def show(index, line):
            self.lines.append(line if index is None else f"[{index}] {line}")
            if index is not None and when is not None:
                when(self, line)

        def commands():
            self.starts += 1
            return [command(program) for program in next(remaining)]

        with Supervisor(Policy(max_restarts, grace, settle), show) as supervisor:
            if before is not None:
                before()
            self.code = supervisor.run(commands)
            self.is_stopped = supervisor.is_stopped
        self.text = "\n".join(self.lines)


def send(number):
    """Sends the supervisor, which is this process, a signal as soon as every process is ready."""

    def when(rehearsed, line):
        if sum(text.endswith("] ready") for text in rehearsed.lines) == 2:
            os.kill(os.getpid(), number)

    return when


@pytest.mark.parametrize(
    ("codes", "asked", "expected"),
    [
        ([0, 0], None, 0),
        ([0, 42], None, 42),
        ([-9, 42], None, 42),
        ([42, 1], None, 1),  # a peer notices a failure before the process has ended
        ([2, 1, 42], None, 2),
        ([130, 42], None, 42),  # as schedulers have it: more than 128 stands for a signal
        ([137, 1], None, 1),
        ([128, 42], None, 128),
        ([127, 42], None, 127),
        ([42, -9], signal.SIGTERM, 42),
        ([0, 0], signal.SIGTERM, 0),  # it was done anyway
        ([1, 42], signal.SIGTERM, 1),
        ([-2, 42], signal.SIGINT, 130),
        ([0, 0], signal.SIGINT, 0),
    ],
)
def test_worth_of_exit_codes_together(codes, asked, expected):
    assert verdict(codes, asked) == expected


def test_exit_code_that_asks_for_a_restart_is_the_trainers():
    assert RUN_AGAIN == distributed.RUN_AGAIN


def test_processes_that_end_well_are_done_and_what_they_say_is_shown():
    rehearsed = Rehearsed([ENDS, "import sys; print('warning', file=sys.stderr)"])
    assert (rehearsed.code, rehearsed.starts, rehearsed.is_stopped) == (0, 1, False)
    assert "[0] done" in rehearsed.lines
    assert "[1] warning" in rehearsed.lines


def test_killed_process_takes_the_others_with_it_and_all_are_started_again():
    rehearsed = Rehearsed([DIES, SAVES], [ENDS, ENDS])
    assert (rehearsed.code, rehearsed.starts) == (0, 2), rehearsed.text
    assert "process 0 was ended by SIGKILL; ending the other 1" in rehearsed.lines
    assert "process 1 ended with exit code 42" in rehearsed.lines
    assert "starting all processes again (1 of at most 3)" in rehearsed.lines


def test_peers_that_end_by_themselves_are_given_the_time_to():
    rehearsed = Rehearsed(
        [DIES, "import time; time.sleep(0.1); print('noticed'); raise SystemExit(42)"], [ENDS], settle=9
    )
    assert rehearsed.code == 0
    assert "[1] noticed" in rehearsed.lines


def test_restarts_have_an_end():
    rehearsed = Rehearsed(*[["raise SystemExit(42)"]] * 3, max_restarts=2)
    assert (rehearsed.code, rehearsed.starts) == (1, 3)
    assert "they were started again 2 times (--max-restarts)" in rehearsed.lines[-1]


def test_failure_that_a_restart_would_not_mend_stops_everything_with_its_code():
    rehearsed = Rehearsed([SAVES, "raise SystemExit(2)"])
    assert (rehearsed.code, rehearsed.starts) == (2, 1)
    assert "process 1 ended with exit code 2; ending the other 1" in rehearsed.lines


def test_process_that_does_not_heed_sigterm_is_killed_after_the_grace_period():
    rehearsed = Rehearsed([HANGS, "raise SystemExit(42)"], [ENDS], grace=0.5, settle=0.5)
    assert (rehearsed.code, rehearsed.starts) == (0, 2)
    assert "process 0 did not end in time and is killed" in rehearsed.lines


def test_sigterm_is_passed_on_and_nothing_is_started_again():
    rehearsed = Rehearsed([SAVES, SAVES], when=send(signal.SIGTERM))
    assert (rehearsed.code, rehearsed.starts, rehearsed.is_stopped) == (42, 1, True), rehearsed.text


def test_closed_terminal_is_a_sigterm():
    assert Rehearsed([SAVES, SAVES], when=send(signal.SIGHUP)).code == 42


def test_interrupt_is_passed_on():
    rehearsed = Rehearsed([SAVES, SAVES], when=send(signal.SIGINT))
    assert (rehearsed.code, rehearsed.starts, rehearsed.is_stopped) == (130, 1, True)


def test_third_interrupt_kills():
    def when(rehearsed, line):  # the processes answer each with a line
        os.kill(os.getpid(), signal.SIGINT)

    rehearsed = Rehearsed([HANGS], when=when, grace=100)
    assert rehearsed.code == 130
    assert "process 0 was ended by SIGKILL" in rehearsed.lines


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 42), (signal.SIGINT, 130)])
def test_nothing_is_started_after_a_signal_that_came_in_between(number, code):
    rehearsed = Rehearsed(before=lambda: os.kill(os.getpid(), number))
    assert (rehearsed.code, rehearsed.starts, rehearsed.is_stopped) == (code, 0, True)
    assert rehearsed.lines == [f"{number.name}: nothing is started any more"]


def test_output_of_any_form_is_shown_in_pieces_that_fit_into_memory():
    program = r"import os; os.write(1, b'1 %\r2 %\r\n' + b'x' * 100_000 + b'\n\xff\0'); os.close(1); os.close(2)"
    rehearsed = Rehearsed([program])
    assert rehearsed.code == 0
    shown = [line.removeprefix("[0] ") for line in rehearsed.lines if line.startswith("[0] ")]
    assert shown[0] == "2 %"
    assert shown[1:3] == ["x" * 2**16, "x" * (100_000 - 2**16)]
    assert shown[3:] == ["\N{REPLACEMENT CHARACTER}\0"]


def test_signals_are_the_callers_again_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    Rehearsed([ENDS])
    assert signal.getsignal(signal.SIGTERM) == before


def test_supervisor_that_is_killed_leaves_no_process_behind(tmp_path):
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    child = f"import os, signal; os.fork(); os.write(os.open({str(fifo)!r}, os.O_WRONLY), b'x'); signal.pause()"
    program = f"""
import os, sys
from bioclip_jax.launching.supervise import *
with Supervisor(Policy(), lambda index, line: None) as supervisor:
    supervisor.run(lambda: [Command([sys.executable, "-I", "-S", "-c", {child!r}], os.environ)] * 2)
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    with fifo.open("rb") as alive:
        assert alive.read(4) == b"xxxx"
        supervisor.kill()
        supervisor.wait()
        assert alive.read() == b""  # it ends when the last of them is gone


@pytest.mark.parametrize(
    "policy", [{"max_restarts": -1}, {"grace_seconds": 0}, {"grace_seconds": float("nan")}, {"grace_seconds": 1e300}]
)
def test_policies_that_make_no_sense_are_refused(policy):
    with pytest.raises(UsageError, match=next(iter(policy)).replace("_", "-")):
        Policy(**policy)
