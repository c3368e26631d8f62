"""A run as a model: the average of its parameters where it keeps one, and nothing that only training needs."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import bioclip_jax
from bioclip_jax.checkpoints import save_tree
from bioclip_jax.config import LossConfig, OptimizerConfig, TrainConfig
from bioclip_jax.config_json import to_json
from bioclip_jax.convert.weights import flatten
from bioclip_jax.errors import UserError
from bioclip_jax.inference.export import convert
from bioclip_jax.parallel.mesh import make_mesh
from tests.convert.conftest import SMALL, random_parameters


def write_run(folder, config, **parts):
    """A work directory whose checkpoint of step 7 holds `parts`."""
    folder.mkdir()
    (folder / "config.json").write_text(to_json(config))
    save_tree(folder / "checkpoints" / "7", jax.tree.map(np.asarray, {"step": 7, **parts}))
    return folder


def same(parameters, expected):
    ours, theirs = flatten(parameters), flatten(expected)
    assert ours.keys() == theirs.keys()
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(np.asarray(ours[path]), leaf.astype(np.float32), err_msg=path)


CONFIG = TrainConfig(SMALL)
AVERAGED = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(ema_decay=0.9))


@pytest.mark.parametrize("config", [CONFIG, AVERAGED], ids=["plain", "averaged"])
def test_a_run_with_an_average_is_its_average_and_another_its_parameters(tmp_path, config):
    last, average = random_parameters(SMALL, seed=1), random_parameters(SMALL, seed=2)
    parts = {"parameters": last, "ema": average if config is AVERAGED else None}
    run = write_run(tmp_path / "run", config, **parts)
    expected = average if config is AVERAGED else last
    same(bioclip_jax.load(run).parameters, expected)
    same(bioclip_jax.load(run / "checkpoints" / "7", mesh=make_mesh(fsdp=2)).parameters, expected)
    convert(run, tmp_path / "out", "open_clip")
    same(bioclip_jax.load(tmp_path / "out").parameters, expected)


def test_a_run_that_should_have_an_average_and_has_none_is_refused(tmp_path):
    run = write_run(tmp_path / "run", AVERAGED, parameters=random_parameters(SMALL), ema=None)
    with pytest.raises(UserError, match="it holds no ema"):
        bioclip_jax.load(run)


@pytest.mark.parametrize("key", ["parameters", "ema"])
def test_the_head_of_a_flat_classifier_is_no_part_of_the_model(tmp_path, key):
    config = dataclasses.replace(CONFIG if key == "parameters" else AVERAGED, loss=LossConfig(kind="species"))
    model = random_parameters(SMALL)
    head = {"kernel": np.ones((SMALL.embed_dim, 5), np.float32), "bias": np.zeros(5, np.float32)}
    run = write_run(tmp_path / "run", config, **{"parameters": {}, key: {**model, "species": head}})
    same(bioclip_jax.load(run).parameters, model)
    same(bioclip_jax.load(run, mesh=make_mesh(fsdp=2)).parameters, model)


def test_a_run_in_bfloat16_loads_in_float32_and_is_exported_as_it_is(tmp_path):
    parameters = random_parameters(SMALL, "bfloat16")
    run = write_run(tmp_path / "run", dataclasses.replace(CONFIG, parameter_dtype="bfloat16"), parameters=parameters)
    same(bioclip_jax.load(run).parameters, parameters)
    on_mesh = bioclip_jax.load(run, mesh=make_mesh(fsdp=2)).parameters
    assert {leaf.dtype.name for leaf in jax.tree.leaves(on_mesh)} == {"float32"}
    same(on_mesh, parameters)
    convert(run, tmp_path / "out", "hugging_face")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
