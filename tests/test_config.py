"""Configs turn into JSON and back, and refuse what cannot be trained."""

import json
from pathlib import Path

import pytest

from bioclip_jax.config import CLIPConfig, DataConfig, TrainConfig
from bioclip_jax.config_json import from_dict, to_json
from bioclip_jax.errors import UsageError, UserError

pytestmark = pytest.mark.core


def test_config_survives_json():
    config = TrainConfig(
        model=CLIPConfig.vit_h14(), data=DataConfig(arguments={"num_images": 5}, crop_scale=(0.5, 1.0)), seed=3
    )
    assert from_dict(TrainConfig, json.loads(to_json(config))) == config


def test_unknown_field_is_named():
    with pytest.raises(UserError, match="'learning'"):
        from_dict(TrainConfig, {"optimizer": {"learning": 1}})


def test_something_that_is_no_object_is_refused():
    with pytest.raises(UserError, match="VisionConfig: expected an object, got 3"):
        from_dict(TrainConfig, {"model": {"vision": 3}})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(global_batch_size=1), "needs 2 or more"),
        (lambda: TrainConfig(total_steps=0), "total_steps is 0"),
        (lambda: DataConfig(text_types=()), "text_types is empty"),
    ],
)
def test_what_cannot_be_trained_is_refused(make, message):
    with pytest.raises(UsageError, match=message):
        make()


def test_path_among_the_arguments_of_a_recipe_becomes_text():
    config = TrainConfig(data=DataConfig(arguments={"table": Path("photos.csv")}))
    assert json.loads(to_json(config))["data"]["arguments"] == {"table": "photos.csv"}
