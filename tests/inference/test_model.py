"""The Python interface: what it takes, what it gives, what it refuses."""

import io

import jax
import numpy as np
import PIL.Image
import pytest
from flax import nnx

import bioclip_jax
from bioclip_jax.config import CLIPConfig, Preprocessing, TextConfig, VisionConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.models import clip

pytestmark = pytest.mark.core

CONFIG = CLIPConfig(24, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=2, heads=2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    parameters = clip.split(clip.CLIP(CONFIG, rngs=nnx.Rngs(0)))[1]
    bioclip_jax.Model(CONFIG, Preprocessing(), parameters).save(folder, "open_clip")
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return bioclip_jax.load(folder)


@pytest.fixture
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    return PIL.Image.fromarray(pixels)


def test_paths_pillow_images_bytes_and_arrays_give_the_same_features(model, photo, tmp_path):
    path = tmp_path / "photo.png"
    photo.save(path)
    features = model.encode_image([path, str(path), photo, path.read_bytes()])
    assert (features.dtype, features.shape) == (np.float32, (4, 24))
    for other in (model.encode_image(path), model.encode_image(np.asarray(photo)[None])):
        assert other.shape == (1, 24)
        np.testing.assert_allclose(other[0], features[0], rtol=1e-6)
    assert np.ptp(features, axis=0).max() == 0


def test_features_are_normalised_and_do_not_depend_on_the_batch(model):
    pixels = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3)).astype(np.uint8)
    features = model.encode_image(pixels, batch_size=3)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(features[4:5], model.encode_image(pixels[4:5]), rtol=1e-5, atol=1e-6)


def test_features_that_are_not_normalised_are_the_same_ones_before_their_norm_is_divided_away(model):
    pixels = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    raw = model.encode_image(pixels, normalize=False)
    norms = np.linalg.norm(raw, axis=1, keepdims=True)
    assert np.abs(norms - 1).min() > 0.01
    np.testing.assert_allclose(raw / norms, model.encode_image(pixels), rtol=1e-5, atol=1e-6)


def test_a_batch_is_split_over_all_devices_of_the_process(model):
    pixels = np.random.default_rng(1).integers(0, 256, (2 * jax.local_device_count() + 1, 32, 32, 3)).astype(np.uint8)
    placed = []
    put = jax.device_put

    def spy(x, sharding):
        placed.append(put(x, sharding))
        return placed[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_put", spy)
        features = model.encode_image(pixels, batch_size=1)
    alone = bioclip_jax.Model(CONFIG, Preprocessing(), jax.device_put(model.parameters, jax.local_devices()[0]))
    alone.__dict__["_placed"] = (alone.parameters, None)
    np.testing.assert_allclose(features, alone.encode_image(pixels), rtol=1e-5, atol=1e-6)
    batches = [x for x in placed if isinstance(x, jax.Array)]
    assert [len(x) for x in batches] == [jax.local_device_count()] * 3
    assert all(x.sharding.device_set == set(jax.local_devices()) for x in batches)


def test_texts_of_any_length_and_language(model):
    texts = ["", "a photo of Ξιφίας 剣魚 🐟.", "word " * 200, "a photo of Corvus corax."]
    features = model.encode_text(texts)
    assert (features.dtype, features.shape) == (np.float32, (4, 24))
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(features[3:], model.encode_text(texts[3]), rtol=1e-5, atol=1e-6)


def test_nothing_in_gives_nothing_out(model):
    assert model.encode_image([]).shape == (0, 24)
    assert model.encode_text([]).shape == (0, 24)


def test_preprocess_gives_pixels_of_the_models_size(model, photo):
    pixels = model.preprocess(photo)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (32, 32, 3))


def test_logit_scale_is_the_multiplier(model):
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-6)


def test_fingerprint_changes_with_weights_and_preprocessing(model):
    other = bioclip_jax.Model(CONFIG, Preprocessing(geometry="squash"), model.parameters)
    same = bioclip_jax.Model(CONFIG, Preprocessing(), model.parameters)
    assert same.fingerprint == model.fingerprint != other.fingerprint


@pytest.mark.parametrize("images", [np.zeros((2, 32, 32)), np.zeros((2, 32, 32, 3), np.float32)])
def test_arrays_of_another_kind_are_refused(model, images):
    with pytest.raises(UsageError, match=r"expected uint8 \[n, h, w, 3\]"):
        model.encode_image(images)


def test_photo_that_cannot_be_read_is_named(model, tmp_path, photo):
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(buffer.getvalue()[:500])
    for path in (broken, tmp_path / "absent.jpg"):
        with pytest.raises(UserError, match=path.name):
            model.encode_image([path])


def test_places_without_a_model_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file or folder"):
        bioclip_jax.load(tmp_path / "absent")
    with pytest.raises(UsageError, match="is no model"):
        bioclip_jax.load(tmp_path)
