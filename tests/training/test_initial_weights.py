"""A run starts from anybody's weights: the first step sees them exactly, and another shape is refused at once."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import CLIPConfig, DataConfig, LossConfig, Preprocessing, TextConfig, TrainConfig, VisionConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.models import clip
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.training.initial import load_initial, open_initial

MODEL = CLIPConfig(16, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=1, heads=2))
CONFIG = """
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=1, heads=2)),
    data=DataConfig(dataset="synthetic", arguments=dict(num_images=64, num_species=20, image_size=32)),
    optimizer=OptimizerConfig(learning_rate=1e-12, weight_decay=0.0, warmup_steps=0),
    global_batch_size=16, total_steps=1, dtype="float32",
)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    parameters = clip.split(clip.CLIP(MODEL, rngs=nnx.Rngs(5)))[1]
    model = bioclip_jax.Model(MODEL, Preprocessing(geometry="squash"), parameters)
    folder = tmp_path_factory.mktemp("weights") / "model"
    model.save(folder, "hugging_face")
    return folder


def console():
    from rich.console import Console

    return Console(record=True, width=200)


@pytest.mark.parametrize("fsdp", [1, pytest.param(4, marks=(pytest.mark.slow, pytest.mark.full))])
def test_a_run_starts_from_the_weights_of_any_format(tmp_path, weights, capsys, fsdp):
    (tmp_path / "small.py").write_text(CONFIG)
    train = ["train", str(tmp_path / "small.py"), "--work-dir", str(tmp_path / "run")]
    train += ["--initial-weights", str(weights), "--mesh.fsdp", str(fsdp)]
    main([*train, "--dry-run"])
    assert "start     the weights of" in capsys.readouterr().out
    main(train)
    assert "preprocessing.geometry is center_crop here" in capsys.readouterr().err
    trained, start = bioclip_jax.load(tmp_path / "run"), bioclip_jax.load(weights)
    for a, b in zip(jax.tree.leaves(trained.parameters), jax.tree.leaves(start.parameters), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9)  # but for one step of 1e-12
    assert json.loads((tmp_path / "run" / "config.json").read_text())["initial_weights"] == str(weights)


@pytest.mark.core
@pytest.mark.parametrize("fsdp", [1, 4])
def test_a_missing_second_projector_starts_as_a_copy_of_the_first(weights, fsdp):
    model = dataclasses.replace(MODEL, replay_projector=True)
    replay = {"replay": DataConfig("replay"), "replay_batch_size": 4}
    config = TrainConfig(model, initial_weights=str(weights), **replay)
    parameters = load_initial(open_initial(config), config, make_mesh(fsdp=fsdp), console())
    proj, replay = parameters["visual"]["proj"], parameters["visual"]["replay_proj"]
    np.testing.assert_array_equal(proj, replay)
    assert proj.sharding == replay.sharding
    pointers = [shard.data.unsafe_buffer_pointer() for array in (proj, replay) for shard in array.addressable_shards]
    assert len(set(pointers)) == len(pointers)


@pytest.mark.core
def test_a_second_projector_that_is_not_asked_for_is_left_out(tmp_path):
    model = dataclasses.replace(MODEL, replay_projector=True)
    parameters = clip.split(clip.CLIP(model, rngs=nnx.Rngs(5)))[1]
    bioclip_jax.Model(model, Preprocessing(), parameters).save(tmp_path / "model", "orbax")
    config = TrainConfig(MODEL, initial_weights=str(tmp_path / "model"))
    loaded = load_initial(open_initial(config), config, make_mesh(), console())
    assert jax.tree.structure(loaded) == jax.tree.structure(clip.abstract(MODEL)[1])


@pytest.mark.core
def test_a_logit_bias_comes_and_goes_with_the_loss(tmp_path, weights):
    config = TrainConfig(MODEL, loss=LossConfig(kind="sigmoid"), initial_weights=str(weights))
    loaded = load_initial(open_initial(config), config, make_mesh(), console())
    assert jax.tree.structure(loaded) == jax.tree.structure(clip.abstract(config.model)[1])
    assert float(loaded["logit_bias"]) == -10
    assert float(loaded["logit_scale"]) == pytest.approx(np.log(10))
    bioclip_jax.Model(config.model, Preprocessing(), loaded).save(tmp_path / "model", "orbax")
    plain = TrainConfig(MODEL, initial_weights=str(tmp_path / "model"))
    assert "logit_bias" not in load_initial(open_initial(plain), plain, make_mesh(), console())


def test_weights_of_another_shape_are_refused_before_anything_is_written(tmp_path, weights):
    other = dataclasses.replace(MODEL, embed_dim=24, text=TextConfig(width=64, layers=1, heads=2))
    with pytest.raises(UsageError, match=r"model.embed_dim is 24, not its 16; model.text.width is 64, not its 32"):
        open_initial(TrainConfig(other, initial_weights=str(weights)))
    (tmp_path / "small.py").write_text(CONFIG)
    train = ["train", str(tmp_path / "small.py"), "--work-dir", str(tmp_path / "run"), "--model.embed-dim", "24"]
    with pytest.raises(SystemExit):
        main([*train, "--initial-weights", str(weights)])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_goes_on_when_its_initial_weights_are_gone(tmp_path, weights):
    import shutil

    shutil.copytree(weights, tmp_path / "weights")
    (tmp_path / "small.py").write_text(CONFIG.replace("total_steps=1", "total_steps=2"))
    train = ["train", str(tmp_path / "small.py"), "--work-dir", str(tmp_path / "run"), "--checkpoint.every-steps", "1"]
    train += ["--initial-weights", str(tmp_path / "weights")]
    main(train)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "2")
    shutil.rmtree(tmp_path / "weights")
    main(train)
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
