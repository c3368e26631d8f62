"""What the compiler for TPUs makes of the training step: exchanges between chips, and what fits.

No TPU is needed: `make test-tpu`. Depth changes no exchange but its count, so two layers are enough for these.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from bioclip_jax.config import CLIPConfig, DataConfig, MeshConfig, TextConfig, TrainConfig, VisionConfig
from bioclip_jax.errors import UserError
from bioclip_jax.losses import contrastive_loss
from bioclip_jax.models import clip
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.planning import compiled, cycles, memory, topology
from bioclip_jax.planning.ask import networks
from bioclip_jax.planning.collectives import collectives, gradient_dtype
from bioclip_jax.planning.collectives import exchanges as exchanges_of
from bioclip_jax.training.step import make_program

pytestmark = pytest.mark.tpu

MODEL = CLIPConfig(
    112,
    VisionConfig(64, 16, 256, layers=2, heads=4),
    TextConfig(width=128, layers=2, heads=2, vocab_size=512),
    replay_projector=True,
)
CONFIG = TrainConfig(
    model=MODEL,
    replay=DataConfig(dataset="replay", text_types=("caption",)),
    global_batch_size=160,
    replay_batch_size=96,
    remat_policy="context",
)
TOKENS = {"bio": 32, "replay": 77}
MESHES = {
    "data": MeshConfig(),
    "optimizer": MeshConfig(shard_optimizer=True),
    "fsdp": MeshConfig(fsdp=4),
}


@pytest.fixture(scope="module", params=MESHES)
def exchanges(request):
    """Every exchange of the step on eight chips, and the mesh's name."""
    config = dataclasses.replace(CONFIG, mesh=MESHES[request.param])
    answer = compiled.compile_step(config, compiled.mesh_of("v5e-8", config), TOKENS)
    assert isinstance(answer, compiled.Fits)
    return request.param, answer, collectives(answer.module)


def test_texts_are_gathered_once_for_each_contrastive_problem(exchanges):
    assert _gathered(exchanges[2]).count(160 * 112) == 1
    assert _gathered(exchanges[2]).count(96 * 112) == 1


def _gathered(exchanges):
    """Sizes of what is gathered; a gather may be of another shape than what it is for."""
    shapes = [shape for each in exchanges if each.kind == "all-gather" for shape in each.shapes]
    return [math.prod(shape.dimensions) for shape in shapes]


def test_gradients_are_added_up_in_float32(exchanges):
    added = [
        (shape.type, shape.dimensions)
        for each in exchanges[2]
        if each.kind in ("all-reduce", "reduce-scatter")
        for shape in each.shapes
        if len(shape.dimensions) > 1
    ]
    assert len(added) >= 8  # four matrices in each tower
    assert {kind for kind, _ in added} == {"f32"}


def test_no_activations_are_gathered(exchanges):
    shapes = jax.tree.leaves(clip.abstract(MODEL)[1])
    parameters = {leaf.size for leaf in shapes} | {leaf.size // 2 for leaf in shapes}  # a stack, or one of two layers
    features = {160 * 112, 96 * 112, 80 * 112, 48 * 112}  # of all chips, and their gradients within a share
    others = features | {160 * 32, 96 * 77, 32 * 128}  # tokens, and the positions of the shorter texts
    assert set(_gathered(exchanges[2])) <= parameters | others


def test_the_custom_kernels_run_in_both_towers(exchanges):
    kernels = cycles.kernels(exchanges[1].module)
    assert {kernel.category for kernel in kernels} == {"vision attention", "text attention"}
    assert {kernel.name for kernel in kernels} == {"attention_forward_kernel", "attention_backward_kernel"}
    assert all(kernel.flops and kernel.bytes for kernel in kernels)


def test_kinds_of_memory_add_up_to_the_compilers_sum(exchanges):
    name, answer, _ = exchanges
    config = dataclasses.replace(CONFIG, mesh=MESHES[name])
    program = make_program(config, compiled.mesh_of("v5e-8", config))
    kinds = memory.by_kind(answer.memory, answer.module, program, config, TOKENS)
    assert kinds.total == answer.memory.state + answer.memory.temporaries + answer.memory.code
    through = memory.passes(config, TOKENS, devices=8)
    kept = memory.kept_bytes(answer.module, through, {leaf.shape for leaf in jax.tree.leaves(clip.abstract(MODEL)[1])})
    widths = {"vision": MODEL.vision.width, "text": MODEL.text.width}
    # Of each block its input and the context of its attention, in bfloat16, and four statistics of two norms.
    assert kept == sum(one.layers * one.rows * one.tokens * (2 * 2 * widths[one.tower] + 4 * 4) for one in through)
    assert kinds.activations == min(kept, answer.memory.temporaries)  # so little may lie in faster memory


def test_exchanges_between_slices_go_over_the_slow_network():
    mesh = compiled.mesh_of("2xv5e-4", CONFIG)
    whole, rows = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(("data", "fsdp"))))
    weights = jax.ShapeDtypeStruct((256, 256), jnp.float32, sharding=whole)
    batch = jax.ShapeDtypeStruct((64, 256), jnp.float32, sharding=rows)
    step = jax.jit(jax.grad(lambda weights, x: jnp.sum(jnp.tanh(x @ weights))), out_shardings=whole)
    answer = compiled.compile_function(step, weights, batch)
    assert isinstance(answer, compiled.Fits)
    found = collectives(answer.module)
    by_network = exchanges_of(found, networks(topology.parse("2xv5e-4"), mesh))
    assert {each.group for each in by_network if each.network == "slow"} == {2}
    assert {each.group for each in by_network if each.network == "fast"} == {4}
    assert gradient_dtype(found) == "f32"


def test_several_slices_make_one_mesh():
    config = dataclasses.replace(CONFIG, mesh=MeshConfig(fsdp=4))
    mesh = compiled.mesh_of("2xv5e-4", config)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
    assert all(len({device.slice_index for device in row}) == 1 for row in mesh.devices)


def test_a_step_that_does_not_fit_is_told_so():
    large = dataclasses.replace(CLIPConfig.vit_l14(), replay_projector=True)
    config = dataclasses.replace(CONFIG, model=large, global_batch_size=16_384, remat_policy="none")
    answer = compiled.compile_step(config, compiled.mesh_of("v5e-8", config), TOKENS)
    assert isinstance(answer, compiled.OutOfMemory)
    assert answer.needed > answer.available > 15 * 2**30


def test_a_slice_that_nobody_builds_is_refused_in_a_line():
    with pytest.raises(UserError, match=r"topology v5e:3x16: .*not divisible"):
        topology.devices(topology.parse("v5e:3x16"))


@pytest.mark.parametrize(("gather_bfloat16", "gigabytes"), [(True, 0.32), (False, 0.60)])
def test_loss_of_the_published_batch_on_32_chips_is_small(gather_bfloat16, gigabytes):
    mesh = make_mesh(devices=topology.devices(topology.parse("v5e-32")))

    def loss(images, texts, scale):
        options = {"column_chunk": 2048, "gather_bfloat16": gather_bfloat16}
        return contrastive_loss(images, texts, scale, mesh, **options)[0]

    rows, whole = NamedSharding(mesh, PartitionSpec(("data", "fsdp"))), NamedSharding(mesh, PartitionSpec())
    features = jax.ShapeDtypeStruct((90_112, 768), jnp.float32, sharding=rows)
    scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    answer = compiled.compile_function(step, features, features, scale)
    assert isinstance(answer, compiled.Fits)
    assert answer.memory.peak <= gigabytes * 1e9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pairs", "settings"),
    [
        ("v5e-256", (90_112, 10_240), {"remat_policy": "full"}),
        ("v5e-16", (32_768, 0), {"remat_policy": "full", "micro_batches": 8}),
    ],
)
def test_the_full_size_model_fits(name, pairs, settings):
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CLIPConfig.vit_l14(), replay_projector=pairs[1] > 0),
        replay=CONFIG.replay if pairs[1] else DataConfig(dataset=""),
        global_batch_size=pairs[0],
        replay_batch_size=pairs[1],
        mesh=MeshConfig(shard_optimizer=True),
        **settings,
    )
    tokens = TOKENS if pairs[1] else {"bio": 32}
    answer = compiled.compile_step(config, compiled.mesh_of(name, config), tokens)
    assert isinstance(answer, compiled.Fits), answer
    gathered = _gathered(collectives(answer.module))
    parameters = [leaf.size for leaf in jax.tree.leaves(clip.abstract(config.model)[1])]
    for size in (rows * 768 for rows in pairs if rows):
        # A parameter's shares are gathered, too: 24 layers of 1024 x 1024 are as large as 32,768 texts.
        assert gathered.count(size) == 1 + parameters.count(size)
