"""What a run leaves on disk: kept by policy, never damaged by a full disk, and refused with one line when damaged."""

import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.training.checkpointing import finished_steps, read_config
from bioclip_jax.training.metrics import read_metrics

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


def test_damaged_checkpoint_is_one_line(run, copy, capsys):
    for path in (copy / "checkpoints" / "6").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:100])
    fails(capsys, ["convert", copy, copy / "out", "--to", "open_clip"], "not a readable checkpoint")


def test_full_disk_while_figures_are_written_is_one_line(run, tmp_path):
    tiny = ["sh", "-c", 'ulimit -f 1; exec "$@"', "sh", sys.executable, "-m", "bioclip_jax.cli"]
    command = [*tiny, "train", str(run[0]), "--work-dir", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr


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
