"""A run that is killed anywhere and started again repeats what the uninterrupted run did, bit for bit."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bioclip_jax.config_json import to_json
from bioclip_jax.pipeline.build import build
from bioclip_jax.recipes import load_recipe
from bioclip_jax.training.metrics import TIMINGS, read_metrics

CONFIG = """
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=1, heads=2)),
    data=DataConfig(dataset={dataset!r}),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=4),
    checkpoint=CheckpointConfig(every_steps=4, keep=2),
    global_batch_size=16,
    total_steps=18,
    dtype="float32",
    log_every=1,
)
"""


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """The command line of a small run, less its work directory."""
    folder = tmp_path_factory.mktemp("resume")
    source = load_recipe("data", "synthetic").source(num_images=200, num_species=20, image_size=32)
    build({"train": source["train"]}, folder / "data", name="synthetic")
    recipe = folder / "config.py"
    recipe.write_text(CONFIG.format(dataset=str(folder / "data")))
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_NUM_CPU_DEVICES": "2",
    }
    return [sys.executable, "-m", "bioclip_jax.cli", "train", str(recipe), "--work-dir"], environment


def start(command, work_dir):
    arguments, environment = command
    return subprocess.Popen(
        [*arguments, str(work_dir)], env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def stop_after(process, step, number):
    """Sends signal `number` once the line of `step` is printed."""
    for line in process.stderr:
        if line.startswith(f"step {step}/"):
            process.send_signal(number)
            break
    rest = process.stderr.read()
    return process.wait(timeout=120), rest


def finish(command, work_dir):
    process = start(command, work_dir)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def figures(work_dir):
    rows = read_metrics(work_dir)
    assert [row["step"] for row in rows] == list(range(18))
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(command, tmp_path_factory):
    """The figures of the run that nothing stopped."""
    work_dir = tmp_path_factory.mktemp("whole")
    finish(command, work_dir)
    return figures(work_dir)


# Before the first checkpoint and after the last, while one is being written, right after one, and twice in one run.
@pytest.mark.parametrize(
    "kills",
    [
        [4],
        pytest.param([12, 13], marks=pytest.mark.slow),
        *(pytest.param(kills, marks=(pytest.mark.slow, pytest.mark.full)) for kills in ([5, 9], [2], [17], [18])),
    ],
    ids=str,
)
def test_killed_run_repeats_the_uninterrupted_one(command, uninterrupted, tmp_path, kills):
    for step in kills:
        code, _ = stop_after(start(command, tmp_path), step, signal.SIGKILL)
        assert code == -signal.SIGKILL or step == 18  # the last line may come when the process is already done
    finish(command, tmp_path)
    assert figures(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 42)])
def test_interrupted_run_saves_its_last_step_and_continues_there(command, uninterrupted, tmp_path, number, expected):
    code, errors = stop_after(start(command, tmp_path), 6, number)
    assert code == expected
    assert "saved; run the same command to continue" in errors
    stopped_at = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert f"continuing from step {stopped_at} of 18" in finish(command, tmp_path)
    assert figures(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.full
def test_run_that_is_terminated_before_its_first_step_asks_to_be_started_again(command, uninterrupted, tmp_path):
    stop_after(start(command, tmp_path), 6, signal.SIGINT)
    process = start(command, tmp_path)
    for line in process.stderr:
        if line.startswith("continuing from step"):  # and compiles
            process.send_signal(signal.SIGTERM)
            break
    errors = process.stderr.read()
    assert process.wait(timeout=120) == 42, errors
    finish(command, tmp_path)
    assert figures(tmp_path) == uninterrupted


@pytest.mark.slow
@pytest.mark.full
def test_finished_run_is_left_as_it_is(command, uninterrupted, tmp_path):
    finish(command, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert "this run is finished" in finish(command, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
@pytest.mark.full
def test_second_interrupt_ends_the_run_at_once(command, uninterrupted, tmp_path):
    process = start(command, tmp_path)
    for line in process.stderr:
        if line.startswith("step 5/"):
            process.send_signal(signal.SIGINT)
        if line.startswith("stopping after this step"):
            process.send_signal(signal.SIGINT)
            break
    process.stderr.read()
    assert process.wait(timeout=120) == 130
    finish(command, tmp_path)
    assert figures(tmp_path) == uninterrupted


def test_two_processes_do_not_train_in_one_directory(command, tmp_path):
    first = start(command, tmp_path)
    next(line for line in first.stderr if line.startswith("step 1/"))
    first.send_signal(signal.SIGSTOP)  # alive, but it gets no further
    second = start(command, tmp_path)
    _, errors = second.communicate(timeout=120)
    first.kill()
    first.wait()
    assert second.returncode == 1
    assert "another process is training here now" in errors


@pytest.mark.slow
@pytest.mark.full
def test_run_killed_while_it_wrote_its_config_can_be_started_again(command, uninterrupted, tmp_path):
    (tmp_path / "config.json.tmp").write_text('{"mod')
    finish(command, tmp_path)
    assert figures(tmp_path) == uninterrupted


@pytest.mark.slow
def test_half_written_metrics_line_is_cut_off(command, uninterrupted, tmp_path):
    stop_after(start(command, tmp_path), 9, signal.SIGKILL)
    with Path(tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    finish(command, tmp_path)
    assert figures(tmp_path) == uninterrupted


def test_another_config_does_not_continue_the_run(command, tmp_path):
    config = load_recipe("configs", command[0][-2]).config
    (tmp_path / "config.json").write_text(to_json(dataclasses.replace(config, seed=7)))
    process = start(command, tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "holds a run whose seed is 7, not 42" in errors
    assert errors.count("\n") == 1
