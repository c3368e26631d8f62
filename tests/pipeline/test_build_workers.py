import io
import os
import signal
import subprocess
import sys
import types

import pytest
from rich.console import Console

from bioclip_jax import cli
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.images import decode
from bioclip_jax.pipeline import build_beam
from bioclip_jax.pipeline.build import Selection, build
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.build_workers import DoUnit
from bioclip_jax.pipeline.readers import open_directory
from bioclip_jax.recipes import load_recipe

RECORDS = 120
SHARD_BYTES = 10_000

# A recipe as a user writes it. What happens at a record depends on files beside it.
RECIPE = """
import json
import multiprocessing
import os
import signal
import sys
import threading
from pathlib import Path

import cv2
import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.record import BadRecord

HERE = Path(__file__).parent


class Birds:
    def __init__(self, place):
        self.place = place

    def __len__(self):
        return 120

    def __getitem__(self, index):
        in_worker = multiprocessing.parent_process() is not None
        if index == 70 and in_worker:
            if (self.place / "kill").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            if (self.place / "fail").exists():
                raise UserError("tar birds.tar has become shorter")
            if (self.place / "wait").exists():
                # Whoever reads the pipe hears of this process, and then of its end.
                os.write(os.open(self.place / "wait", os.O_WRONLY), b"!")
                threading.Event().wait()
        if index == 7:
            raise BadRecord("bird 7", "file is missing: 7.jpg")
        pixels = np.random.default_rng(index % 100).integers(0, 256, (20, 24, 3), np.uint8)
        foreign = sorted({name.split(".")[0] for name in sys.modules} & {"jax", "flax", "tensorflow", "torch"})
        return {
            "key": f"bird {index}",
            "image": cv2.imencode(".jpg", pixels)[1].tobytes(),
            "genus": "Motacilla",
            "species": f"species{index % 3}",
            "source": "test",
            "attributes": json.dumps(foreign) if in_worker else "[]",
        }


def source(*, place: Path = HERE):
    return {"train": Birds(place)}
"""


@pytest.fixture
def recipe(tmp_path):
    """The path of a recipe, in a folder of its own."""
    path = tmp_path / "recipe" / "birds.py"
    path.parent.mkdir()
    path.write_text(RECIPE)
    return path


@pytest.fixture
def run(tmp_path, recipe):
    """Builds the recipe into `out`, quietly."""

    def run(out="out", **options):
        quiet = Console(file=io.StringIO())
        options = {"name": "birds", "shard_bytes": SHARD_BYTES, "console": quiet} | options
        return build(load_recipe("data", recipe).source(place=recipe.parent), tmp_path / out, **options)

    return run


def command(recipe, out, *flags):
    program = [sys.executable, "-m", "bioclip_jax.cli", "data", "build", str(recipe), str(out)]
    return [*program, "--shard-bytes", str(SHARD_BYTES), "--place", str(recipe.parent), *flags]


def test_processes_give_the_very_files_that_one_gives_and_import_no_jax(run, tmp_path):
    one, several = run("one"), run("several", workers=2)
    assert several.manifest == one.manifest
    assert len(several.manifest.splits["train"]) > 3
    assert several.rejected == {("train", "file is missing"): 1}
    assert (tmp_path / "one" / "rejected.csv").read_text() == (tmp_path / "several" / "rejected.csv").read_text()
    assert {entry["attributes"] for entry in open_directory(tmp_path / "several")["train"]} == {"[]"}


def test_two_passes_by_processes_give_what_one_process_gives(run):
    options = {"selection": Selection(mix=1, dedup=True, clean_up=True), "images": ImageOptions(check="header")}
    one = run("one", **options)
    assert run("several", workers=3, **options).manifest == one.manifest
    assert one.rejected == {("train", "duplicate image"): 19, ("train", "file is missing"): 1}


def test_a_killed_worker_is_one_line_and_the_build_goes_on_later(run, tmp_path, recipe):
    (recipe.parent / "kill").touch()
    with pytest.raises(UserError, match="a worker process was killed") as caught:
        run(workers=2)
    assert "\n" not in str(caught.value)
    (recipe.parent / "kill").unlink()
    noted = [tmp_path / "out" / note.stem for note in (tmp_path / "out" / ".build").glob("*.array_record*.json")]
    kept = {path: path.stat().st_mtime_ns for path in noted}
    assert kept
    assert not list((tmp_path / "out" / ".build").glob("*.tmp"))
    report = run(workers=2)
    assert report.manifest == run("whole").manifest
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())


def test_what_fails_in_a_worker_reads_as_if_it_had_failed_here(run, recipe):
    (recipe.parent / "fail").touch()
    with pytest.raises(UserError, match=r"^tar birds\.tar has become shorter$"):
        run(workers=2)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_build_leaves_no_process_and_goes_on(run, tmp_path, recipe, how):
    pipe = recipe.parent / "wait"
    os.mkfifo(pipe)
    with subprocess.Popen(
        command(recipe, tmp_path / "out", "--workers", "2"), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        descriptor = os.open(pipe, os.O_RDONLY)  # waits for the worker
        assert os.read(descriptor, 1) == b"!"
        if how == signal.SIGINT:
            os.killpg(process.pid, how)  # as a terminal does: the workers, too
        else:
            process.kill()
        assert os.read(descriptor, 1) == b""  # the worker's end of the pipe is closed: it is gone
        os.close(descriptor)
        said = process.communicate()[1]
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on from there" in said
        assert "Traceback" not in said
        assert not list((tmp_path / "out" / ".build").glob("*.tmp"))
    pipe.unlink()
    finished = subprocess.run(
        command(recipe, tmp_path / "out", "--workers", "1"), check=True, capture_output=True, text=True
    )
    assert "train 119 records" in finished.stdout
    assert open_directory(tmp_path / "out")["train"][118]["key"] == "bird 119"
    assert run("whole").manifest.splits == read_splits(tmp_path / "out")
    assert not (tmp_path / "out" / ".build").exists()


def read_splits(directory):
    from bioclip_jax.pipeline.manifest import read_manifest

    return read_manifest(directory).splits


def test_the_command_takes_every_option(recipe, tmp_path, capsys):
    out = tmp_path / "out"
    flags = "--mix 1 --dedup --clean-up --resize 12 --geometry squash --quality 80 --check header --workers 1".split()
    evaluation = birds(recipe)[60]["image"]
    (tmp_path / "60.jpg").write_bytes(evaluation)
    cli.main([*command(recipe, out)[3:], *flags, "--exclude", str(tmp_path / "60.jpg")])
    assert "train 99 records" in capsys.readouterr().out
    shown = [entry["key"] for entry in open_directory(out)["train"]]
    assert shown != sorted(shown, key=lambda key: int(key.split()[1]))
    assert "bird 60" not in shown
    assert decode(open_directory(out)["train"][0]["image"]).shape == (12, 12, 3)
    with pytest.raises(SystemExit) as caught:
        cli.main([*command(recipe, out)[3:], "--", "--runner=DirectRunner"])
    assert caught.value.code == 2
    assert "which --beam asks for" in capsys.readouterr().err


def birds(recipe):
    return load_recipe("data", recipe).source(place=recipe.parent)["train"]


def test_a_source_that_cannot_be_sent_to_processes_says_what_to_do(tmp_path, list_source, record):
    class Unpicklable(list_source):
        def __reduce__(self):
            raise TypeError("holds an open file")

    source = {"train": Unpicklable([record(i) for i in range(20)])}
    with pytest.raises(UserError, match=r"holds an open file.*--workers 1"):
        build(source, tmp_path / "out", name="birds", shard_bytes=8_000, workers=2, console=Console(file=io.StringIO()))


def test_a_job_goes_to_another_process_as_bytes_and_is_made_there_once(tmp_path):
    done = []

    class Job:
        made = 0

        def __call__(self, unit, tally):
            done.append(unit)
            tally.add(left_out=True)

        def __setstate__(self, state):
            Job.made += 1

        def __getstate__(self):
            return {"some": "state"}

    heard = []
    do = DoUnit(Job())
    for unit in ("first", "second"):
        do(unit, lambda records, left_out: heard.append((records, left_out)))
    assert heard == [(1, 1), (1, 1)]


@pytest.fixture
def beam(monkeypatch):
    """Stands in for Apache Beam, which is not among the packages of the tests: it knows one flag, and runs at once."""

    class Step:
        def __init__(self, do):
            self.do = do

        def __ror__(self, units):
            return self.do(units)

    class Pipeline(list):
        local_tempdir = ""

        def __init__(self, options):
            super().__init__()

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return False

    class Options:
        def __init__(self, flags):
            self.flags = flags

        def get_all_options(self):
            if "--runner=" in self.flags:
                print("usage: ...\nprogram: error: argument --runner: expected one argument", file=sys.stderr)
                raise SystemExit(2)

    def mapped(function):
        def call(units):
            for unit in units:
                try:
                    function(unit)
                except UserError as error:
                    last = f"bioclip_jax.errors.UserError: {error} [while running 'Map']"
                    raise RuntimeError(f"Traceback (most recent call last):\n{last}\n") from error

        return Step(call)

    options = types.SimpleNamespace(PipelineOptions=Options)
    module = types.SimpleNamespace(
        Pipeline=Pipeline,
        Create=lambda units: Step(lambda _: units),
        Reshuffle=lambda: Step(lambda units: units[::-1]),
        Map=mapped,
    )
    monkeypatch.setitem(sys.modules, "apache_beam", module)
    monkeypatch.setitem(sys.modules, "apache_beam.options", types.SimpleNamespace(pipeline_options=options))
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", options)


@pytest.mark.usefixtures("beam")
def test_units_by_beam_give_the_files_that_this_process_gives(run):
    selection = Selection(mix=1, dedup=True)
    assert run("beam", selection=selection, beam=[]).manifest == run("here", selection=selection).manifest


@pytest.mark.usefixtures("beam")
def test_errors_of_beam_are_one_line(monkeypatch):
    def fail(unit, tally):
        raise UserError(f"unit {unit} is gone")

    with pytest.raises(UserError, match=r"^Apache Beam: unit 2 is gone$"):
        build_beam.run_by_beam(fail, [1, 2], [])
    with pytest.raises(UsageError, match=r"^flags of Apache Beam: argument --runner: expected one argument$"):
        build_beam.run_by_beam(fail, [1], ["--runner="])


def test_without_beam_its_flag_says_what_to_install_before_anything_is_touched(run, tmp_path, monkeypatch):
    run()
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(UsageError, match=r"pip install 'bioclip-jax\[beam\]'"):
        run(beam=[], overwrite=True)
    assert len(open_directory(tmp_path / "out")["train"]) == 119
