"""The results database: runs are whole or absent, and a file that is none is recognised."""

import sqlite3
import subprocess
import sys
from dataclasses import dataclass, fields, replace

import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.compare import compare
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Measurement, Prediction, Run, Thumbnail
from bioclip_jax.evaluation.task import task_figure

pytestmark = pytest.mark.core


def species_prediction(key: str, true: str, predicted: str) -> Prediction:
    right = float(true == predicted)
    return Prediction("model", "zero_shot", "mean", "seen", "species", key, true, true, predicted, right, 0.5)


def measurement(identity: str, **changes) -> Measurement:
    texts = {column.name: "{}" for column in fields(Run)}
    run = Run(**{**texts, "identity": identity, "seconds": 1.0})
    prediction = species_prediction("key", "a", "b")
    return replace(Measurement(run, [], [], [prediction], [], [], [Thumbnail("{}", "key", b"jpeg")]), **changes)


def test_runs_are_added_and_the_same_one_is_replaced(tmp_path):
    path = tmp_path / "deep" / "results.sqlite"
    with Results(path, create=True) as results:
        first = results.add(measurement("a"))
        second = results.add(measurement("b"))
        again = results.add(measurement("a"))
    with Results(path) as results:
        assert set(results.runs()) == {second, again}
        assert first != second
        assert results.rows(Prediction, again)[0].predicted == "b"
        assert results.thumbnail("{}", "key") == b"jpeg"
        assert results.thumbnail("{}", "other") is None


def test_a_run_is_read_whole_while_another_worker_replaces_it(tmp_path, monkeypatch):
    monkeypatch.setattr("bioclip_jax.evaluation.results.SECONDS_TO_WAIT", 0.01)
    figure = task_figure(Named("old"), "zero_shot", "paper", "micro_accuracy", value=0.5)
    path = tmp_path / "results.sqlite"
    with Results(path, create=True) as writer:
        writer.add(measurement("a", figures=[figure]))
        with Results(path, create=True) as results:
            read = Results.rows

            def rows(self, kind, run):
                # The writer must wait until all is read: the transaction holds it off.
                with pytest.raises(UserError, match="locked"):
                    writer.add(measurement("a"))
                return read(self, kind, run)

            monkeypatch.setattr(Results, "rows", rows)
            kept = results.kept("a")
            assert kept.run.identity == "a"
            assert [row.split for row in kept.figures] == ["old"]
            assert results.kept("b") is None
        monkeypatch.undo()
        writer.add(measurement("a"))
        assert writer.kept("a").figures == []


@dataclass
class Named:
    """What a figure asks of a task."""

    name: str


def test_an_interrupted_run_leaves_the_earlier_one_untouched(tmp_path):
    def interrupted():
        yield species_prediction("key", "a", "c")
        raise KeyboardInterrupt

    path = tmp_path / "results.sqlite"
    with Results(path, create=True) as results:
        kept = results.add(measurement("a"))
        with pytest.raises(KeyboardInterrupt):
            results.add(measurement("a", predictions=interrupted()))
    with Results(path) as results:
        assert list(results.runs()) == [kept]
        assert [p.predicted for p in results.rows(Prediction, kept)] == ["b"]


def test_a_full_disk_is_one_clear_line_and_keeps_earlier_runs(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path, create=True) as results:
        kept = results.add(measurement("a"))
        results._database.execute("PRAGMA max_page_count = 1")  # as little as the file has
        large = [Thumbnail("{}", str(number), bytes(5000)) for number in range(200)]
        with pytest.raises(UserError, match="full; make room") as error:
            results.add(measurement("b", thumbnails=large))
        assert "\n" not in str(error.value)
    with Results(path) as results:
        assert list(results.runs()) == [kept]
    assert [file.name for file in tmp_path.iterdir()] == ["results.sqlite"]


def test_a_writer_that_was_killed_in_the_middle_is_rolled_back_by_the_next_reader(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path, create=True) as results:
        kept = results.add(measurement("a"))
    program = (
        "import os, sys; from pathlib import Path; from bioclip_jax.evaluation.results import Results\n"
        "database = Results(Path(sys.argv[1]), create=True)._database\n"
        "database.execute('PRAGMA cache_size = 1'); database.execute('BEGIN IMMEDIATE')\n"
        "for number in range(50): database.execute('INSERT INTO thumbnails VALUES (?, ?, ?)', "
        "('{}', str(number), bytes(5000)))\n"
        "database.execute('DELETE FROM runs')\n"
        "os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert (tmp_path / "results.sqlite-journal").exists()
    with Results(path) as results:
        assert list(results.runs()) == [kept]


def test_reading_changes_nothing(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path, create=True) as results:
        results.add(measurement("a"))
    with Results(path) as results, pytest.raises(UserError, match="readonly"):
        results.add(measurement("b"))


def test_a_file_that_is_no_results_database_is_refused_and_left_alone(tmp_path):
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"no database at all, but long enough to look like one" * 20)
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as database:
        database.execute("CREATE TABLE theirs (x)")
    for path in (garbage, foreign):
        before = path.read_bytes()
        with pytest.raises(UserError, match=path.name) as error:
            Results(path, create=True)
        assert "\n" not in str(error.value)
        assert path.read_bytes() == before


def test_a_damaged_database_is_one_clear_line(tmp_path):
    path = tmp_path / "results.sqlite"
    with Results(path, create=True) as results:
        results.add(measurement("a"))
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"results\.sqlite"), Results(path) as results:
        results.runs()


def test_a_newer_version_and_a_missing_file_are_named(tmp_path):
    path = tmp_path / "results.sqlite"
    Results(path, create=True).__exit__(None, None, None)
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="version 99"):
        Results(path)
    with pytest.raises(UsageError, match="no results at"):
        Results(tmp_path / "none.sqlite")


def test_two_models_are_compared_on_the_photos_that_both_answered():
    truth = [chr(ord("a") + number) for number in range(20)] * 5
    right = [species_prediction(str(i), t, t) for i, t in enumerate(truth)]
    wrong = [species_prediction(p.key, p.true, "a") for p in right]
    found = compare(right, [*wrong[:80], replace(wrong[90], true="changed")], "seen")["species"]
    assert found.value == pytest.approx(0.95)
    assert found.low > 0.6
    assert found.p_value < 0.01
    assert compare(right, [], "seen") == {}
