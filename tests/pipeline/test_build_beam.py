"""Builds by the real Apache Beam; `make test-beam` runs them. What needs no Beam is in test_build_workers.py."""

import io
import os
import signal
import subprocess
import sys
import tempfile

import pytest
from rich.console import Console

from bioclip_jax import cli
from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.build import Selection, build
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.recipes import load_recipe

pytestmark = pytest.mark.beam

SHARD_BYTES = 10_000
TWO_PROCESSES = ("--runner=DirectRunner", "--direct_running_mode=multi_processing", "--direct_num_workers=2")

# What happens in a worker of Beam depends on files beside the recipe.
RECIPE = """
import os
import sys
import threading
from pathlib import Path

import cv2
import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.record import BadRecord

HERE = Path(__file__).parent


class Birds:
    def __init__(self, place, first, records):
        self.place, self.first, self.records = place, first, records
        self.reads = 0

    def __len__(self):
        return self.records

    def __getitem__(self, index):
        bird = self.first + index
        if sys.argv[0].endswith("sdk_worker_main.py"):
            self.in_worker(bird)
        if bird == 7:
            raise BadRecord("bird 7", "file is missing: 7.jpg")
        seed = bird % 100 if bird < 120 else bird
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
        image = cv2.imencode(".jpg", pixels)[1].tobytes()
        return {"key": f"bird {bird}", "image": image, "genus": "Motacilla", "species": f"species{bird % 3}"}

    def in_worker(self, bird):
        self.reads += 1
        if (self.place / "processes").exists():
            foreign = {name.split(".")[0] for name in sys.modules} & {"jax", "flax", "tensorflow", "torch"}
            (self.place / "processes" / str(os.getpid())).write_text(" ".join(foreign))
        if bird == 70 and (self.place / "fail").exists():
            raise UserError("tar birds.tar has become shorter")
        if self.reads >= 30 and (self.place / "wait").exists():  # some files are written by then
            # Whoever reads the pipe hears of this process, and then of its end.
            os.write(os.open(self.place / "wait", os.O_WRONLY), b"!")
            threading.Event().wait()

    def __getstate__(self):
        return vars(self) | {"reads": 0}


def source(*, place: Path = HERE):
    return {"train": Birds(place, 0, 120), "test": Birds(place, 110, 30)}
"""


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The path of a recipe, in a folder of its own."""
    temporary = tmp_path / "temporary"  # Beam leaves folders behind
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    path = tmp_path / "recipe" / "birds.py"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


@pytest.fixture
def run(tmp_path, recipe):
    """Builds the recipe into `out`, quietly."""

    def run(out, **options):
        options = {"name": "birds", "shard_bytes": SHARD_BYTES, "console": Console(file=io.StringIO())} | options
        return build(load_recipe("data", recipe).source(place=recipe.parent), tmp_path / out, **options)

    return run


def flags(recipe, out, *beam):
    options = ["--shard-bytes", str(SHARD_BYTES), "--place", str(recipe.parent), "--beam", "--", *beam]
    return ["data", "build", str(recipe), str(out), *options]


def command(recipe, out):
    return [sys.executable, "-m", "bioclip_jax.cli", *flags(recipe, out, *TWO_PROCESSES)]


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def written(directory):
    """When each finished file of an unfinished build was written."""
    notes = (directory / ".build").glob("*.array_record-*.json")
    return {note.stem: (directory / note.stem).stat().st_mtime_ns for note in notes}


TWO_PASSES = {"selection": Selection(mix=1, dedup=True, clean_up=True), "images": ImageOptions(check="header")}


@pytest.mark.parametrize("options", [{}, TWO_PASSES], ids=["one pass", "two passes"])
def test_two_processes_of_beam_write_the_very_bytes_that_a_plain_build_writes(run, tmp_path, recipe, options):
    plain = run("plain", **options)
    (recipe.parent / "processes").mkdir()
    by_beam = run("beam", beam=TWO_PROCESSES, **options)
    assert files(tmp_path / "beam") == files(tmp_path / "plain")
    assert by_beam.rejected == plain.rejected
    assert ("train", "file is missing") in plain.rejected
    assert len(plain.manifest.splits["train"]) > 3
    imported = [path.read_text() for path in (recipe.parent / "processes").iterdir()]
    assert imported == [""] * (4 if options else 2)  # new processes for each pass, without JAX
    assert run("beam", beam=TWO_PROCESSES, **options).already_finished


def test_a_killed_build_by_beam_goes_on_and_keeps_what_was_finished(run, tmp_path, recipe):
    pipe, out = recipe.parent / "wait", tmp_path / "out"
    os.mkfifo(pipe)
    with subprocess.Popen(command(recipe, out), stderr=subprocess.DEVNULL, start_new_session=True) as process:
        descriptor = os.open(pipe, os.O_RDONLY)  # waits for a worker
        assert os.read(descriptor, 1) == b"!"
        os.killpg(process.pid, signal.SIGKILL)
        while os.read(descriptor, 1):  # the other worker's, until the ends of both are closed
            pass
        os.close(descriptor)
    pipe.unlink()
    kept = written(out)
    assert kept
    assert not (out / "manifest.json").exists()
    finished = subprocess.run(command(recipe, out), check=True, capture_output=True, text=True)
    assert "train 119, test 30 records" in finished.stdout
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    run("plain")
    assert files(out) == files(tmp_path / "plain")


def test_a_source_that_fails_in_a_worker_of_beam_is_one_line_and_the_build_goes_on_later(run, tmp_path, recipe):
    (recipe.parent / "fail").touch()
    failed = subprocess.run(command(recipe, tmp_path / "out"), capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr.splitlines()[-1] == "error: Apache Beam: tar birds.tar has become shorter"
    (recipe.parent / "fail").unlink()
    run("out")
    run("plain")
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def test_a_source_that_fails_reads_the_same_on_a_runner_within_this_process(run, recipe, monkeypatch):
    (recipe.parent / "fail").touch()
    monkeypatch.setattr(sys, "argv", ["sdk_worker_main.py"])
    with pytest.raises(UserError, match=r"^Apache Beam: tar birds\.tar has become shorter$"):
        run("out", beam=["--direct_running_mode=in_memory"])


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--direct_num_workers=two", "argument --direct_num_workers: invalid int value: 'two'"),
        ("--direct_running_mode=fork", "argument --direct_running_mode: invalid choice: 'fork'"),
        ("--runner=QuickRunner", "Unexpected pipeline runner: QuickRunner."),
        ("--runner=json.Runner", "module 'json' has no attribute 'Runner'"),
        ("--environment_type=PROCESS", "process_command"),
    ],
)
def test_a_bad_flag_of_beam_is_one_line_before_anything_is_touched(recipe, tmp_path, capsys, flag, said):
    with pytest.raises(SystemExit) as caught:
        cli.main(flags(recipe, tmp_path / "out", flag))
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("WARNING:")]
    assert len(lines) == 1
    assert lines[0].startswith("error: flags of Apache Beam: ")
    assert said in lines[0]
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "temporary").iterdir())
