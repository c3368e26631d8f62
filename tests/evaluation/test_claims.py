"""Several workers and one suite: each run is measured once, whoever stops when."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation import claims as claims_module
from bioclip_jax.evaluation import run as run_module
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.claims import Claims
from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.results import Claim, Results
from bioclip_jax.evaluation.run import evaluate
from bioclip_jax.evaluation.task import Outcome, task_figure
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark

pytestmark = pytest.mark.core


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "results.sqlite"
    Results(path, create=True).__exit__(None, None, None)
    return path


def kept_claims(path) -> list[Claim]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [Claim(*row) for row in database.execute("SELECT * FROM claims ORDER BY identity")]


def put_claim(path, claim: Claim) -> None:
    with Results(path, create=True) as results:
        assert results.claim(claim, lambda found: True) is None


def test_a_run_is_claimed_by_one_worker_at_a_time_and_free_afterwards(path):
    with Results(path, create=True) as results, Claims(path) as first, Claims(path) as second:
        with first.hold(results, "a") as other:
            assert other is None
            with second.hold(results, "a") as holder, second.hold(results, "b") as free:
                assert f"process {os.getpid()} on " in holder
                assert free is None
            assert [claim.identity for claim in kept_claims(path)] == ["a"]
        with second.hold(results, "a") as other:
            assert other is None
        with pytest.raises(KeyboardInterrupt), second.hold(results, "a"):
            raise KeyboardInterrupt
    assert kept_claims(path) == []


def gone() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("owner", "age", "taken"),
    [
        ("elsewhere:1:0", 30, False),
        ("elsewhere:1:0", 61, True),
        ("HERE:ALIVE:9", 30, False),
        ("HERE:GONE:0", 25, True),
        ("HERE:GONE:0", 1, False),
    ],
    ids=["alive elsewhere", "silent elsewhere", "alive here", "killed here", "alive in a container of this name"],
)
def test_the_claim_of_a_worker_that_is_gone_is_taken_over(path, owner, age, taken):
    with Claims(path) as claims, Results(path, create=True) as results:
        host = claims.owner.split(":")[0]
        owner = owner.replace("HERE", host).replace("ALIVE", str(os.getpid())).replace("GONE", str(gone()))
        put_claim(path, Claim("a", owner, 0.0, time.time() - age))
        with claims.hold(results, "a") as other:
            assert (other is None) == taken
            assert [claim.owner for claim in kept_claims(path)] == [claims.owner if taken else owner]
    assert [claim.owner for claim in kept_claims(path)] == ([] if taken else [owner])


def test_a_claim_is_kept_alive_and_one_that_was_taken_over_is_left_alone(path, monkeypatch):
    beaten = threading.Event()
    monkeypatch.setattr(claims_module, "BEAT_SECONDS", 0.01)
    beat = Results.beat
    monkeypatch.setattr(Results, "beat", lambda *given: (beat(*given), beaten.set()))
    with Claims(path) as claims, Results(path, create=True) as results, claims.hold(results, "a"):
        (before,) = kept_claims(path)
        beaten.clear()
        assert beaten.wait(20)
        assert beaten.clear() or beaten.wait(20)
        (after,) = kept_claims(path)
        assert after.heartbeat > before.heartbeat
        other = Claim("a", "elsewhere:1:0", 1.0, 1.0)
        put_claim(path, other)
    assert kept_claims(path) == [other]


@dataclass(frozen=True)
class Length:
    """Of the first photo's features."""

    name: str = "length"
    splits: tuple[str, ...] = ("test",)

    def measure(self, samples, context):
        value = float(np.linalg.norm(samples["test"].features[0]))
        return Outcome([task_figure(self, "length", "paper", "length", value=value)])


def squares(folder, name) -> TaskBenchmark:
    files = tuple(sorted(path.name for path in folder.glob("test_0_*.png")))
    about = dict.fromkeys(("description", "license", "citation", "source"), "")
    return TaskBenchmark(name, **about, splits={"test": PhotoList(folder, files)}, tasks=(Length(),))


@pytest.mark.parametrize("again", [False, True])
def test_two_workers_share_a_suite(tmp_path, colour_model, coloured_photos, quiet, monkeypatch, again):
    """Both are given the same command; the first to come holds `one` until the second has done `two`."""
    monkeypatch.setattr(run_module, "SECONDS_BETWEEN_LOOKS", 0.02)
    suite = [squares(coloured_photos, name) for name in ("one", "two")]
    settings = Settings(resamples=2)
    if again:
        evaluate(colour_model(), suite, tmp_path / "r.sqlite", settings=settings, console=quiet)
    holds, two_done = threading.Event(), threading.Event()
    measured: list[tuple[str, str]] = []

    def measure(encoder, benchmark, *rest, **options):
        measured.append((encoder.name, benchmark.name))
        if benchmark.name == "one":
            holds.set()
            assert two_done.wait(20)
        return original(encoder, benchmark, *rest, **options)

    original = run_module.measure_tasks
    monkeypatch.setattr(run_module, "measure_tasks", measure)
    add = Results.add

    def added(self, measurement):
        number = add(self, measurement)
        if measurement.run.benchmark == "two":
            two_done.set()
        return number

    monkeypatch.setattr(Results, "add", added)
    found = {}

    def work(name):
        path, options = tmp_path / "r.sqlite", {"settings": settings, "console": quiet, "again": again}
        found[name] = evaluate(colour_model(name), suite, path, **options)

    first = threading.Thread(target=work, args=("first",))
    first.start()
    assert holds.wait(20)
    work("second")
    first.join()
    assert measured == [("first", "one"), ("second", "two")]
    with Results(tmp_path / "r.sqlite") as results:
        assert [run.benchmark for run in results.runs().values()] == ["two", "one"]
    values = {name: [[figure.value for figure in part.figures] for part in parts] for name, parts in found.items()}
    assert values["first"] == values["second"]
    assert all(values["first"])
    assert "one: process" in quiet.file.getvalue()
    assert kept_claims(tmp_path / "r.sqlite") == []


def test_a_database_that_is_locked_stops_the_suite_with_one_line(path, model, coloured_photos, quiet, monkeypatch):
    monkeypatch.setattr("bioclip_jax.evaluation.results.SECONDS_TO_WAIT", 0.05)
    suite = [squares(coloured_photos, name) for name in ("one", "two")]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"results\.sqlite: database is locked; another process") as error:
            evaluate(model, suite, path, console=quiet)
    assert "\n" not in str(error.value)
    assert model.seen == []


def test_two_writers_of_one_process_number_do_not_write_to_one_file(tmp_path, monkeypatch):
    names = []
    monkeypatch.setattr(np, "savez", lambda file, **arrays: names.append(file.name))
    for _ in range(2):  # as in two containers, whose processes have the same numbers
        ArrayCache(tmp_path).put("key", {"a": np.zeros(1)})
    assert len(set(names)) == 2
