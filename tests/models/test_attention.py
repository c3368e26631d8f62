"""The custom kernel is the plain attention: values and gradients, whatever the number of tokens and width of heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType

from bioclip_jax.config import CLIPConfig, TextConfig, VisionConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.models import clip
from bioclip_jax.models.attention import attention, choose

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("as_users_compile")]

# A bfloat16 result has 8 bits; XLA's own differs from float32 by as much.
BOUNDS = {"float32": 2e-6, "bfloat16": 6e-3}


def relative(ours, theirs):
    ours, theirs = (np.asarray(x, np.float64) for x in (ours, theirs))
    return np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)


def value_and_gradient(qkv, weights, heads, is_causal, implementation):
    def loss(qkv):
        context = attention(qkv, heads, is_causal=is_causal, implementation=implementation)
        return jnp.sum(context.astype(jnp.float32) * weights), context

    (_, context), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(qkv)
    return context, gradient


@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "head_width", "is_causal", "dtype"),
    [
        (2, 257, 2, 64, False, "float32"),
        (2, 257, 2, 64, False, "bfloat16"),
        (2, 77, 2, 64, True, "bfloat16"),
        (2, 17, 8, 80, False, "float32"),  # heads that lie in two vectors
        (8, 32, 4, 64, True, "float32"),  # four sequences in one, and two groups of heads
        (6, 16, 2, 64, False, "float32"),  # a batch that 8 does not divide
        (1, 24, 1, 128, True, "bfloat16"),
    ],
)
def test_kernel_equals_plain_attention_and_its_gradient(batch, tokens, heads, head_width, is_causal, dtype):
    keys = jax.random.split(jax.random.key(tokens))
    qkv = 2 * jax.random.normal(keys[0], (batch, tokens, 3 * heads * head_width), jnp.dtype(dtype))
    weights = jax.random.normal(keys[1], (batch, tokens, heads * head_width))
    ours = value_and_gradient(qkv, weights, heads, is_causal, "pallas")
    theirs = value_and_gradient(qkv, weights, heads, is_causal, "xla")
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype == jnp.dtype(dtype)
        assert relative(a, b) <= BOUNDS[dtype]


def test_large_logits_do_not_overflow():
    qkv = 60 * jax.random.normal(jax.random.key(0), (1, 16, 3 * 128))
    ours = value_and_gradient(qkv, jnp.ones((1, 16, 128)), 2, False, "pallas")
    theirs = value_and_gradient(qkv, jnp.ones((1, 16, 128)), 2, False, "xla")
    for a, b in zip(ours, theirs, strict=True):
        assert np.all(np.isfinite(a))
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def test_kernel_runs_on_each_devices_rows():
    mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))
    qkv = jax.random.normal(jax.random.key(0), (8, 17, 3 * 128))

    def loss(qkv, implementation, mesh):
        out = attention(qkv, 2, is_causal=True, implementation=implementation, mesh=mesh)
        return jnp.sum(out**2)

    split = jax.device_put(qkv, jax.sharding.NamedSharding(mesh, jax.P(("data", "fsdp"))))
    ours = jax.block_until_ready(jax.jit(jax.grad(loss), static_argnums=(1, 2))(split, "pallas", mesh))
    theirs = jax.grad(loss)(qkv, "xla", None)
    assert relative(ours, theirs) <= BOUNDS["float32"]
    assert ours.sharding == split.sharding


def test_a_tower_with_the_kernel_is_the_same_tower():
    config = CLIPConfig(16, VisionConfig(32, 16, 128, 2, 2), TextConfig(width=128, layers=1, heads=2))
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))

    def gradients(attention):
        options = {"remat_policy": "context", "attention": attention}
        definition, parameters = clip.split(clip.CLIP(config, rngs=nnx.Rngs(0), **options))
        loss = lambda parameters: jnp.sum(clip.merge(definition, parameters).encode_image(images) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss))(parameters)["visual"]

    ours, theirs = gradients("pallas"), gradients("xla")
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.max(jnp.abs(b))) + 1e-7, err_msg=str(path))


def test_auto_takes_the_plain_form_on_a_cpu_and_what_was_named_otherwise():
    assert choose("auto", 128, 2, jnp.dtype("bfloat16"), None) == "xla"
    assert choose("pallas", 128, 2, jnp.dtype("bfloat16"), None) == "pallas"


def test_a_width_that_the_kernel_cannot_split_is_refused():
    with pytest.raises(UsageError, match="multiple of 128, not 192"):
        choose("pallas", 192, 3, jnp.dtype("float32"), None)
    with pytest.raises(UsageError, match="float32"):
        choose("pallas", 128, 2, jnp.dtype("float64"), None)
