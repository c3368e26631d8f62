"""The custom kernel compiles for every TPU that it is chosen on. No TPU is needed: `make test-tpu`."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bioclip_jax.models.attention import attention, choose
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.planning import compiled, cycles, topology

pytestmark = pytest.mark.tpu

SHAPES = {
    "L/14 vision": (4, 257, 16, 64, False),
    "H/14 vision": (2, 257, 16, 80, False),
    "336 pixels": (1, 577, 16, 64, False),
    "packed texts": (8, 32, 12, 64, True),
    "whole texts": (2, 77, 12, 64, True),
    "tiny": (8, 65, 4, 32, False),
}


@pytest.fixture(scope="module", params=["v5e:1x1", "v6e:1x1", "v5p:2x2x1"])
def mesh(request):
    return make_mesh(devices=topology.devices(topology.parse(request.param))[:1])


@pytest.mark.parametrize("name", SHAPES)
def test_kernels_compile_for_the_sizes_of_published_models(mesh, name):
    batch, tokens, heads, head_width, is_causal = SHAPES[name]
    width, placed = heads * head_width, NamedSharding(mesh, PartitionSpec())
    implementation = choose("auto", width, heads, jnp.dtype("bfloat16"), mesh)
    assert implementation == "pallas"

    def gradient(qkv, cotangent):
        def forward(qkv):
            return attention(qkv, heads, is_causal=is_causal, implementation=implementation, mesh=mesh)

        out, back = jax.vjp(forward, qkv)
        return out, back(cotangent)

    arrays = [jax.ShapeDtypeStruct((batch, tokens, n * width), jnp.bfloat16, sharding=placed) for n in (3, 1)]
    answer = compiled.compile_function(jax.jit(gradient), *arrays)
    assert isinstance(answer, compiled.Fits)
    names = {kernel.name for kernel in cycles.kernels(answer.module)}
    assert names == {"attention_forward_kernel", "attention_backward_kernel"}
