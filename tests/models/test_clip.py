"""Shapes, types and sizes of the model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bioclip_jax.config import CLIPConfig, TextConfig, VisionConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.models import clip, flops
from bioclip_jax.models.functions import _short_gelu, activate, dense, l2_normalize, normalize_pixels, patchify

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("as_users_compile")]

SMALL = CLIPConfig(16, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=2, heads=2))


def make(config=SMALL, **options):
    return clip.CLIP(config, rngs=nnx.Rngs(0), **options)


# GFLOPs of image and text at 77 tokens together as OpenCLIP's model_profile.csv has them (two per multiply-add).
@pytest.mark.parametrize(
    ("config", "parameters", "gigaflops"),
    [
        (CLIPConfig.vit_b32(), 151_277_313, 14.78),
        (CLIPConfig.vit_b16(), 149_620_737, 41.09),
        (CLIPConfig.vit_l14(), 427_616_513, 175.33),
        (CLIPConfig.vit_h14(), 986_109_441, 381.68),
    ],
)
def test_presets_have_the_published_sizes(config, parameters, gigaflops):
    _, shapes, _ = clip.abstract(config)
    assert sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes)) == parameters
    ours = (flops.image_flops(config) + flops.text_flops(config, 77)) / 1e9
    assert ours == pytest.approx(gigaflops, rel=0.02)


def test_parameters_stay_float32_and_features_are_float32_under_bfloat16_compute():
    model = make(dtype="bfloat16")
    _, parameters = clip.split(model)
    assert {leaf.dtype for leaf in jax.tree.leaves(parameters)} == {jnp.dtype("float32")}
    images, texts = model.encode_image(jnp.ones((2, 32, 32, 3))), model.encode_text(jnp.ones((2, 8), int))
    assert images.dtype == texts.dtype == jnp.float32


def test_every_matrix_product_of_the_towers_is_bfloat16_when_asked():
    definition, parameters = clip.split(make(dtype="bfloat16"))
    model = clip.merge(definition, parameters)
    jaxpr = str(jax.make_jaxpr(lambda x: model.visual.pool(x))(jnp.ones((2, 32, 32, 3))))
    outputs = [line for line in jaxpr.splitlines() if "dot_general" in line]
    assert outputs
    # Attention logits are float32 accumulations of bfloat16 inputs; everything else is bfloat16 throughout.
    assert sum("f32" in line.split("=")[0] for line in outputs) == 1


@pytest.mark.parametrize("policy", ["dots", "mlp", "attention", "context", "full"])
def test_rematerialisation_changes_no_gradient(policy):
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    def gradient(remat_policy):
        definition, parameters = clip.split(make(remat_policy=remat_policy))
        loss = lambda p: jnp.sum(clip.merge(definition, p).encode_image(images) ** 2)  # noqa: E731
        return jax.grad(loss)(parameters)["visual"]

    for a, b in zip(jax.tree.leaves(gradient(policy)), jax.tree.leaves(gradient("none")), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_kernels_and_biases_get_gradients_that_were_summed_in_their_own_type():
    x = jax.random.normal(jax.random.key(0), (4096, 8)).astype(jnp.bfloat16)
    kernel, bias = jnp.ones((8, 4)), jnp.zeros(4)
    gradients = jax.grad(lambda *p: jnp.sum(dense(x, *p).astype(jnp.float32)), argnums=(0, 1))(kernel, bias)
    exact = np.asarray(x, np.float64).sum(axis=0)
    np.testing.assert_allclose(gradients[0], np.repeat(exact[:, None], 4, axis=1), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(gradients[1], np.full(4, 4096.0))  # bfloat16 counts to 256
    assert {gradient.dtype for gradient in gradients} == {jnp.dtype("float32")}


def test_gelu_in_bfloat16_is_the_erf_form_to_a_tenth_of_its_resolution():
    x = jnp.linspace(-8, 8, 4001)
    exact, derivative = jax.vmap(jax.value_and_grad(lambda x: activate(x, "gelu")))(x)
    short, short_derivative = jax.vmap(jax.value_and_grad(_short_gelu))(x)
    np.testing.assert_allclose(short, exact, atol=3e-5)
    np.testing.assert_allclose(short_derivative, derivative, atol=1.2e-4)
    assert activate(x.astype(jnp.bfloat16), "gelu").dtype == jnp.bfloat16


def test_quick_gelu_is_another_function():
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    plain = make().encode_image(images)
    quick = make(CLIPConfig(16, SMALL.vision, SMALL.text, activation="quick_gelu")).encode_image(images)
    assert 1e-4 < float(jnp.linalg.norm(plain - quick) / jnp.linalg.norm(plain)) < 1


def test_logical_axes_name_every_dimension_of_every_parameter():
    _, shapes, axes = clip.abstract(SMALL)
    structure = jax.tree.structure(shapes)
    for leaf, names in zip(jax.tree.leaves(shapes), structure.flatten_up_to(axes), strict=True):
        assert len(names) == len(leaf.shape)
    assert axes["text"]["blocks"]["qkv"]["kernel"] == ("layers", "embed", "heads")


def test_patches_are_cut_row_by_row():
    image = jnp.arange(4 * 4 * 3).reshape(1, 4, 4, 3)
    patches = patchify(image, 2)
    assert patches.shape == (1, 4, 12)
    np.testing.assert_array_equal(patches[0, 1], image[0, :2, 2:].reshape(-1))


def test_pixels_are_normalised_as_torchvision_does():
    pixels = np.array([[[[0, 128, 255]]]], np.uint8)
    out = normalize_pixels(jnp.asarray(pixels), (0.5, 0.5, 0.5), (0.5, 0.25, 0.5), jnp.float32)
    np.testing.assert_allclose(out[0, 0, 0], [-1, (128 / 255 - 0.5) / 0.25, 1], rtol=1e-6, atol=2e-7)


def test_l2_normalize_of_zero_is_zero_with_a_finite_gradient():
    zero = jnp.zeros(3)
    assert not np.any(l2_normalize(zero))
    assert np.all(np.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(zero)))


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(UsageError, match="patch_size 15"):
        CLIPConfig(vision=VisionConfig(image_size=224, patch_size=15))
    with pytest.raises(UsageError, match=r"text\.heads 7"):
        CLIPConfig(text=TextConfig(heads=7))
