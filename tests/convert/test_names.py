"""The table of names: it holds every parameter with its shape, and both directions are inverse to each other."""

import dataclasses

import numpy as np
import pytest

from bioclip_jax.config import CLIPConfig
from bioclip_jax.convert.names import expected_shapes, from_ours, parameters_of, to_ours
from bioclip_jax.convert.weights import flatten
from bioclip_jax.models import clip

pytestmark = pytest.mark.core


@pytest.mark.parametrize("replay_projector", [True, False])
def test_the_table_has_the_parameters_of_the_model_with_their_shapes(small, replay_projector):
    config = dataclasses.replace(small, replay_projector=replay_projector)
    shapes = {path: leaf.shape for path, leaf in flatten(clip.abstract(config)[1]).items()}
    assert {parameter.path: parameter.full_shape for parameter in parameters_of(config)} == shapes


@pytest.mark.parametrize("form", ["open_clip", "hugging_face"])
def test_layouts_there_and_back_are_the_identity(small, form):
    for parameter in parameters_of(small):
        array = np.random.default_rng(0).normal(size=parameter.file_shape(form))
        ours = to_ours(array, parameter.layouts[form])
        assert ours.shape == parameter.shape
        np.testing.assert_array_equal(from_ours(ours, parameter.layouts[form]), array)
        stacked = to_ours(array[None], parameter.layouts[form], leading=1)
        np.testing.assert_array_equal(stacked[0], ours)


def test_no_two_parameters_share_a_name(small):
    config = dataclasses.replace(small, replay_projector=True)
    for form in ("open_clip", "hugging_face"):
        keys = [
            key
            for parameter in parameters_of(config)
            if parameter.exists_in(form)
            for layer in parameter.layer_indices()
            for key in parameter.keys(form, layer)
        ]
        assert len(set(keys)) == len(keys) == len(expected_shapes(config, form))


def test_shapes_of_the_largest_published_models_follow_the_reference():
    shapes = expected_shapes(CLIPConfig.vit_h14(), "open_clip")
    assert shapes["visual.transformer.resblocks.31.mlp.c_fc.weight"] == (5120, 1280)
    assert shapes["visual.conv1.weight"] == (1280, 3, 14, 14)
    assert shapes["visual.positional_embedding"] == (257, 1280)
    assert shapes["text_projection"] == (1024, 1024)
    assert sum(np.prod(shape) for shape in shapes.values()) == 986_109_441  # the published card: 986 M
