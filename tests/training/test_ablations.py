"""What the config's ablations do to one step: each changes what it says, and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bioclip_jax.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    CLIPConfig,
    DataConfig,
    LossConfig,
    OptimizerConfig,
    Preprocessing,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.training.objective import Objective
from bioclip_jax.training.signals import place_signals
from bioclip_jax.training.step import make_program

CONFIG = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 32, 1, 2), TextConfig(width=32, layers=1, heads=2)),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    global_batch_size=8,
    total_steps=10,
    dtype="float32",
)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(devices=jax.devices()[:1])


def batch(seed=0):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8)
    return {"bio": {"image": images, "tokens": draw.integers(1, 49408, (8, 16)).astype(np.int32)}}


def one_step(mesh, config, streams=None):
    """State before and after a step, and its figures."""
    program = make_program(config, mesh, species=3)
    before = program.init()
    kept = jax.device_get(before)
    after, metrics = program.step(before, streams or batch(), place_signals({}, mesh))
    return kept, jax.device_get(after), jax.device_get(metrics)


def changed(before, after):
    """Names of the parameters that differ."""
    flat = jax.tree.leaves_with_path(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, differs in flat if differs}


@pytest.mark.parametrize("replay_projector", [True, False])
def test_replay_stream_adds_its_own_loss_with_and_without_a_projector_of_its_own(mesh, replay_projector):
    model = dataclasses.replace(CONFIG.model, replay_projector=replay_projector)
    streams = batch() | {"replay": batch(1)["bio"]}
    config = dataclasses.replace(CONFIG, model=model, replay=DataConfig("replay"), replay_batch_size=8)
    before, after, metrics = one_step(mesh, config, streams=streams)
    assert float(metrics["loss"]) == pytest.approx(float(metrics["bio_loss"] + metrics["replay_loss"]))
    assert {"visual/proj", "visual/replay_proj"} & changed(before.parameters, after.parameters) == {
        "visual/proj",
        *(["visual/replay_proj"] if replay_projector else []),
    }


@pytest.mark.parametrize("tower", ["visual", "text"])
def test_locked_tower_stays_as_it_is_and_has_no_moments(mesh, tower):
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(warmup_steps=0, locked=(tower,)))
    before, after, metrics = one_step(mesh, config)
    names = changed(before.parameters, after.parameters)
    assert names
    assert not any(name.startswith(tower) for name in names)
    moments = after.optimizer_state.inner_state[0].mu
    assert {name for name in ("visual", "text") if jax.tree.leaves(moments[name])} == {"visual", "text"} - {tower}
    assert np.isfinite(metrics["gradient_norm"])


def test_moving_average_follows_the_parameters(mesh):
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(warmup_steps=0, ema_decay=0.75))
    before, after, _ = one_step(mesh, config)
    for start, new, average in zip(*map(jax.tree.leaves, (before.ema, after.parameters, after.ema)), strict=True):
        np.testing.assert_allclose(average, 0.75 * start + 0.25 * new, rtol=1e-6, atol=1e-9)
    assert after.weights is after.ema


def test_average_of_bfloat16_parameters_moves(mesh):
    config = dataclasses.replace(
        CONFIG, dtype="bfloat16", parameter_dtype="bfloat16", optimizer=OptimizerConfig(warmup_steps=0, ema_decay=0.999)
    )
    before, after, _ = one_step(mesh, config)
    assert after.ema["logit_scale"].dtype == np.float32
    assert changed(before.ema, after.ema)


def test_species_are_learnt_without_the_text_tower_but_replay_keeps_it(mesh):
    config = dataclasses.replace(CONFIG, loss=LossConfig(kind="species"), optimizer=OptimizerConfig(warmup_steps=0))
    bio = batch()["bio"] | {"species": jnp.asarray([0, 1, 2, 0, 1, 2, 0, 1])}
    before, after, metrics = one_step(mesh, config, streams={"bio": bio})
    assert float(metrics["loss"]) == pytest.approx(np.log(3), rel=1e-5)  # the classifier starts from zero
    names = changed(before.parameters, after.parameters)
    assert "species/kernel" in names
    assert not any(name.startswith("text") for name in names)
    replay = dataclasses.replace(config, replay=dataclasses.replace(config.replay, dataset="x"), replay_batch_size=8)
    before, after, metrics = one_step(mesh, replay, streams={"bio": bio, "replay": batch(1)["bio"]})
    assert float(metrics["bio_loss"]) == pytest.approx(np.log(3), rel=1e-5)
    assert "text/proj" in changed(before.parameters, after.parameters)


def test_sigmoid_loss_trains_its_bias(mesh):
    config = dataclasses.replace(CONFIG, loss=LossConfig(kind="sigmoid"), optimizer=OptimizerConfig(warmup_steps=0))
    assert config.model.logit_bias
    before, after, _ = one_step(mesh, config)
    assert float(before.parameters["logit_bias"]) == -10
    assert {"logit_bias", "logit_scale"} <= changed(before.parameters, after.parameters)


def test_equal_captions_are_negatives_of_each_other_unless_asked(mesh):
    rows = batch()["bio"]
    streams = {"bio": rows | {"tokens": jnp.concatenate([rows["tokens"][:4]] * 2)}}
    plain = one_step(mesh, CONFIG, streams=streams)[2]
    several = one_step(mesh, dataclasses.replace(CONFIG, loss=LossConfig(several_positives=True)), streams=streams)[2]
    # Every caption is there twice: as negatives of each other the loss cannot fall below log 2.
    assert np.log(2) < float(plain["loss"])
    assert float(several["loss"]) < float(plain["loss"])


def test_normalisation_of_training_is_imagenets_or_the_models_own(mesh):
    photos = batch()["bio"]
    other = Preprocessing(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    for normalization, mean, std in (
        ("preprocessing", other.mean, other.std),
        ("imagenet", IMAGENET_MEAN, IMAGENET_STD),
    ):
        config = dataclasses.replace(CONFIG, preprocessing=other, normalization=normalization)
        pixels = Objective(config, mesh, None).pixels(photos)
        expected = (np.asarray(photos["image"]) / 255 - np.array(mean)) / np.array(std)
        np.testing.assert_allclose(pixels, expected, rtol=1e-4, atol=1e-5)


def test_parameters_and_moments_can_be_bfloat16_as_upstreams(mesh):
    _, after, metrics = one_step(mesh, dataclasses.replace(CONFIG, dtype="bfloat16", parameter_dtype="bfloat16"))
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((after.parameters, after.optimizer_state[0].nu))} == {
        "bfloat16"
    }
    assert np.isfinite(metrics["loss"])
