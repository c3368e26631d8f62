"""What cannot be read is refused, in one line that names all that is wrong, and nothing is left behind."""

import json
import shutil
import struct

import numpy as np
import pytest

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.convert import hugging_face, open_clip
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.training.sources import open_model

pytestmark = pytest.mark.core


def fails(capsys, arguments, code, *messages):
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    errors = capsys.readouterr().err
    assert exit_info.value.code == code, errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    for message in messages:
        assert message in errors
    return errors


def test_missing_unexpected_and_mis_shaped_tensors_are_all_listed(tmp_path, write, capsys, edit):
    write(tmp_path / "model")

    def damage(state):
        for layer in range(3):
            del state[f"transformer.resblocks.{layer}.ln_1.bias"]
        del state["ln_final.bias"]
        state["extra.weight"] = np.zeros((2, 2), np.float32)
        state["text_projection"] = np.zeros((3, 3), np.float32)
        state["visual.proj"] = np.zeros((60, 24), np.int32)

    edit(tmp_path / "model" / open_clip.WEIGHTS_NAME, damage)
    fails(
        capsys,
        ["convert", tmp_path / "model", tmp_path / "out", "--to", "orbax"],
        1,
        "4 missing: ln_final.bias [32], transformer.resblocks.{0-2}.ln_1.bias [32]",
        "1 unexpected: extra.weight [2, 2]",
        "1 of another shape: text_projection [3, 3], not [32, 24]",
        "visual.proj I32",
    )
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_are_said_to_be_that(tmp_path, write, edit):
    write(tmp_path / "model")
    edit(
        tmp_path / "model" / open_clip.WEIGHTS_NAME,
        lambda state: (state.clear(), state.update({"layer1.0.conv.weight": np.zeros((4, 3), np.float32)})),
    )
    with pytest.raises(UserError, match=r"not the weights of a CLIP model .* it holds layer1.0.conv.weight \[4, 3\]"):
        bioclip_jax.load(tmp_path / "model")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("to", ["open_clip", "orbax"])
def test_numbers_that_are_not_finite_are_named(tmp_path, write, capsys, value, dtype, to, edit):
    write(tmp_path / "model", dtype=dtype)

    def damage(state):
        for key in ("transformer.resblocks.1.mlp.c_fc.bias", "transformer.resblocks.2.mlp.c_fc.bias", "logit_scale"):
            state[key] = state[key].copy()
            state[key][(0,) * state[key].ndim] = value

    edit(tmp_path / "model" / open_clip.WEIGHTS_NAME, damage)
    arguments = ["convert", tmp_path / "model", tmp_path / "out", "--to", to, "--dtype", "float16"]
    fails(capsys, arguments, 1, "NaN or infinity in logit_scale, transformer.resblocks.{1-2}.mlp.c_fc.bias")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(UserError, match="NaN or infinity in logit_scale"):
        bioclip_jax.load(tmp_path / "model")


def test_sums_that_overflow_are_no_fault(tmp_path, write, edit):
    write(tmp_path / "model")
    large = np.full((32, 24), 3e38, np.float32)
    edit(tmp_path / "model" / open_clip.WEIGHTS_NAME, lambda state: state.update(text_projection=large))
    assert bioclip_jax.load(tmp_path / "model").parameters["text"]["proj"][0, 0] == np.float32(3e38)


def test_numbers_too_large_for_float16_are_named(tmp_path, write, capsys, edit):
    write(tmp_path / "model")
    large = np.full((32, 24), 7e4, np.float32)
    edit(tmp_path / "model" / open_clip.WEIGHTS_NAME, lambda state: state.update(text_projection=large))
    arguments = ["convert", tmp_path / "model", tmp_path / "out", "--to", "open_clip", "--dtype"]
    fails(capsys, [*arguments, "float16"], 1, "text_projection are too large for float16; use bfloat16")
    assert not (tmp_path / "out").exists()
    main([str(argument) for argument in [*arguments, "bfloat16"]])


@pytest.mark.parametrize("length", [0, 4, 8, 100, 5000, -1])
def test_truncated_files_are_named(tmp_path, write, length):
    path = write(tmp_path / "model") / open_clip.WEIGHTS_NAME
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors: .*(truncated|not a safetensors file)"):
        bioclip_jax.load(tmp_path / "model")


def header(content) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        header(b"{"),
        header([]),
        header(b"\xff\xfe"),
        header({"a": 5}),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}) + bytes(8),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}) + bytes(8),
        header({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 8]}}) + bytes(4),
        header({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        header({"a": {"dtype": "F32", "shape": "12", "data_offsets": [0, 4]}}) + bytes(4),
        header(b"[" * 100_000),
        struct.pack("<Q", 2**63) + b"{}",
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_damaged_headers_are_refused(tmp_path, write, content):
    (write(tmp_path / "model") / open_clip.WEIGHTS_NAME).write_bytes(content)
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors: not a safetensors file"):
        bioclip_jax.load(tmp_path / "model")


def test_any_damaged_byte_of_a_header_is_survived(tmp_path, write):
    path = write(tmp_path / "model") / open_clip.WEIGHTS_NAME
    whole, messages = path.read_bytes(), []
    for seed in range(200):
        content, generator = bytearray(whole), np.random.default_rng(seed)
        for _ in range(3):
            content[generator.integers(8 + int.from_bytes(whole[:8], "little"))] = generator.integers(256)
        path.write_bytes(content)
        try:
            open_model(tmp_path / "model")
        except UserError as error:
            messages.append(str(error))
    assert len(messages) > 150
    assert not any("\n" in message for message in messages)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../model.safetensors"}}, "not in its own folder"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not in its own folder"),
        ({"weight_map": {"a": ".."}}, "not in its own folder"),
        ({"weight_map": {"a": "absent.safetensors"}}, "absent.safetensors: there is no such file"),
        ({"weight_map": {"logit_scale": "model-1.safetensors"}}, "disagrees with its files"),
        ({"weight_map": ["a"]}, "no weight_map"),
        ({}, "no weight_map"),
    ],
)
def test_an_index_that_lies_is_refused(tmp_path, write, index, message):
    folder = write(tmp_path / "model", "hugging_face")
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        bioclip_jax.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model_cfg"]["vision_cfg"].update(timm_model_name="vit_base"), "'vit_base': a timm image tower"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(layers=[3, 4, 6, 3]), "a ResNet; only plain ViT"),
        (lambda c: c["model_cfg"]["text_cfg"].update(hf_model_name="roberta"), "'roberta': a Hugging Face text tower"),
        (lambda c: c["model_cfg"].update(multimodal_cfg={"width": 5}), "CoCa; only plain ViT CLIP"),
        (lambda c: c["model_cfg"].update(init_logit_bias=-10), "1 missing: logit_bias"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(norm_kwargs={"eps": 1e-2}), "norm_kwargs is"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(width=None), "cannot make a model"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(head_width=7), "not a multiple of head_width 7"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(head_width=0), "cannot make a model"),
        (lambda c: c["model_cfg"]["vision_cfg"].update(image_size=[32, 48]), "32 x 48 is not a square"),
        (lambda c: c["model_cfg"]["text_cfg"].update(hf_tokenizer_name="bert"), "another tokenizer"),
        (lambda c: c["preprocess_cfg"].update(resize_mode="longest"), "'longest' with interpolation 'bicubic' cannot"),
        (lambda c: c["preprocess_cfg"].update(interpolation="nearest"), "'nearest' cannot be reproduced"),
        (lambda c: c["preprocess_cfg"].update(mean=[0.5, 0.5]), r"mean is \[0.5, 0.5\], not three numbers"),
        (lambda c: c["preprocess_cfg"].update(size=64), "size is 64, and the model takes 32"),
        (lambda c: c.pop("model_cfg"), "no model_cfg"),
        (lambda c: c.update(model_cfg=[]), "no model_cfg"),
    ],
)
def test_open_clip_models_that_are_no_plain_vit_clip_are_refused(tmp_path, write, change, message, edit):
    edit(write(tmp_path / "model") / open_clip.CONFIG_NAME, change)
    with pytest.raises(UserError, match=message):
        bioclip_jax.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(model_type="siglip"), "model_type is 'siglip'"),
        (lambda c: c.update(model_type="clip_vision_model"), "model_type is 'clip_vision_model'"),
        (lambda c: c["vision_config"].update(hidden_act="gelu_new"), "both have to be gelu"),
        (lambda c: c["text_config"].update(layer_norm_eps=1e-12), "layer_norm_eps is 1e-12"),
        (lambda c: c["vision_config"].update(num_channels=4), "num_channels is 4"),
        (lambda c: c["vision_config"].update(num_attention_heads=7), "not a multiple of vision.heads 7"),
        (lambda c: c["vision_config"].update(image_size=[32, 32]), "cannot make a model"),
        (lambda c: c["text_config"].update(num_hidden_layers=2), "unexpected: text_model.encoder.layers.2"),
    ],
)
def test_hugging_face_models_that_are_no_clip_are_refused(tmp_path, write, change, message, edit):
    edit(write(tmp_path / "model", "hugging_face") / hugging_face.CONFIG_NAME, change)
    with pytest.raises(UserError, match=message):
        bioclip_jax.load(tmp_path / "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(do_rescale=False), "cannot be reproduced"),
        (lambda c: c.update(resample=0), "cannot be reproduced"),
        (lambda c: c.update(size={"shortest_edge": 40}), "is not the model's 32 pixels"),
        (lambda c: c.update(do_center_crop=False), "is not the model's 32 pixels"),
        (lambda c: c.update(image_std="x"), "not three numbers"),
    ],
)
def test_hugging_face_preprocessing_that_cannot_be_reproduced_is_refused(tmp_path, write, change, message, edit):
    edit(write(tmp_path / "model", "hugging_face") / hugging_face.PREPROCESSOR_NAME, change)
    with pytest.raises(UserError, match=message):
        bioclip_jax.load(tmp_path / "model")


def test_json_that_is_none_is_named(tmp_path, write):
    for to, name in (("open_clip", open_clip.CONFIG_NAME), ("hugging_face", "config.json"), ("orbax", "model.json")):
        folder = write(tmp_path / to, to)
        (folder / name).write_text("{")
        with pytest.raises(UserError, match=f"{name}: cannot be read as JSON"):
            bioclip_jax.load(folder)


def test_a_config_without_weights_is_named(tmp_path, write):
    for to, name in (("open_clip", open_clip.WEIGHTS_NAME), ("hugging_face", "model.safetensors")):
        (write(tmp_path / to, to) / name).unlink()
        with pytest.raises(UserError, match="but no weights"):
            bioclip_jax.load(tmp_path / to)
    shutil.rmtree(write(tmp_path / "orbax", "orbax") / "weights")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        bioclip_jax.load(tmp_path / "orbax")


def test_orbax_weights_of_another_shape_are_listed(tmp_path, write, edit):
    folder = write(tmp_path / "model", "orbax")
    edit(folder / "model.json", lambda content: content["model"].update(embed_dim=20))
    with pytest.raises(UserError, match=r"visual/proj is \[60, 24\], not \[60, 20\]; text/proj is"):
        bioclip_jax.load(folder)
    edit(folder / "model.json", lambda content: content.update(version=99))
    with pytest.raises(UserError, match="version is 99"):
        bioclip_jax.load(folder)


def test_bare_files_need_to_be_told_what_they_are(tmp_path, write, capsys):
    folder = write(tmp_path / "model")
    (tmp_path / "bare.safetensors").write_bytes((folder / open_clip.WEIGHTS_NAME).read_bytes())
    out = [tmp_path / "out", "--to", "open_clip"]
    fails(capsys, ["convert", tmp_path / "bare.safetensors", *out], 2, "tell `bioclip-jax convert` or")
    fails(capsys, ["convert", folder / open_clip.WEIGHTS_NAME, *out], 2, "give the folder")
    fails(capsys, ["convert", tmp_path / "bare.safetensors", *out, "--model", "RN50"], 2, "'RN50': expected ViT-SIZE")
    fails(capsys, ["convert", tmp_path / "bare.safetensors", *out, "--model", "ViT-B-16"], 1, "with --model ViT-B-16")
    fails(capsys, ["convert", folder, *out, "--model", "ViT-B-16"], 2, "says itself what it holds")
    (tmp_path / "weights.npz").write_bytes(b"")
    fails(capsys, ["convert", tmp_path / "weights.npz", *out], 2, "'.npz' is none")
    config = folder / open_clip.CONFIG_NAME
    main(["convert", str(tmp_path / "bare.safetensors"), *(str(x) for x in out), "--model", str(config)])
    assert (tmp_path / "out" / open_clip.WEIGHTS_NAME).read_bytes() == (folder / open_clip.WEIGHTS_NAME).read_bytes()


def test_options_that_a_format_lacks_are_refused(tmp_path, write, capsys, goldens):
    convert = ["convert", goldens, tmp_path / "out", "--to"]
    fails(capsys, [*convert, "hugging_face", "--keep-replay-projector"], 2, "hugging_face has no place for it")
    fails(capsys, [*convert, "orbax", "--keep-replay-projector"], 2, "orbax always keeps it")
    fails(capsys, [*convert, "onnx", "--dtype", "bfloat16"], 2, "--dtype bfloat16")
    folder = write(tmp_path / "model")
    keep = [folder, tmp_path / "out", "--to", "open_clip", "--keep-replay-projector"]
    fails(capsys, ["convert", *keep], 2, "has no second visual projector")
    with pytest.raises(UsageError, match="to 'torch': not one of open_clip"):
        bioclip_jax.load(folder).save(tmp_path / "out", "torch")
    with pytest.raises(UsageError, match="dtype 'int8': not one of float32"):
        bioclip_jax.load(folder).save(tmp_path / "out", "orbax", dtype="int8")


def test_another_preprocessing_than_the_models_own_is_said_aloud(tmp_path, write, capsys):
    write(tmp_path / "model")
    main(
        [
            "convert",
            str(tmp_path / "model"),
            str(tmp_path / "out"),
            "--to",
            "open_clip",
            "--geometry",
            "squash",
            "--interpolation",
            "bicubic",
            "--mean",
            "0.5",
            "0.5",
            "0.5",
        ]
    )
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 2  # bicubic is the model's own
    assert any("geometry squash takes the place of center_crop" in note for note in notes)
    changed = bioclip_jax.load(tmp_path / "out").preprocessing
    assert (changed.geometry, changed.interpolation, changed.mean) == ("squash", "bicubic", (0.5, 0.5, 0.5))
