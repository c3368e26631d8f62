"""The published recipe in small, from one OpenCLIP folder to another: BioCLIP 2's own config on few photos."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from flax import nnx

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import CLIPConfig, Preprocessing, TextConfig, VisionConfig
from bioclip_jax.inference.model import Model
from bioclip_jax.models import clip
from bioclip_jax.training.checkpointing import finished_steps
from bioclip_jax.training.metrics import read_metrics

MODEL = CLIPConfig(32, VisionConfig(32, 8, 64, 2, 2), TextConfig(width=32, layers=1, heads=1))

CONFIG = """
import dataclasses
from bioclip_jax.config import *
from bioclip_jax.recipes import load_recipe

published = load_recipe("configs", "bioclip2").config
config = dataclasses.replace(
    published,
    model=dataclasses.replace({model}, replay_projector=True),
    initial_weights={folder!r} + "/initial",
    data=dataclasses.replace(published.data, dataset={folder!r} + "/data"),
    replay=dataclasses.replace(published.replay, dataset={folder!r} + "/replay.py"),
    optimizer=dataclasses.replace(published.optimizer, learning_rate=1e-3, warmup_steps=3),
    evaluation=EvaluationConfig(
        every_steps=5, benchmarks={{"organisms": {folder!r} + "/data"}}, max_images=60, validation_split="test",
        validation_steps=1,
    ),
    checkpoint=CheckpointConfig(every_steps=4, best_metric="validation_loss", best_is="lowest"),
    global_batch_size=32, replay_batch_size=8, total_steps=14, steps_per_epoch=0, log_every=1,
)
"""

REPLAY = '''
"""Squares of one colour, with captions as people write them."""
import numpy as np


class Squares:
    def __len__(self):
        return 50

    def __getitem__(self, index):
        image = np.full((40, 40, 3), 5 * index, np.uint8)
        return {"key": str(index), "image": image, "caption": f"a square, shade {index}"}


def source():
    return {"train": Squares()}
'''


@pytest.fixture(scope="module")
def recipe(photos, tmp_path_factory):
    """The config's file, in a folder with its data and initial weights."""
    folder = tmp_path_factory.mktemp("recipe")
    parameters = clip.split(clip.CLIP(MODEL, rngs=nnx.Rngs(7)))[1]
    Model(MODEL, Preprocessing(), parameters, "initial").save(folder / "initial", "open_clip")
    main(["data", "build", "photo_table", str(folder / "data"), "--table", str(photos / "metadata.csv")])
    (folder / "replay.py").write_text(REPLAY)
    (folder / "config.py").write_text(CONFIG.format(folder=str(folder), model=MODEL))
    return folder / "config.py"


def train(recipe, devices, *flags, stop_after=0):
    """Exit code and output of a run on so many devices; SIGTERM once a step's line is there."""
    command = [sys.executable, "-m", "bioclip_jax.cli", "train", str(recipe), *flags]
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(devices)}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(f"step {stop_after}/"):
            process.send_signal(signal.SIGTERM)
    return process.wait(timeout=300), "".join(lines)


@pytest.mark.slow
def test_recipe_runs_through_a_stop_and_another_mesh_from_open_clip_to_open_clip(recipe, tmp_path):
    work_dir = tmp_path / "run"
    code, shown = train(recipe, 2, "--work-dir", str(work_dir), stop_after=6)
    assert code == 42, shown
    assert "starting from the weights of" in shown
    stopped_at = finished_steps(work_dir)[-1]
    assert 6 <= stopped_at < 14
    code, shown = train(recipe, 4, "--work-dir", str(work_dir), "--mesh.fsdp", "2")
    assert code == 0, shown
    assert f"continuing from step {stopped_at} of 14" in shown

    rows = read_metrics(work_dir)
    assert [row["step"] for row in rows] == list(range(14))
    assert all(np.isclose(row["loss"], row["bio_loss"] + row["replay_loss"], rtol=1e-4) for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert {row["skipped"] for row in rows} == {0}

    main(["convert", str(work_dir), str(tmp_path / "out"), "--to", "open_clip"])
    ours, exported = bioclip_jax.load(work_dir), bioclip_jax.load(tmp_path / "out")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    np.testing.assert_array_equal(ours.encode_image(pixels), exported.encode_image(pixels))
    settings = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    assert settings["preprocess_cfg"]["mean"] == pytest.approx(Preprocessing().mean)


def test_plan_of_the_published_run_can_be_read_anywhere(capsys):
    main(["train", "bioclip2", "--dry-run"])
    shown = capsys.readouterr().out
    for promise in (
        "90,112 + 10,240 pairs",
        "71,280 steps (30 epochs of 2,376)",
        "1,875 steps of warm-up",
        "428.4 M parameters",
        "52.8 PFLOP a step",
        "hf-hub:laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        "every 500 steps and 20 minutes, 5.14 GB each",
        "treeoflife-200m, laion-2b-replay: not on this machine",
    ):
        assert promise in shown


@pytest.mark.parametrize("name", ["bioclip", "bioclip25"])
def test_plans_of_the_other_published_models_can_be_read_anywhere(name, capsys):
    main(["train", name, "--dry-run"])
    assert "warm-up" in capsys.readouterr().out


def test_run_without_a_work_directory_is_one_line(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["train", "bioclip2"])
    assert exit_info.value.code == 2
    assert "name a folder for the run with --work-dir" in capsys.readouterr().err
