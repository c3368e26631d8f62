"""The sharded losses against their references: value and gradients, also where a naive form underflows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

from bioclip_jax.losses import (
    automatic_chunk,
    caption_identity,
    contrastive_loss,
    reference_contrastive_loss,
    reference_sigmoid_loss,
    species_loss,
)

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("as_users_compile")]

BOUND = {"float64": 1e-10, "float32": 1e-5}
CAPTIONS = np.array([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4])


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


def loss_of(image, text, scale, shape, chunk):
    mesh = mesh_of(shape)
    return jax.jit(lambda *x: contrastive_loss(*x, mesh, column_chunk=chunk))(image, text, jnp.float32(scale))


def assert_equal_with_gradients(ours, reference, arguments, precision):
    places = tuple(range(len(arguments)))
    value = jax.jit(jax.value_and_grad(ours, argnums=places))(*arguments)
    expected = jax.jit(jax.value_and_grad(reference, argnums=places))(*arguments)
    for a, b in zip(jax.tree.leaves(value), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == precision
        assert np.linalg.norm(a - b) <= BOUND[precision] * np.linalg.norm(b)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("scale", [1 / 0.07, 100.0])
@pytest.mark.parametrize(("shape", "chunk"), [((1, 1), 0), ((1, 1), 5), ((4, 1), 0), ((2, 2), 6)])
def test_sharded_loss_and_gradients_equal_the_reference(precision, scale, shape, chunk):
    with jax.enable_x64(precision == "float64"):
        arguments = (*features(precision), jnp.asarray(scale, precision))
        mesh = mesh_of(shape)
        assert_equal_with_gradients(
            lambda *x: contrastive_loss(*x, mesh, column_chunk=chunk)[0],
            reference_contrastive_loss,
            arguments,
            precision,
        )


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize(("shape", "chunk"), [((1, 1), 0), ((2, 2), 6)])
def test_rows_with_equal_captions_are_no_negatives_of_each_other_where_asked(precision, shape, chunk):
    with jax.enable_x64(precision == "float64"):
        image, text = features(precision)
        _, first = np.unique(CAPTIONS, return_index=True)
        text = text[first][np.unique(CAPTIONS, return_inverse=True)[1]]  # equal captions have equal features
        mesh, positives = mesh_of(shape), jnp.asarray(CAPTIONS[:, None] == CAPTIONS)
        captions = caption_identity(jnp.asarray(CAPTIONS)[:, None])
        assert_equal_with_gradients(
            lambda *x: contrastive_loss(*x, mesh, captions=captions, column_chunk=chunk)[0],
            lambda *x: reference_contrastive_loss(*x, positives),
            (image, text, jnp.asarray(20.0, precision)),
            precision,
        )


def test_sharing_the_target_among_equal_captions_changes_no_gradient_of_the_plain_loss():
    with jax.enable_x64(True):
        image, text = features("float64")
        _, first, ids = np.unique(CAPTIONS, return_index=True, return_inverse=True)
        targets = (CAPTIONS[:, None] == CAPTIONS) / (CAPTIONS[:, None] == CAPTIONS).sum(1)

        def shared(image, texts):
            logits = 20 * image @ texts[ids].T
            rows, columns = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
            return -jnp.mean(jnp.sum(targets * (rows + columns), axis=1)) / 2

        def plain(image, texts):
            return reference_contrastive_loss(image, texts[ids], 20.0)

        arguments = (image, text[first])
        for a, b in zip(
            *(jax.jit(jax.grad(loss, argnums=(0, 1)))(*arguments) for loss in (shared, plain)), strict=True
        ):
            assert np.linalg.norm(a - b) <= 1e-12 * np.linalg.norm(b)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("shape", "chunk"), [((1, 1), 0), ((4, 1), 0), ((2, 2), 6)])
def test_sigmoid_loss_and_gradients_equal_the_reference(precision, several, shape, chunk):
    with jax.enable_x64(precision == "float64"):
        arguments = (*features(precision), jnp.asarray(10.0, precision), jnp.asarray(-10.0, precision))
        mesh, positives = mesh_of(shape), jnp.asarray(CAPTIONS[:, None] == CAPTIONS) if several else None
        captions = caption_identity(jnp.asarray(CAPTIONS)[:, None]) if several else None

        def ours(image, text, scale, bias):
            options = {"kind": "sigmoid", "logit_bias": bias, "captions": captions, "column_chunk": chunk}
            return contrastive_loss(image, text, scale, mesh, **options)[0]

        assert_equal_with_gradients(ours, lambda *x: reference_sigmoid_loss(*x, positives), arguments, precision)


def test_references_are_the_textbook_sums():
    image, text = features("float32", rows=5)
    logits = 7 * np.asarray(image, np.float64) @ np.asarray(text, np.float64).T
    rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
    columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
    assert np.isclose(
        reference_contrastive_loss(image, text, jnp.float32(7)), (rows.mean() + columns.mean()) / 2, rtol=1e-5
    )
    signs = 2 * np.eye(5) - 1
    expected = np.log1p(np.exp(-signs * (logits - 3))).sum() / 5
    assert np.isclose(reference_sigmoid_loss(image, text, jnp.float32(7), jnp.float32(-3)), expected, rtol=1e-5)


def test_gathering_in_bfloat16_costs_its_rounding_and_no_more():
    arguments = (*features("float32"), jnp.float32(20))
    mesh = mesh_of((4, 1))
    exact, gradient = jax.jit(jax.value_and_grad(lambda *x: contrastive_loss(*x, mesh)[0], argnums=(0, 1)))(*arguments)
    ours, rounded = jax.value_and_grad(lambda *x: contrastive_loss(*x, mesh, gather_bfloat16=True)[0], argnums=(0, 1))(
        *arguments
    )
    assert 0 < abs(float(ours - exact)) < 0.02 * float(exact)
    for a, b in zip(rounded, gradient, strict=True):
        assert a.dtype == np.float32
        assert np.linalg.norm(a - b) < 0.03 * np.linalg.norm(b)


def test_loss_stays_finite_where_all_pairs_are_opposite_at_scale_100():
    image, _ = features("float32")
    for chunk in (0, 6):
        loss, _ = loss_of(image, -image, 100, (4, 1), chunk)
        assert np.isclose(loss, reference_contrastive_loss(image, -image, jnp.float32(100)), rtol=1e-6)
        assert np.isfinite(loss)


@pytest.mark.parametrize("chunk", [0, 2])
def test_equal_texts_tie_and_count_as_right(chunk):
    image, _ = features("float32", rows=8)
    text = image.at[1].set(image[0])  # rows 0 and 1 have the same caption
    image = image.at[1].set(image[0])
    _, accuracy = loss_of(image, text, 10, (2, 2), chunk)
    assert accuracy == 1
    _, accuracy = loss_of(image, text[::-1], 10, (2, 2), chunk)
    assert accuracy == 0


def test_captions_are_told_apart_by_every_token():
    draw = np.random.default_rng(0)
    tokens = draw.integers(0, 49408, (500, 32))
    tokens[250:, :31] = tokens[:250, :31]  # the second half differs in the last token only
    tokens[7] = tokens[3]
    identity = np.asarray(caption_identity(jnp.asarray(tokens)))
    _, ids = np.unique(tokens, axis=0, return_inverse=True)
    same = (identity[:, None] == identity).all(-1)
    assert (same == (ids[:, None] == ids)).all()


def test_logits_are_computed_in_chunks_only_where_they_are_large():
    assert automatic_chunk(4096, 8) == 0
    assert automatic_chunk(90_112, 32) == 2048
    assert automatic_chunk(98_304 + 8 * 1024, 8) == 2048
    assert automatic_chunk(8 * 12_289, 8) == 0  # 12,289 is prime: no divisor is near


def test_species_loss_is_the_cross_entropy_of_a_linear_classifier():
    image, _ = features("float32", rows=6, width=4)
    draw = np.random.default_rng(1)
    kernel, bias, species = draw.normal(size=(4, 3)), draw.normal(size=3), np.array([0, 1, 2, 0, 1, 2])
    logits = np.asarray(image) @ kernel + bias
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(6), species])
    loss, accuracy = species_loss(image, jnp.float32(kernel), jnp.float32(bias), jnp.asarray(species))
    assert np.isclose(loss, expected, rtol=1e-5)
    assert accuracy == np.mean(logits.argmax(1) == species)
