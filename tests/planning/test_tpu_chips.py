"""How the compiler's cycles and memory are to be read, for each generation of TPUs.

No TPU is needed: `make test-tpu`.
"""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.planning import compiled, cycles, topology
from bioclip_jax.planning.chips import CHIPS

pytestmark = pytest.mark.tpu

# Slices of one machine at most, and products that are large enough to keep the matrix units busy.
SLICES = {"v4": "v4:2x2x1", "v5e": "v5e:1x1", "v5p": "v5p:2x2x1", "v6e": "v6e:1x1", "tpu7x": "tpu7x:2x2x1"}
ROWS = {"v6e": 32_768, "tpu7x": 32_768}


@pytest.fixture(params=SLICES)
def generation(request):
    """A generation's name, and where arrays of one of its devices lie."""
    mesh = make_mesh(devices=topology.devices(topology.parse(SLICES[request.param]))[:1])
    return request.param, NamedSharding(mesh, PartitionSpec())


def test_a_large_product_takes_the_compilers_cycles_at_85_to_100_percent_of_the_public_peak(generation):
    name, placed = generation
    rows, width = ROWS.get(name, 8192), 4096
    shapes = ((rows, width), (width, width))
    arrays = [jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=placed) for shape in shapes]
    answer = compiled.compile_function(jax.jit(jnp.dot), *arrays)
    assert isinstance(answer, compiled.Fits)
    chip = CHIPS[name]
    seconds = cycles.fusion_cycles(answer.module).total() / chip.clock
    assert 0.85 <= 2 * rows * width * width / seconds / chip.device_flops_per_second <= 1


def test_a_chips_memory_is_what_the_compiler_says_is_available(generation):
    name, placed = generation
    too_large = jax.ShapeDtypeStruct((2 * CHIPS[name].memory,), jnp.uint8, sharding=placed)
    answer = compiled.compile_function(jax.jit(lambda x: x + jnp.uint8(1)), too_large)
    assert isinstance(answer, compiled.OutOfMemory)
    assert answer.available == CHIPS[name].memory < answer.needed
