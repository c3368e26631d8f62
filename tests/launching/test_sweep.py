"""The points of a grid: names that every scheduler takes, and folders of their own."""

import json

import pytest

from bioclip_jax.cli.configs import load_configs
from bioclip_jax.config import TrainConfig
from bioclip_jax.config_json import to_json
from bioclip_jax.errors import UsageError
from bioclip_jax.launching.sweep import LONGEST, points, safe_name

pytestmark = pytest.mark.core


def test_point_is_what_train_calls_it_and_has_a_folder_of_its_own():
    config = TrainConfig()
    (first, second) = points("grid.py", {"small": config, "learning_rate=1e-3": config}, "gs://bucket/sweep/")
    assert (first.argument, first.name, first.work_dir) == ("grid.py:small", "small", "gs://bucket/sweep/small")
    assert second.argument == "grid.py:learning_rate=1e-3"
    assert second.work_dir == f"gs://bucket/sweep/{second.name}"
    assert second.name.startswith("learning-rate-1e-3-")


def test_single_config_has_one_point_and_its_work_directory_is_the_given_one():
    (point,) = points("demo", {"": TrainConfig()}, "run")
    assert (point.argument, point.work_dir, point.variant) == ("demo", "run", "")


@pytest.mark.parametrize("text", ["a", "base-24x500", "x" * LONGEST])
def test_safe_names_stay(text):
    assert safe_name(text) == text


@pytest.mark.parametrize("text", ["", "A", "a_b", "-a", "a-", "../x", "x" * (LONGEST + 1), "Größe/1", "\udcff", "a b"])
def test_other_names_become_safe_and_stay_apart(text):
    name = safe_name(text)
    assert len(name) <= LONGEST
    assert name == name.lower()
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert name[0] != "-" != name[-1]
    assert safe_name(name) == name
    assert name != safe_name(text + "_")


def test_variants_of_one_name_and_grids_without_variants_are_refused():
    config = TrainConfig()
    with pytest.raises(UsageError, match=r"variants 'A b' and 'a-b-\w{8}', both called a-b-\w{8}"):
        points("grid", {"A b": config, safe_name("A b"): config}, "sweep")
    with pytest.raises(UsageError, match="without variants"):
        points("grid", {}, "sweep")


@pytest.mark.parametrize("grid", ["['a list']", "{1: None}", "{'': None}", "None"])
def test_grids_that_are_no_dictionary_by_name_are_one_line(tmp_path, grid):
    recipe = tmp_path / "grid.py"
    recipe.write_text(f"configs = {grid}")
    with pytest.raises(UsageError, match=r"grid\.py: `configs` has to be a dictionary"):
        load_configs(str(recipe))


def test_ablations_change_one_thing_of_the_recipe_each():
    recipe = leaves(json.loads(to_json(load_configs("bioclip2")[""])))
    configs = {variant: leaves(json.loads(to_json(config))) for variant, config in load_configs("ablations").items()}
    changes = {
        variant: {name: value for name, value in fields.items() if value != recipe[name]}
        for variant, fields in configs.items()
    }
    assert changes == {
        "bioclip2": {},
        "no-replay": {"replay_batch_size": 0, "model.replay_projector": False},  # it is there for replay only
        "one-projector": {"model.replay_projector": False},
        "flat-species": {"loss.kind": "species"},
        "one-text-type": {"data.text_types": ["taxon"]},
        "text-type-per-sample": {"data.text_type_per_sample": True},
        "several-positives": {"loss.several_positives": True},
        "sigmoid": {"loss.kind": "sigmoid", "model.logit_bias": True},  # which this loss alone has
        "cooldown": {"optimizer.schedule": "constant", "optimizer.cooldown_steps": 7128},
        "locked-image-tower": {"optimizer.locked": ["visual"]},
        "moving-average": {"optimizer.ema_decay": 0.9999},
        "own-normalization": {"normalization": "preprocessing"},
        "repeated-replay": {"replay.restart_every_steps": 2376},
        "drawn-with-replacement": {"data.with_replacement": True},
        "pure-bfloat16": {"parameter_dtype": "bfloat16"},
        "untrimmed-text": {"data.trim_text": False},
    }
    assert all(point.name == point.variant for point in points("ablations", load_configs("ablations"), "runs"))


def leaves(tree, prefix=""):
    """Nested fields by dotted name."""
    return {
        name: value
        for key, inner in tree.items()
        for name, value in (
            leaves(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {prefix + key: inner}
        ).items()
    }
