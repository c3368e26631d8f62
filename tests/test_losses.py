"""The sharded loss against its ten-line reference: value and gradients, also where a naive form underflows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from bioclip_jax.losses import contrastive_loss, reference_contrastive_loss

pytestmark = pytest.mark.core

BOUND = {"float64": 1e-10, "float32": 1e-5}


def features(precision, rows=24, width=12, seed=0):
    draw = np.random.default_rng(seed)
    pair = draw.normal(size=(2, rows, width))
    pair /= np.linalg.norm(pair, axis=-1, keepdims=True)
    return [jnp.asarray(x, precision) for x in pair]


def mesh_of(shape):
    count = int(np.prod(shape))
    return jax.make_mesh(
        shape, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto), devices=jax.devices()[:count]
    )


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (2, 2)])
def test_sharded_loss_and_gradients_equal_the_reference(precision, scale, shape):
    with jax.enable_x64(precision == "float64"):
        arguments = (*features(precision), jnp.asarray(scale, precision))
        mesh = mesh_of(shape)
        ours, ours_gradient = jax.jit(jax.value_and_grad(lambda *x: contrastive_loss(*x, mesh)[0], argnums=(0, 1, 2)))(
            *arguments
        )
        reference, gradient = jax.value_and_grad(reference_contrastive_loss, argnums=(0, 1, 2))(*arguments)
        for a, b in zip([ours, *ours_gradient], [reference, *gradient], strict=True):
            a, b = np.asarray(a), np.asarray(b)
            assert a.dtype == precision
            assert np.linalg.norm(a - b) <= BOUND[precision] * np.linalg.norm(b)


def test_loss_stays_finite_where_all_pairs_are_opposite_at_scale_100():
    image, _ = features("float32")
    loss, _ = contrastive_loss(image, -image, jnp.float32(100), mesh_of((4, 1)))
    assert np.isclose(loss, reference_contrastive_loss(image, -image, jnp.float32(100)), rtol=1e-6)
    assert np.isfinite(loss)


def test_equal_texts_tie_and_count_as_right():
    image, _ = features("float32", rows=8)
    text = image.at[1].set(image[0])  # rows 0 and 1 have the same caption
    image = image.at[1].set(image[0])
    _, accuracy = contrastive_loss(image, text, jnp.float32(10), mesh_of((2, 2)))
    assert accuracy == 1
    _, accuracy = contrastive_loss(image, text[::-1], jnp.float32(10), mesh_of((2, 2)))
    assert accuracy == 0
