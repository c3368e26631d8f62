"""What a run leaves on disk: kept by policy, safe from a full disk, passed over by a restart where it is damaged."""

import dataclasses
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import CheckpointConfig, EvaluationConfig, OptimizerConfig
from bioclip_jax.errors import UserError
from bioclip_jax.recipes import load_recipe
from bioclip_jax.training.checkpointing import Checkpoints, _Kept, finished_steps, read_config
from bioclip_jax.training.evaluating import Evaluation
from bioclip_jax.training.file_sums import find_damage
from bioclip_jax.training.loop import Interrupted
from bioclip_jax.training.metrics import TIMINGS, read_evaluations, read_metrics
from bioclip_jax.training.run import train

CONFIG = """
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=1, heads=2)),
    data=DataConfig(dataset="synthetic", arguments=dict(num_images=64, num_species=20, image_size=32)),
    checkpoint=CheckpointConfig(every_steps=2, keep=2),
    global_batch_size=16, total_steps=6, dtype="float32",
)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: (recipe, work directory)."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.py").write_text(CONFIG)
    main(["train", str(folder / "config.py"), "--work-dir", str(folder / "run")])
    return folder / "config.py", folder / "run"


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run[1], tmp_path / "copy")
    return tmp_path / "copy"


def fails(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    errors = capsys.readouterr().err
    assert exit_info.value.code == 1
    assert message in errors
    assert "Traceback" not in errors


def test_last_two_checkpoints_are_kept(run):
    assert finished_steps(run[1]) == [4, 6]


def test_every_step_has_its_figures(run):
    rows = read_metrics(run[1])
    assert [row["step"] for row in rows] == list(range(6))
    assert {"loss", "accuracy", "logit_scale", "gradient_norm", "images_per_second", "mfu", "data_wait_share"} <= set(
        rows[0]
    )
    assert all(0 <= row["data_wait_share"] <= 1 and row["mfu"] > 0 for row in rows)
    assert list((run[1] / "tensorboard").glob("events.out.tfevents.*"))


def test_any_checkpoint_of_a_run_can_be_opened(run):
    early, late = bioclip_jax.load(run[1] / "checkpoints" / "4"), bioclip_jax.load(run[1])
    assert early.fingerprint != late.fingerprint
    assert late.name == "run"
    assert late.config == read_config(run[1]).model


def test_exported_weights_give_the_same_features(run, tmp_path):
    main(["convert", str(run[1]), str(tmp_path / "open_clip"), "--to", "open_clip"])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    ours, exported = bioclip_jax.load(run[1]), bioclip_jax.load(tmp_path / "open_clip")
    np.testing.assert_array_equal(ours.encode_image(pixels), exported.encode_image(pixels))
    np.testing.assert_array_equal(ours.encode_text(["a"]), exported.encode_text(["a"]))
    assert ours.fingerprint == exported.fingerprint


def test_continuing_on_another_mesh_is_allowed(run, copy):
    shutil.rmtree(copy / "checkpoints" / "6")
    main(["train", str(run[0]), "--work-dir", str(copy), "--mesh.fsdp", "4"])
    assert finished_steps(copy) == [4, 6]
    whole, split = bioclip_jax.load(run[1]), bioclip_jax.load(copy)
    for a, b in zip(jax.tree.leaves(whole.parameters), jax.tree.leaves(split.parameters), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def damage(checkpoint, how):
    """Damages the largest file of a checkpoint; returns its name."""
    largest = max((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    if how == "missing":
        largest.unlink()
    elif how == "truncated":
        largest.write_bytes(data[: len(data) // 2])
    else:
        data[len(data) // 2] ^= 1
        largest.write_bytes(data)
    return largest.relative_to(checkpoint).as_posix()


@pytest.mark.parametrize(
    ("how", "what"),
    [("missing", "is missing"), ("truncated", "bytes instead of"), ("flipped", "has other content than was written")],
)
def test_damage_of_a_file_is_found_and_named(copy, how, what):
    checkpoint = copy / "checkpoints" / "6"
    assert find_damage(checkpoint) is None
    name = damage(checkpoint, how)
    found = find_damage(checkpoint)
    assert found.startswith(name)
    assert what in found


def continued(run, work_dir):
    """What a run says when it is started again."""
    console = Console(file=io.StringIO(), width=300)
    train(load_recipe("configs", str(run[0])).config, work_dir, console)
    return console.file.getvalue()


def figures(work_dir):
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in read_metrics(work_dir)]


def test_disk_that_does_not_answer_is_no_damage(run, copy, monkeypatch):
    def stale(path):
        raise OSError(116, "Stale file handle")

    with monkeypatch.context() as context:
        context.setattr("bioclip_jax.training.file_sums._sum", stale)
        with pytest.raises(UserError, match=r"6 cannot be read now \(Stale file handle\) and is left") as failed:
            continued(run, copy)
    assert failed.value.exit_code == 42
    assert not list((copy / "checkpoints").glob("*.damaged"))


def test_checkpoint_whose_sums_were_not_written_gets_them_when_it_was_read(run, copy):
    sums = copy / "checkpoints" / "6" / "file_sums.json"
    sums.unlink()
    assert "this run is finished" in continued(run, copy)
    assert find_damage(copy / "checkpoints" / "6") is None
    assert sums.exists()


def test_run_continues_loudly_from_the_checkpoint_before_a_damaged_one(run, copy):
    name = damage(copy / "checkpoints" / "6", "flipped")
    said = continued(run, copy)
    assert f"checkpoints/6 is damaged: {name} has other content than was written" in said
    assert "continuing from step 4 of 6" in said
    assert (copy / "checkpoints" / "6.damaged").is_dir()
    assert finished_steps(copy) == [4, 6]
    assert figures(copy) == figures(run[1])


def test_half_written_checkpoint_without_sums_is_passed_over_and_a_run_without_any_is_not_begun_anew(run, copy):
    for step in ("4", "6"):
        (copy / "checkpoints" / step / "file_sums.json").unlink()
        for path in (copy / "checkpoints" / step).rglob("*"):
            if path.is_file() and path.stat().st_size > 1000:
                path.write_bytes(path.read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(UserError, match=r"all checkpoints are damaged \(4.damaged, 6.damaged\); put one back"):
            continued(run, copy)


def test_damaged_checkpoint_is_one_line(run, copy, capsys):
    for path in (copy / "checkpoints" / "6").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])
    fails(capsys, ["convert", copy, copy / "out", "--to", "open_clip"], "not a readable checkpoint")


@pytest.mark.slow
def test_full_disk_while_figures_are_written_is_one_line(run, tmp_path):
    tiny = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, "-m", "bioclip_jax.cli"]
    command = [*tiny, "train", str(run[0]), "--work-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr


@pytest.mark.slow
def test_full_disk_during_a_checkpoint_loses_nothing_that_was_finished(run, copy):
    shutil.rmtree(copy / "checkpoints" / "6")
    # Files may grow to 200 blocks only: like a disk that fills up while the arrays are written.
    full = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", sys.executable, "-m", "bioclip_jax.cli"]
    command = [*full, "train", str(run[0]), "--work-dir", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    assert "could not be written" in done.stderr
    assert finished_steps(copy) == [4]
    main(["train", str(run[0]), "--work-dir", str(copy)])
    assert finished_steps(copy) == [4, 6]


def test_work_directory_that_cannot_be_written_is_one_line(run, capsys):
    fails(capsys, ["train", run[0], "--work-dir", Path("/proc/nothing/run")], "cannot be written")


def kept(config, steps, figures):
    policy = _Kept(config, figures)
    answers = policy.should_preserve([SimpleNamespace(step=step) for step in steps], context=None)
    return [step for step, answer in zip(steps, answers, strict=True) if answer]


def test_checkpoints_are_kept_by_age_by_multiple_and_by_what_was_measured():
    steps, figures = [2, 4, 5, 6, 8], {3: 0.5, 5: 0.9, 7: 0.7}
    assert kept(CheckpointConfig(keep=2), steps, {}) == [6, 8]
    assert kept(CheckpointConfig(keep=1, keep_every_steps=4), steps, {}) == [4, 8]
    best = CheckpointConfig(keep=1, best_metric="accuracy")
    assert kept(best, steps, figures) == [5, 8]  # 6 has the figure of step 5, too, but is later
    assert kept(dataclasses.replace(best, best_is="lowest"), steps, figures) == [4, 8]
    assert kept(best, [2], {}) == [2]


def test_steps_that_are_kept_for_good_are_saved_also_between_the_others(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(every_steps=4, keep_every_steps=6))
    assert [step for step in range(1, 13) if checkpoints.due(step)] == [4, 6, 8, 12]
    checkpoints.finish()


@pytest.mark.slow
def test_best_checkpoint_by_the_evaluation_is_kept_and_a_restart_repeats_the_evaluations(run, tmp_path):
    config = dataclasses.replace(
        load_recipe("configs", str(run[0])).config,
        evaluation=EvaluationConfig(every_steps=2, validation_split="test", validation_steps=1),
        checkpoint=CheckpointConfig(every_steps=4, keep=1, best_metric="validation_loss", best_is="highest"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    )
    quiet = Console(quiet=True)
    train(config, tmp_path / "run", quiet)
    measured = read_evaluations(tmp_path / "run")
    assert [row["step"] for row in measured] == [1, 3, 5]
    best = max(measured, key=lambda row: row["validation_loss"])["step"] + 1
    assert finished_steps(tmp_path / "run") == sorted({best, 6})
    if best != 6:
        shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
        train(config, tmp_path / "run", quiet)
        assert read_evaluations(tmp_path / "run") == measured
    lines = tmp_path / "run" / "evaluations.jsonl"  # the last one missing, as where a stop came before it
    lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    train(config, tmp_path / "run", quiet)
    assert read_evaluations(tmp_path / "run") == measured


def test_stop_during_an_evaluation_leaves_it_to_the_next_start(run, tmp_path, monkeypatch):
    """Also during the last one, where the run is not finished before it has that."""
    config = dataclasses.replace(
        load_recipe("configs", str(run[0])).config,
        evaluation=EvaluationConfig(every_steps=3, validation_split="test", validation_steps=1),
    )
    train(config, tmp_path / "whole", Console(quiet=True))
    evaluate = Evaluation.run

    def stopped(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*arguments)

    def stopped_at(done):
        def run(self, weights, step, *rest):
            return (stopped if step == done else evaluate)(self, weights, step, *rest)

        return run

    for done in (3, 6):  # the second start catches up with the first evaluation
        monkeypatch.setattr(Evaluation, "run", stopped_at(done))
        with pytest.raises(Interrupted, match=f"stopped after step {done} of 6") as stop:
            train(config, tmp_path / "run", Console(quiet=True))
        assert stop.value.exit_code == 42
        assert finished_steps(tmp_path / "run")[-1] == done
    assert [row["step"] for row in read_evaluations(tmp_path / "run")] == [2]
    monkeypatch.setattr(Evaluation, "run", evaluate)
    train(config, tmp_path / "run", Console(quiet=True))
    assert read_evaluations(tmp_path / "run") == read_evaluations(tmp_path / "whole")


def test_an_evaluation_that_fails_costs_no_step(run, tmp_path, monkeypatch):
    def failing(*arguments):
        raise RuntimeError("the devices have no room for it")

    config = dataclasses.replace(
        load_recipe("configs", str(run[0])).config,
        evaluation=EvaluationConfig(every_steps=3, validation_split="test", validation_steps=1),
        checkpoint=CheckpointConfig(every_steps=100),
    )
    monkeypatch.setattr(Evaluation, "run", failing)
    with pytest.raises(RuntimeError, match="no room"):
        train(config, tmp_path / "run", Console(quiet=True))
    assert finished_steps(tmp_path / "run") == [3]
    assert len(read_metrics(tmp_path / "run")) == 3


def test_a_save_that_never_ends_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    never, failing = threading.Event(), SimpleNamespace(wait=lambda: 1 / 0)
    for checkpointer in (SimpleNamespace(wait=never.wait), failing):
        monkeypatch.setattr(checkpoints, "_checkpointer", checkpointer)
        checkpoints.settle(0.1)
    never.set()


def test_checkpoints_come_by_time_besides_those_by_step(run, tmp_path):
    config = load_recipe("configs", str(run[0])).config
    always = dataclasses.replace(config, checkpoint=CheckpointConfig(every_steps=100, every_minutes=1e-9, keep=9))
    train(always, tmp_path / "run", Console(quiet=True))
    assert finished_steps(tmp_path / "run") == [1, 2, 3, 4, 5, 6]


def test_steps_that_are_not_finite_are_skipped_told_and_past_the_limit_end_the_run(run, tmp_path):
    config = dataclasses.replace(
        load_recipe("configs", str(run[0])).config,
        optimizer=OptimizerConfig(learning_rate=1e30, warmup_steps=0),
        max_skipped_steps=1,
        total_steps=20,
    )
    console = Console(file=io.StringIO(), width=300)
    with pytest.raises(UserError, match=r"[23] steps were skipped .* step \d+ \(loss nan.*lower optimizer.learning"):
        train(config, tmp_path / "run", console)
    assert "is not finite and changes nothing; 1 steps were skipped so far" in console.file.getvalue()
    rows = read_metrics(tmp_path / "run")
    assert rows[-1]["loss"] is None
    assert finished_steps(tmp_path / "run")[-1] == len(rows) < 20
