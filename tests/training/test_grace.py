"""What a checkpoint holds and how long a save takes, computed from a config alone."""

import dataclasses
import math

import jax
import pytest

from bioclip_jax.config import CLIPConfig, LossConfig, OptimizerConfig, TrainConfig
from bioclip_jax.models.sizes import parameter_count
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.recipes import load_recipe
from bioclip_jax.training.grace import checkpoint_bytes, grace_seconds
from bioclip_jax.training.step import make_program

pytestmark = pytest.mark.core

CONFIGS = {
    **{name: load_recipe("configs", name).config for name in ("demo", "bioclip", "bioclip2")},
    "locked image tower": TrainConfig(optimizer=OptimizerConfig(locked=("visual",))),
    "locked text tower": TrainConfig(optimizer=OptimizerConfig(locked=("text",))),
    "moving average": TrainConfig(optimizer=OptimizerConfig(ema_decay=0.9)),
    "small moments": TrainConfig(optimizer=OptimizerConfig(moment_dtype="bfloat16")),
    "bfloat16": TrainConfig(parameter_dtype="bfloat16"),
}


def program(config, species=None):
    config = dataclasses.replace(config, attention="xla", mesh=TrainConfig().mesh)
    return make_program(config, make_mesh(devices=jax.devices()[:1]), species=species)


def bytes_of(tree):
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_and_bytes_of_a_checkpoint_are_those_of_the_state(name):
    state = program(CONFIGS[name]).abstract_state
    assert parameter_count(CONFIGS[name].model) == sum(
        math.prod(leaf.shape) for leaf in jax.tree.leaves(state.parameters)
    )
    assert checkpoint_bytes(CONFIGS[name]) == bytes_of(state)


@pytest.mark.parametrize(
    ("model", "millions"),  # as open_clip counts them
    [
        (CLIPConfig.vit_b16(), 149.62),
        (CLIPConfig.vit_b32(), 151.28),
        (CLIPConfig.vit_l14(), 427.62),
        (CLIPConfig.vit_h14(), 986.11),
    ],
)
def test_parameters_are_as_many_as_others_count(model, millions):
    assert parameter_count(model) / 1e6 == pytest.approx(millions, abs=0.005)


def test_classifier_of_species_is_all_that_a_config_does_not_say():
    config = TrainConfig(loss=LossConfig("species"))
    state = program(config, species=100).abstract_state
    width = config.model.embed_dim
    missing = bytes_of(state) - checkpoint_bytes(config)
    assert 0 < missing <= 3 * 4 * 100 * (width + 1)


def test_grace_period_holds_the_steps_to_agree_and_one_save_after_another():
    assert grace_seconds(1.0, 0.0) == 60  # 4 + 30 s, up to half minutes
    assert grace_seconds(10.0, 25.0) == 120
    assert grace_seconds(10.0, 25.1) == 150
