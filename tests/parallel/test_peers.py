"""With which exit code a process ends that hears, or misses, something of its peers."""

import jax
import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.parallel import peers
from bioclip_jax.parallel.peers import Peers

pytestmark = pytest.mark.core


@pytest.fixture
def watching(monkeypatch):
    """The watch of one process, which ends by an exception, and a clock that stands where it is set."""
    clock = [1000.0]

    def end(code):
        raise SystemExit(code)

    monkeypatch.setattr(peers, "_end", end)
    monkeypatch.setattr(peers.time, "monotonic", lambda: clock[0])
    return Peers(), clock


@pytest.mark.parametrize(
    ("word", "code", "last"),
    [
        ("failed 1", 1, "see its output"),
        ("failed 2", 2, "see its output"),
        ("failed 130", 42, "continue from the last checkpoint"),
    ],
)
def test_failure_that_a_restart_would_not_mend_is_that_of_all(watching, capsys, word, code, last):
    watch, clock = watching
    watch._judge({"1": word})
    clock[0] += 20
    with pytest.raises(SystemExit) as ended:
        watch._judge({"1": word})
    assert ended.value.code == code
    shown = capsys.readouterr().err
    assert shown.startswith("error: process 1 stopped")
    assert shown.rstrip().endswith(last)


def test_silent_peer_has_all_started_again(watching, capsys):
    watch, clock = watching
    watch._judge({"1": "7"})
    clock[0] += 61
    with pytest.raises(SystemExit) as ended:
        watch._judge({"1": "7"})
    assert ended.value.code == 42
    assert "no sign of life for 61 s; start all processes again" in capsys.readouterr().err


def test_why_process_0_went_may_have_been_heard_before(watching):
    watch, _ = watching
    watch._judge({"0": "failed 2", "1": "3"})
    with pytest.raises(SystemExit) as ended:
        watch._end_for(peers._NO_ANSWER)
    assert ended.value.code == 2


@pytest.mark.parametrize("text", ["soon", "", "0", "-1", "inf", "nan"])
def test_patience_that_is_no_number_of_seconds_is_one_line(monkeypatch, text):
    monkeypatch.setenv(peers.PATIENCE_VARIABLE, text)
    with pytest.raises(UsageError, match=f"^BIOCLIP_JAX_PEER_SECONDS is {text!r}; it has to be a positive number"):
        Peers()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("wrong"), 2),
        (jax.errors.JaxRuntimeError("INTERNAL: the link is down"), 42),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError(), 1),
    ],
)
def test_exit_code_says_whether_a_restart_may_mend_it(error, code):
    assert peers._exit_code(error) == code
