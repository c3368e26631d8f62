"""A run rehearsed on this machine: processes that find each other as in a cluster, are lost, and go on."""

import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.cli import main
from bioclip_jax.config import DataConfig, TrainConfig
from bioclip_jax.config_json import to_json
from bioclip_jax.launching import local
from bioclip_jax.launching.local import Rehearsal, Screen, commands, free_port, is_finished, rehearse
from bioclip_jax.launching.supervise import Command, Policy
from bioclip_jax.launching.sweep import Point, points
from bioclip_jax.parallel.distributed import Place, place_of
from bioclip_jax.training.metrics import TIMINGS, read_metrics

pytestmark = pytest.mark.core

STEPS = 24
CONFIG = f"""
import dataclasses
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(8, VisionConfig(16, 8, 16, 1, 2), TextConfig(width=16, layers=1, heads=2)),
    data=DataConfig(
        dataset="synthetic", arguments=dict(num_images=40, num_species=10, image_size=16), text_types=("sci",),
        prefetch_batches=1, threads=1,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    checkpoint=CheckpointConfig(every_steps=3, keep=2),
    global_batch_size=8,
    total_steps={STEPS},
    dtype="float32",
    log_every=1,
)
"""


@pytest.fixture
def recipe(tmp_path):
    """The file of a config."""
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def grid(tmp_path):
    """The file of a grid whose variants are one, two and three."""
    path = tmp_path / "grid.py"
    varied = 'configs = {name: dataclasses.replace(config, seed=i) for i, name in enumerate(("one", "two", "three"))}\n'
    path.write_text(CONFIG.replace("\nconfig = ", "\nbase = ") + varied.replace("(config", "(base"))
    return path


def test_processes_find_their_places_as_in_a_cluster():
    here = {"PATH": "/bin", "JAX_PLATFORMS": "cuda", "XLA_FLAGS": "--mine"}
    here |= {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "a,b", "SLURM_NTASKS": "2", "SLURM_PROCID": "1"}
    here |= {"SLURM_LOCALID": "0", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    started = commands(Point(TrainConfig(), "demo", "run"), ["--seed", "7"], Rehearsal(3, 2), 25_000, here)
    assert [place_of(None, None, None, command.environment) for command in started] == [
        Place("127.0.0.1:25000", 3, index) for index in range(3)
    ]
    assert all(command.arguments[3:] == ["train", "demo", "--work-dir", "run", "--seed", "7"] for command in started)
    assert all(command.environment["JAX_PLATFORMS"] == "cpu" for command in started)
    assert all(command.environment["JAX_NUM_CPU_DEVICES"] == "2" for command in started)
    assert all(command.environment["XLA_FLAGS"] == "--mine" for command in started)


def test_processes_do_not_look_for_each_other_at_a_proxy():
    def environment_of(here):
        return commands(Point(TrainConfig(), "demo", "run"), [], Rehearsal(), 25_000, here)[0].environment

    assert environment_of({"https_proxy": "http://proxy:3128"})["no_grpc_proxy"] == "127.0.0.1"
    assert "no_grpc_proxy" not in environment_of({})  # JAX warns where there is any such variable


def test_port_is_one_at_which_nobody_listens(monkeypatch):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        taken = other.getsockname()[1]
        monkeypatch.setattr(local.random, "sample", lambda ports, count: [taken, 25_001])
        assert free_port() == 25_001


def test_nothing_is_written_into_a_folder_before_the_trainer_has_claimed_it(tmp_path):
    screen = Screen(io.StringIO())
    with screen.logged(tmp_path / "refused", 2):
        screen.show(0, "error: that is no place for a run")
    assert not (tmp_path / "refused").exists()
    with screen.logged(tmp_path, 2):
        screen.show(None, "started")
        screen.show(1, "early")
        (tmp_path / "config.json").write_text("{}")
        screen.show(0, "step 1")
    assert (tmp_path / "logs" / "process-0.log").read_text() == "rehearsal: started\nstep 1\n"
    assert (tmp_path / "logs" / "process-1.log").read_text() == "early\n"


def test_output_that_nobody_reads_does_not_end_the_run(tmp_path):
    stream = io.StringIO()
    screen = Screen(stream)
    stream.close()
    with screen.logged(tmp_path, 1):
        (tmp_path / "config.json").write_text("{}")
        screen.show(0, "step 1")
    assert (tmp_path / "logs" / "process-0.log").read_text() == "step 1\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the disk that is always full is Linux's")
def test_log_on_a_full_disk_does_not_end_the_run(tmp_path):
    stream = io.StringIO()
    screen = Screen(stream)
    log = tmp_path / "logs" / "process-0.log"
    log.parent.mkdir()
    log.symlink_to("/dev/full")
    with screen.logged(tmp_path, 1):
        (tmp_path / "config.json").write_text("{}")
        screen.show(0, "step 1")
        screen.show(0, "step 2")
    assert stream.getvalue() == "[0] step 1\n[0] step 2\n"


def test_directory_of_another_run_gets_no_logs(tmp_path):
    (tmp_path / "config.json").write_text("another's")
    screen = Screen(io.StringIO())
    with screen.logged(tmp_path, 1):
        screen.show(0, "error: it holds a run of another config")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.fixture
def trainer(monkeypatch):
    """Programs in place of the trainer, by variant; those that were started, in order."""
    programs, started = {}, []

    def fake(point, fields, rehearsal, port):
        started.append(point.variant)
        return [Command([sys.executable, "-I", "-S", "-c", programs.get(point.variant, "")], os.environ)]

    monkeypatch.setattr(local, "commands", fake)
    return programs, started


def sweep(tmp_path):
    return points("grid", {name: TrainConfig() for name in ("one", "two", "three")}, str(tmp_path))


def test_failed_point_does_not_keep_the_others_from_their_turn(trainer, tmp_path, capsys):
    programs, started = trainer
    programs["two"] = "raise SystemExit(2)"
    assert rehearse(sweep(tmp_path), [], Rehearsal(1), Policy(settle_seconds=0.1)) == 1
    assert started == ["one", "two", "three"]
    assert capsys.readouterr().err.splitlines()[-1] == "rehearsal: 1 of 3 points failed: two"


def test_stopped_sweep_starts_no_further_point(trainer, tmp_path):
    programs, started = trainer
    programs["two"] = f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM); signal.pause()"
    assert rehearse(sweep(tmp_path), [], Rehearsal(1), Policy(settle_seconds=0.1)) == 42
    assert started == ["one", "two"]


def test_finished_points_are_passed_over(trainer, tmp_path, capsys):
    _, started = trainer
    one, two, _ = all_points = sweep(tmp_path)
    for point, config in ((one, one.config), (two, TrainConfig(data=DataConfig(dataset="another")))):
        last = tmp_path / point.name / "checkpoints" / str(config.total_steps)
        last.mkdir(parents=True)
        (tmp_path / point.name / "config.json").write_text(to_json(config))
        (last / "file_sums.json").write_text("{}")
    assert is_finished(one)
    assert not is_finished(two)  # the trainer will refuse it, aloud
    assert rehearse(all_points, [], Rehearsal(1), Policy()) == 0
    assert started == ["two", "three"]
    assert "rehearsal: one (1 of 3): finished before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "--processes is 0"),
        (["--devices-per-process", "-1"], "--devices-per-process is -1"),
        (["--max-restarts", "-1"], "--max-restarts is -1"),
        (["--grace-seconds", "0"], "--grace-seconds is 0"),
        (["--total-steps", "0"], "grid.py:one: total_steps is 0"),
    ],
)
def test_wrong_arguments_are_one_line(grid, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as stopped:
        main(["launch", "local", str(grid), "--work-dir", str(tmp_path / "run"), *arguments])
    shown = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in shown
    assert shown.count("\n") == 1
    assert not (tmp_path / "run").exists()


def figures(work_dir):
    rows = read_metrics(work_dir)
    assert [row["step"] for row in rows] == list(range(STEPS))
    names = sorted(rows[0].keys() - set(TIMINGS) - {"replaced_samples"})
    return np.array([[row[name] for name in names] for row in rows])


@pytest.mark.slow
def test_trainer_that_refuses_its_config_ends_the_rehearsal_with_its_code(recipe, tmp_path, capsys):
    flags = ["--processes", "2", "--devices-per-process", "2", "--global-batch-size", "6"]
    with pytest.raises(SystemExit) as stopped:
        main(["launch", "local", str(recipe), "--work-dir", str(tmp_path / "run"), *flags])
    shown = capsys.readouterr().err
    assert stopped.value.code == 2, shown
    for index in (0, 1):
        assert f"[{index}] error: global_batch_size 6 does not divide over 4 devices" in shown
    assert "starting all processes again" not in shown
    assert not (tmp_path / "run").exists()


class Started:
    """The command as a user starts it, with what it says."""

    def __init__(self, recipe, work_dir, *flags):
        command = [sys.executable, "-m", "bioclip_jax.cli", "launch", "local", str(recipe), "--work-dir", str(work_dir)]
        environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # nobody answers there
        self.process = subprocess.Popen([*command, *flags], env=environment, stderr=subprocess.PIPE, text=True)
        self.lines = []

    def until(self, text):
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"it ended before {text!r}: {''.join(self.lines)}")

    def ends(self):
        self.lines += self.process.stderr
        return self.process.wait(timeout=60), "".join(self.lines)


@pytest.fixture
def start():
    """Starts such commands, and leaves none behind, however the test ends."""
    commands_started = []

    def call(*arguments):
        commands_started.append(Started(*arguments))
        return commands_started[-1]

    yield call
    for started in commands_started:
        started.process.kill()
        started.process.communicate()


@pytest.mark.slow
def test_run_survives_a_killed_process_an_eviction_and_a_restart_with_half_the_processes(recipe, start, tmp_path):
    main(["train", str(recipe), "--work-dir", str(tmp_path / "whole")])  # one process with four devices

    run = start(recipe, tmp_path / "run", "--processes", "4")
    process_ids = run.until("process ids: ").split("process ids: ")[1].split(", ")
    run.until(f"[0] step 4/{STEPS}")
    os.kill(int(process_ids[2].split()[-1]), signal.SIGKILL)
    run.until("process 2 was ended by SIGKILL")
    run.until("starting all processes again (1 of at most 3)")
    run.until("continuing from step 3")
    run.until(f"[0] step 7/{STEPS}")
    run.process.terminate()
    code, shown = run.ends()
    assert code == 42, shown
    assert "saved; run the same command to continue" in shown
    stopped_at = len(read_metrics(tmp_path / "run"))
    assert 7 <= stopped_at < STEPS

    code, shown = start(recipe, tmp_path / "run", "--processes", "2", "--devices-per-process", "2").ends()
    assert code == 0, shown
    assert f"continuing from step {stopped_at} of {STEPS}" in shown
    assert f"step {STEPS}/{STEPS}" in (tmp_path / "run" / "logs" / "process-0.log").read_text()
    np.testing.assert_allclose(figures(tmp_path / "run"), figures(tmp_path / "whole"), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_every_block_of_the_pages_on_rehearsals_and_sweeps_runs(tmp_path, monkeypatch, capsys):
    pages = [Path(__file__).parents[2] / "docs" / name for name in ("launch/local.md", "sweeps.md")]
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    for page in pages:
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        assert blocks
        for language, code in blocks:
            if language == "python":
                Path("my/widths.py").write_text(code)
                shutil.rmtree("my/data")
                continue
            for line in code.splitlines():
                main(shlex.split(line.removeprefix("bioclip-jax ")))
    assert len(read_metrics(Path("my/rehearsal"))) == 6
    shown = capsys.readouterr().err
    assert "width-64 (2 of 2)" in shown
    assert "this run is finished" in shown
    header, *rows = Path("my/widths.csv").read_text().splitlines()
    assert header.startswith("run,model.vision.width,steps,loss")
    assert [row.split(",")[:3] for row in rows] == [["width-32", "32", "4"], ["width-64", "64", "4"]]
