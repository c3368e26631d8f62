"""Files that are sound but unusual are read, and those that lie in a detail are refused in one clear line."""

import json

import numpy as np
import pytest
import safetensors.numpy
from ml_dtypes import bfloat16

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import Preprocessing
from bioclip_jax.convert import open_clip
from bioclip_jax.convert.mesh import load_on_mesh
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.training.sources import open_model

pytestmark = pytest.mark.core


def test_a_logit_scale_that_is_a_vector_of_one_is_read_everywhere(tmp_path, write, edit):
    folder = write(tmp_path / "model")
    path = folder / open_clip.WEIGHTS_NAME
    edit(path, lambda state: state.update(logit_scale=state["logit_scale"].reshape(1)))
    whole, spread = bioclip_jax.load(folder), load_on_mesh(open_model(folder)[0], make_mesh())
    assert whole.parameters["logit_scale"].shape == spread["logit_scale"].shape == ()
    assert float(spread["logit_scale"]) == float(whole.parameters["logit_scale"])


def test_layers_and_parts_of_different_types_meet_in_float32(tmp_path, write, edit):
    folder = write(tmp_path / "model", "hugging_face")
    key = "text_model.encoder.layers.{}.self_attn.q_proj.weight"

    def mix(state):
        state[key.format(0)] = state[key.format(0)].astype(np.float16)
        state[key.format(1)] = state[key.format(1)].astype(bfloat16)

    edit(folder / "model.safetensors", mix)
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    for to in ("open_clip", "orbax"):
        main(["convert", str(folder), str(tmp_path / to), "--to", to])
        weights = bioclip_jax.load(tmp_path / to).parameters["text"]["blocks"]["qkv"]["kernel"]
        for layer in (0, 1, 2):
            np.testing.assert_array_equal(weights[layer][:, :32], state[key.format(layer)].astype(np.float32).T)
    spread = load_on_mesh(open_model(folder)[0], make_mesh(fsdp=4))
    np.testing.assert_array_equal(spread["text"]["blocks"]["qkv"]["kernel"], weights)


def test_preprocessing_as_transformers_5_saves_a_whole_processor_is_read(tmp_path, write):
    odd = Preprocessing((0.5,) * 3, (0.25,) * 3, "squash", "bilinear")
    folder = write(tmp_path / "model", "hugging_face", preprocessing=odd)
    fields = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": fields}))
    assert open_model(folder)[0].preprocessing == odd


def test_preprocessing_that_is_only_assumed_is_said_aloud(tmp_path, write, capsys):
    folder = write(tmp_path / "model", "hugging_face")
    (folder / "preprocessor_config.json").unlink()
    assert open_model(folder)[0].preprocessing == Preprocessing()
    assert "does not say how photos are prepared; OpenAI CLIP's way is assumed" in capsys.readouterr().err


@pytest.mark.parametrize(("token", "is_read"), [(2, True), (49407, True), (1000, False), (None, False)])
def test_texts_that_end_in_another_token_are_refused(tmp_path, write, token, is_read, edit):
    folder = write(tmp_path / "model", "hugging_face")
    edit(folder / "config.json", lambda content: content["text_config"].update(eos_token_id=token))
    if is_read:
        open_model(folder)
    else:
        with pytest.raises(UserError, match=f"eos_token_id is {token}"):
            open_model(folder)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("preprocessor_config.json", lambda c: c.update(size="224"), "size '224' with crop"),
        ("preprocessor_config.json", lambda c: c.update(size=[32, 32]), r"size \[32, 32\] with crop"),
        ("preprocessor_config.json", lambda c: c.update(crop_size=[32]), "is not the model's 32 pixels"),
        ("preprocessor_config.json", lambda c: c.update(rescale_factor="x"), "rescale_factor 'x'"),
        ("preprocessor_config.json", lambda c: c.update(rescale_factor=None), "rescale_factor None"),
        ("preprocessor_config.json", lambda c: c.update(resample=[3]), r"resample \[3\]"),
        ("preprocessor_config.json", lambda c: c.update(image_std=[0, 0, 0]), "preprocessing.std is"),
        ("config.json", lambda c: c["vision_config"].update(num_hidden_layers=10**9), "layers is 1000000000"),
        ("config.json", lambda c: c["vision_config"].update(hidden_size=60.5), "60.5 is not a whole number"),
        ("config.json", lambda c: c.update(projection_dim=True), "True is not a whole number"),
    ],
)
def test_values_of_hugging_face_that_make_no_sense_are_refused(tmp_path, write, name, change, message, edit):
    folder = write(tmp_path / "model", "hugging_face")
    edit(folder / name, change)
    with pytest.raises(UserError, match=message):
        open_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(preprocess_cfg=[1]), r"preprocess_cfg is \[1\], not an object"),
        (lambda c: c["preprocess_cfg"].update(std=[0, 0, 0]), "preprocessing.std is"),
        (lambda c: c["preprocess_cfg"].update(mean=[float("nan"), 0, 0]), "preprocessing.mean is"),
        (lambda c: c["preprocess_cfg"].update(mean=[123, 117, 104]), "preprocessing.mean is"),
        (lambda c: c["model_cfg"].update(embed_dim=24.5), "24.5 is not a whole number"),
        (lambda c: c["model_cfg"].pop("vision_cfg"), "there is no 'vision_cfg'"),
    ],
)
def test_values_of_open_clip_that_make_no_sense_are_refused(tmp_path, write, change, message, edit):
    edit(write(tmp_path / "model") / open_clip.CONFIG_NAME, change)
    with pytest.raises(UserError, match=message):
        open_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["preprocessing"].update(geometry="foo"), "geometry: expected one of center_crop, squash"),
        (lambda c: c["preprocessing"].update(mean=[0.1, 0.2]), "preprocessing.mean is"),
        (lambda c: c["preprocessing"].update(std=["a"] * 3), "std: expected float, got 'a'"),
        (lambda c: c["preprocessing"].update(mean="abc"), "mean: expected a list, got 'abc'"),
        (lambda c: c["model"].update(embed_dim=24.0), "embed_dim: expected int, got 24.0"),
        (lambda c: c["model"].update(activation="tanh"), "activation: expected one of gelu, quick_gelu"),
        (lambda c: c["model"].update(replay_projector="no"), "replay_projector: expected bool"),
        (lambda c: c["model"]["vision"].update(colour=1), "vision: VisionConfig: unknown field 'colour'"),
    ],
)
def test_values_of_our_own_folders_that_make_no_sense_are_refused(tmp_path, write, change, message, edit):
    edit(write(tmp_path / "model", "orbax") / "model.json", change)
    with pytest.raises(UserError, match=message):
        open_model(tmp_path / "model")


def test_overrides_are_checked(tmp_path, write):
    folder = write(tmp_path / "model")
    with pytest.raises(UsageError, match="'geometri', which is no field"):
        bioclip_jax.load(folder, overrides={"geometri": "squash"})
    for overrides in ({"geometry": "squish"}, {"std": (0, 0, 0)}, {"mean": "abc"}, {"mean": (float("nan"), 0, 0)}):
        with pytest.raises(UsageError, match="preprocessing"):
            bioclip_jax.load(folder, overrides=overrides)


def test_names_in_files_cannot_write_to_the_terminal(tmp_path, write, capsys, edit):
    folder = write(tmp_path / "model")
    evil = "a\x1b[31m\nerror: second line"
    edit(folder / open_clip.WEIGHTS_NAME, lambda state: state.update({evil: np.zeros(1, np.float32)}))
    with pytest.raises(SystemExit):
        main(["convert", str(folder), str(tmp_path / "out"), "--to", "orbax"])
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert r"a\x1b[31m\nerror: second line" in errors


@pytest.mark.parametrize("keep", [0, 100])
def test_a_damaged_orbax_folder_is_one_line(tmp_path, write, capfd, keep):
    folder = write(tmp_path / "model", "orbax")
    for path in (folder / "weights").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SystemExit):
        main(["convert", str(folder), str(tmp_path / "out"), "--to", "open_clip"])
    errors = capfd.readouterr().err
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert "not a readable checkpoint" in errors


def test_a_vocabulary_without_the_tokenizer_that_goes_along_is_refused(tmp_path, write, small):
    import dataclasses

    other = dataclasses.replace(small, text=dataclasses.replace(small.text, vocab_size=1000))
    with pytest.raises(UsageError, match="1000 tokens; the tokenizer that goes with hugging_face has 49408"):
        write(tmp_path / "model", "hugging_face", other)
    assert open_model(write(tmp_path / "kept", "orbax", other))[0].config == other


def test_models_are_recognised_by_what_they_hold(tmp_path, write):
    folder = write(tmp_path / "checkpoints" / "10")  # not one of a run
    assert open_model(folder)[1] is None
    (tmp_path / "both").mkdir()
    for to in ("hugging_face", "open_clip"):
        for path in write(tmp_path / to, to).iterdir():
            (tmp_path / "both" / path.name).write_bytes(path.read_bytes())
    assert open_model(tmp_path / "both")[0].kind == "an OpenCLIP folder"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("imageomics/bioclip-2", "a model of the Hugging Face Hub is hf-hub:imageomics/bioclip-2"),
        ("", "no model at ''"),
        ("~nosuchuser/model", "no model at '~nosuchuser/model'"),
    ],
)
def test_places_without_a_model_are_named(name, message):
    with pytest.raises(UsageError, match=message):
        bioclip_jax.load(name)


def test_an_onnx_export_is_said_to_be_that(tmp_path, write):
    folder = write(tmp_path / "model", "hugging_face")
    (folder / "onnx").mkdir()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="an ONNX export cannot be read back"):
        open_model(folder)
