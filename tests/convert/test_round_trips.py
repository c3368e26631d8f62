"""Weights through every format and back: the same bytes, whatever their type."""

import dataclasses

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from bioclip_jax.convert.open_clip import WEIGHTS_NAME
from bioclip_jax.convert.safetensors_files import SafetensorsFiles
from bioclip_jax.convert.tensors import DTYPES
from bioclip_jax.training.sources import open_model

pytestmark = pytest.mark.core


def convert(source, destination, to, *flags):
    main(["convert", str(source), str(destination), "--to", to, *flags])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("between", ["open_clip", "hugging_face", "orbax"])
def test_open_clip_through_another_format_and_back_is_the_same_file(tmp_path, write, between, dtype):
    write(tmp_path / "first", dtype=dtype)
    convert(tmp_path / "first", tmp_path / "between", between)
    convert(tmp_path / "between", tmp_path / "last", "open_clip")
    first, last = ((tmp_path / name / WEIGHTS_NAME).read_bytes() for name in ("first", "last"))
    assert {spec.dtype for spec in SafetensorsFiles(tmp_path / "last" / WEIGHTS_NAME).specs.values()} == {dtype}
    assert first == last
    assert open_model(tmp_path / "first")[0].config == open_model(tmp_path / "last")[0].config


def test_hugging_face_through_orbax_and_back_is_the_same_file(tmp_path, write):
    write(tmp_path / "first", "hugging_face")
    convert(tmp_path / "first", tmp_path / "between", "orbax")
    convert(tmp_path / "between", tmp_path / "last", "hugging_face")
    for name in ("model.safetensors", "config.json", "preprocessor_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "last" / name).read_bytes()


@pytest.mark.parametrize("between", ["open_clip", "orbax"])
def test_every_tensor_of_the_reference_keeps_its_bytes(tmp_path, goldens, between):
    flags = ["--keep-replay-projector"] if between == "open_clip" else []
    convert(goldens, tmp_path / "between", between, *flags)
    convert(tmp_path / "between", tmp_path / "last", "open_clip", "--keep-replay-projector")
    ours, golden = (safetensors.numpy.load_file(path / WEIGHTS_NAME) for path in (tmp_path / "last", goldens))
    assert ours.keys() == golden.keys()
    for name, tensor in golden.items():
        assert (ours[name].dtype, ours[name].shape) == (tensor.dtype, tensor.shape)
        assert ours[name].tobytes() == tensor.tobytes(), name


def test_the_second_projector_stays_behind_unless_asked_for(tmp_path, goldens, capsys):
    convert(goldens, tmp_path / "open_clip", "open_clip")
    assert "--keep-replay-projector keeps it" in capsys.readouterr().out
    assert "visual.continual_proj" not in safetensors.numpy.load_file(tmp_path / "open_clip" / WEIGHTS_NAME)
    convert(goldens, tmp_path / "orbax", "orbax")
    assert bioclip_jax.load(tmp_path / "orbax").config.replay_projector
    assert not bioclip_jax.load(tmp_path / "open_clip").config.replay_projector


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("to", ["open_clip", "hugging_face", "orbax"])
def test_another_type_rounds_each_number_once(tmp_path, write, to, dtype):
    write(tmp_path / "first")
    convert(tmp_path / "first", tmp_path / "second", to, "--dtype", dtype)
    first, second = (open_model(tmp_path / name)[0].weights for name in ("first", "second"))
    from bioclip_jax.convert.weights import layers_of

    for parameter, layer in layers_of(open_model(tmp_path / "first")[0].config):
        rounded = first.read(parameter, layer).astype(DTYPES[dtype])
        assert second.dtype(parameter, layer) == DTYPES[dtype]
        np.testing.assert_array_equal(second.read(parameter, layer), rounded)


@pytest.mark.parametrize("to", ["open_clip", "hugging_face", "orbax"])
@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(),  # the published BioCLIP 2's
        Preprocessing(geometry="squash", interpolation="bilinear"),  # pybioclip's
        Preprocessing(IMAGENET_MEAN, IMAGENET_STD),  # training's
        Preprocessing((0.5,) * 3, (0.5,) * 3, "squash"),
    ],
)
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_shape_and_preprocessing_travel_with_the_weights(tmp_path, write, small, to, preprocessing, activation):
    config = dataclasses.replace(small, activation=activation)
    source, _ = open_model(write(tmp_path / "model", to, config, preprocessing=preprocessing))
    assert (source.config, source.preprocessing) == (config, preprocessing)


def test_a_model_loaded_from_any_format_gives_the_same_features(tmp_path, write):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    models = [bioclip_jax.load(write(tmp_path / to, to)) for to in ("open_clip", "hugging_face", "orbax")]
    for model in models[1:]:
        np.testing.assert_array_equal(model.encode_image(pixels), models[0].encode_image(pixels))
        np.testing.assert_array_equal(model.encode_text(["a b"]), models[0].encode_text(["a b"]))
        assert model.fingerprint == models[0].fingerprint


def test_large_models_become_several_files(tmp_path, write, small, monkeypatch):
    from bioclip_jax.convert import files
    from bioclip_jax.convert.weights import Cast

    write(tmp_path / "whole", "hugging_face")
    (tmp_path / "shards").mkdir()
    source, _ = open_model(tmp_path / "whole")
    files.write_hugging_face(tmp_path / "shards", source, Cast(), shard_bytes=200_000)
    names = sorted(path.name for path in (tmp_path / "shards").glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    whole = safetensors.numpy.load_file(tmp_path / "whole" / "model.safetensors")
    sharded = {}
    for name in names:
        sharded |= safetensors.numpy.load_file(tmp_path / "shards" / name)
    assert sharded.keys() == whole.keys()
    assert all(sharded[key].tobytes() == whole[key].tobytes() for key in whole)
    convert(tmp_path / "shards", tmp_path / "again", "hugging_face")
    again = (tmp_path / "again" / "model.safetensors").read_bytes()
    assert again == (tmp_path / "whole" / "model.safetensors").read_bytes()


def test_files_are_byte_for_byte_what_the_safetensors_package_writes(tmp_path, write):
    path = write(tmp_path / "model") / WEIGHTS_NAME
    safetensors.numpy.save_file(safetensors.numpy.load_file(path), tmp_path / "peer", metadata={"format": "pt"})
    assert path.read_bytes() == (tmp_path / "peer").read_bytes()
