"""ONNX export: the files give our features for every batch, padding and storage, and a wrong one is refused."""

import dataclasses
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import CLIPConfig, TextConfig, VisionConfig
from bioclip_jax.convert import onnx as exporter
from bioclip_jax.convert import onnx_graph
from bioclip_jax.errors import UserError
from bioclip_jax.models import clip
from bioclip_jax.models.functions import l2_normalize

pytestmark = pytest.mark.usefixtures("as_users_compile")

SMALL = CLIPConfig(
    24,
    VisionConfig(32, patch_size=16, width=64, layers=2, heads=4),
    TextConfig(context_length=12, vocab_size=300, width=48, layers=2, heads=3),
)
END = 299
BOTH = ["onnx/text_model.onnx", "onnx/vision_model.onnx"]


def random_parameters(config, seed=0):
    """Every parameter away from its initial value, so that none can be left out unseen."""
    rng = np.random.default_rng(seed)
    parameters = clip.split(clip.CLIP(config, rngs=nnx.Rngs(0)))[1]
    return jax.tree.map(lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape, np.float32), parameters)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def run(path, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return session.run(None, {name: inputs})[0]


def our_image_features(config, parameters, photos):
    model = clip.merge(clip.abstract(config)[0], jax.tree.map(jnp.asarray, parameters))
    return np.asarray(l2_normalize(model.encode_image(photos.transpose(0, 2, 3, 1))))


def our_text_features(config, parameters, tokens):
    model = clip.merge(clip.abstract(config)[0], jax.tree.map(jnp.asarray, parameters))
    return np.asarray(l2_normalize(model.encode_text(tokens.astype(np.int32))))


def photos(batch, size=32):
    return np.random.default_rng(batch).standard_normal((batch, 3, size, size), np.float32)


def texts(batch, length=12):
    tokens = np.random.default_rng(batch).integers(1, END, (batch, length))
    tokens[:, -1] = END
    return tokens


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder, parameters = tmp_path_factory.mktemp("exported"), random_parameters(SMALL)
    exporter.export(folder, SMALL, parameters)
    assert names(folder) == BOTH
    return folder, parameters


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_both_activations_give_our_features_without_a_word(tmp_path, capfd, activation):
    config = dataclasses.replace(SMALL, activation=activation)
    parameters = random_parameters(config)
    exporter.export(tmp_path, config, parameters)
    assert names(tmp_path) == BOTH
    assert capfd.readouterr() == ("", "")
    errors = exporter.check(tmp_path, config, parameters)
    assert errors.keys() == {"vision", "text"}
    assert max(errors.values()) < 1e-5
    other = dataclasses.replace(SMALL, activation="gelu" if activation == "quick_gelu" else "quick_gelu")
    assert min(exporter.check(tmp_path, other, parameters).values()) > exporter.MAX_ERROR


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_one_file_serves_every_batch_size(exported, batch):
    folder, parameters = exported
    image, text = run(folder / BOTH[1], photos(batch)), run(folder / BOTH[0], texts(batch))
    np.testing.assert_allclose(image, our_image_features(SMALL, parameters, photos(batch)), atol=1e-5)
    np.testing.assert_allclose(text, our_text_features(SMALL, parameters, texts(batch)), atol=1e-5)
    for features in (image, text):
        assert features.dtype == np.float32
        assert features.shape == (batch, SMALL.embed_dim)
        np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-6)


def test_padding_and_its_length_change_no_text_feature(exported):
    folder, parameters = exported
    short = texts(2, length=5)
    open_clip = np.pad(short, ((0, 0), (0, 7)))
    hugging_face = np.pad(short, ((0, 0), (0, 7)), constant_values=END)
    expected = our_text_features(SMALL, parameters, open_clip)
    for tokens in (short, open_clip, hugging_face):
        np.testing.assert_allclose(run(folder / BOTH[0], tokens), expected, atol=1e-5)


def test_graphs_are_plain_onnx_with_symbolic_batch_and_without_loops(exported):
    import onnx

    shapes = {"vision": [("pixel_values", ["batch", 3, 32, 32])], "text": [("input_ids", ["batch", "sequence"])]}
    outputs = {"vision": [("image_embeds", ["batch", 24])], "text": [("text_embeds", ["batch", 24])]}

    def described(values):
        return [(v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim]) for v in values]

    for tower in ("vision", "text"):
        path = exported[0] / exporter.file_name(tower)
        onnx.checker.check_model(str(path), full_check=True)
        model = onnx.load(path)
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
        assert not {node.op_type for node in model.graph.node} & {"Loop", "Scan", "If", "Einsum"}
        assert described(model.graph.input) == shapes[tower]
        assert described(model.graph.output) == outputs[tower]
        assert len({output for node in model.graph.node for output in node.output}) >= len(model.graph.node)


def test_large_weights_lie_beside_the_graph_and_move_with_it(tmp_path, exported):
    folder, parameters = exported
    exporter.export(tmp_path, SMALL, parameters, external_bytes=1000)
    written = names(tmp_path)
    assert written == ["onnx/text_model.onnx", "onnx/vision_model.onnx", "onnx/vision_model.onnx_data"]
    assert (tmp_path / written[2]).stat().st_size > (tmp_path / written[1]).stat().st_size
    shutil.move(tmp_path / "onnx", tmp_path / "elsewhere")
    np.testing.assert_array_equal(
        run(tmp_path / "elsewhere" / "vision_model.onnx", photos(2)), run(folder / BOTH[1], photos(2))
    )


def test_float16_halves_the_files_and_computes_in_float32(tmp_path, exported):
    folder, parameters = exported
    exporter.export(tmp_path, SMALL, parameters, dtype="float16")
    written = names(tmp_path)
    assert written == ["onnx/text_model_fp16.onnx", "onnx/vision_model_fp16.onnx"]
    for half, full in zip(written, BOTH, strict=True):
        assert (tmp_path / half).stat().st_size < 0.65 * (folder / full).stat().st_size
    assert max(exporter.check(tmp_path, SMALL, parameters, "float16").values()) < 1e-5
    rounded = run(tmp_path / written[1], photos(2))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, our_image_features(SMALL, parameters, photos(2)), atol=5e-3)


def test_jax_arrays_of_bfloat16_and_a_replay_projector_are_taken(tmp_path):
    config = dataclasses.replace(SMALL, replay_projector=True)
    parameters = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), random_parameters(config))
    exporter.export(tmp_path, config, parameters)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float32), parameters)
    np.testing.assert_allclose(
        run(tmp_path / BOTH[1], photos(2)), our_image_features(config, wide, photos(2)), atol=1e-5
    )


def test_a_file_that_disagrees_is_refused(tmp_path, monkeypatch, exported):
    monkeypatch.setattr(onnx_graph, "LAYER_NORM_EPS", 0.1)
    with pytest.raises(UserError, match=r"the vision tower in ONNX is \S+ off ours, over 1e-04"):
        exporter.export(tmp_path, SMALL, exported[1])


def test_weights_that_are_not_numbers_are_refused(tmp_path, exported):
    broken = jax.tree.map(np.copy, exported[1])
    broken["text"]["proj"][0, 0] = np.nan
    with pytest.raises(UserError, match="the text tower in ONNX is nan off ours"):
        exporter.export(tmp_path, SMALL, broken)


def test_numbers_too_large_for_float16_are_named(tmp_path, exported):
    large = jax.tree.map(np.copy, exported[1])
    large["text"]["token_embedding"][0, 0] = 1e5
    with pytest.raises(UserError, match="values in text/token_embedding are too large for float16"):
        exporter.export(tmp_path, SMALL, large, dtype="float16")


def test_the_command_writes_what_browsers_and_phones_look_for(tmp_path, write):
    folder = write(tmp_path / "model")
    main(["convert", str(folder), str(tmp_path / "out"), "--to", "onnx"])
    extras = {"config.json", "preprocessor_config.json", "tokenizer.json", "README.md"}
    assert {*BOTH, *extras} <= set(names(tmp_path / "out"))
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    model = bioclip_jax.load(folder)
    batch = (pixels / 255 - model.preprocessing.mean) / model.preprocessing.std
    features = run(tmp_path / "out" / BOTH[1], batch.transpose(0, 3, 1, 2).astype(np.float32))
    np.testing.assert_allclose(features, model.encode_image(pixels), atol=1e-5)
    main(["convert", str(folder), str(tmp_path / "half"), "--to", "onnx", "--dtype", "float16"])
    assert "vision_model_fp16.onnx" in (tmp_path / "half" / "README.md").read_text()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_a_missing_extra_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"needs the packages of the extra onnx: pip install 'bioclip-jax\[onnx\]'"):
        exporter.export(tmp_path, SMALL, random_parameters(SMALL))


@pytest.mark.slow
@pytest.mark.full
def test_vit_l14_agrees_within_the_bound(tmp_path):
    config = CLIPConfig.vit_l14()
    parameters = clip.split(clip.CLIP(config, rngs=nnx.Rngs(0)))[1]
    exporter.export(tmp_path, config, parameters)
    assert (tmp_path / BOTH[1]).stat().st_size > 1.2e9
