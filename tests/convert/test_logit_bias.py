"""Models of the sigmoid loss: their bias goes to OpenCLIP and comes back, and is said to be missing elsewhere."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

import bioclip_jax
from bioclip_jax.config import CLIPConfig
from bioclip_jax.convert.names import parameters_of
from bioclip_jax.convert.weights import flatten
from bioclip_jax.errors import UserError
from bioclip_jax.inference.export import convert
from bioclip_jax.models import clip
from bioclip_jax.training.sources import open_model


@pytest.fixture(scope="module")
def biased(small) -> CLIPConfig:
    return dataclasses.replace(small, logit_bias=True)


def test_only_a_model_that_asks_for_it_has_a_bias_and_it_starts_as_siglip_does(small, biased):
    assert "logit_bias" not in clip.abstract(small)[1]
    with_bias = jax.jit(lambda: clip.split(clip.CLIP(biased, rngs=nnx.Rngs(0)))[1])()
    assert float(with_bias["logit_bias"]) == -10
    assert float(with_bias["logit_scale"]) == pytest.approx(math.log(10))
    shapes = {path: leaf.shape for path, leaf in flatten(with_bias).items()}
    assert {parameter.path: parameter.full_shape for parameter in parameters_of(biased)} == shapes


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("to", ["open_clip", "orbax"])
def test_a_bias_comes_back_from_where_it_was_written(tmp_path, write, biased, to, dtype):
    folder = write(tmp_path / "model", to, biased, dtype=dtype)
    source, _ = open_model(folder)
    assert source.config == biased
    convert(folder, tmp_path / "again", "open_clip")
    first = write(tmp_path / "first", "open_clip", biased, dtype=dtype) / "open_clip_model.safetensors"
    assert (tmp_path / "again" / "open_clip_model.safetensors").read_bytes() == first.read_bytes()


def test_stock_open_clip_loads_the_bias_and_computes_the_same_logits(tmp_path, open_clip, write, biased):
    import torch

    folder = write(tmp_path / "model", "open_clip", biased)
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(["a photo of Corvus corax.", "a photo of Vulpes vulpes."])
    ours = bioclip_jax.load(folder)
    assert theirs.logit_bias.item() == pytest.approx(float(ours.parameters["logit_bias"]))
    with torch.no_grad():
        text = theirs.encode_text(tokens, normalize=True)
        logits = (theirs.logit_scale.exp() * text @ text.T + theirs.logit_bias).numpy()
    features = ours.encode_text(["a photo of Corvus corax.", "a photo of Vulpes vulpes."])
    same = ours.logit_scale * features @ features.T + float(ours.parameters["logit_bias"])
    np.testing.assert_allclose(same, logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("to", ["hugging_face", "onnx"])
def test_formats_without_a_place_for_the_bias_leave_it_out_and_say_so(tmp_path, write, biased, to):
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    write(tmp_path / "model", "orbax", biased)
    lines = convert(tmp_path / "model", tmp_path / "out", to)
    assert any("the bias of the logits" in line for line in lines)
    value = float(bioclip_jax.load(tmp_path / "model").parameters["logit_bias"])
    assert f"plus the bias {value:.6g}" in (tmp_path / "out" / "README.md").read_text()
    if to == "hugging_face":
        assert not open_model(tmp_path / "out")[0].config.logit_bias
        assert "logit_bias" not in safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")


def test_bare_weights_with_a_bias_are_read_as_a_model_with_one(tmp_path, write, biased, edit):
    folder = write(tmp_path / "model", "open_clip", biased)
    description = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    assert description.pop("init_logit_bias") == -10
    (tmp_path / "shape.json").write_text(json.dumps(description))
    weights = (folder / "open_clip_model.safetensors").rename(tmp_path / "bare.safetensors")
    assert open_model(weights, model=str(tmp_path / "shape.json"))[0].config == biased


def test_a_folder_whose_config_and_weights_disagree_about_a_bias_is_refused(tmp_path, write, biased, edit):
    folder = write(tmp_path / "model", "open_clip", biased)
    edit(folder / "open_clip_config.json", lambda content: content["model_cfg"].pop("init_logit_bias"))
    with pytest.raises(UserError, match="1 unexpected: logit_bias"):
        bioclip_jax.load(folder)
