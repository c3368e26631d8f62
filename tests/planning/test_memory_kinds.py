"""A step's memory by kind: the state by its shardings, what loops keep, and the compiler's sum to the byte."""

import dataclasses

import jax
import pytest

from bioclip_jax.config import CLIPConfig, DataConfig, MeshConfig, OptimizerConfig, TrainConfig
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.planning import compiled, hlo, memory
from bioclip_jax.planning.memory import Pass
from bioclip_jax.training.step import make_program

pytestmark = pytest.mark.core

# Two loops over 24 blocks that hand on the same stacks: kept rows, statistics, a parameter and its gradient's share.
LOOPS = """ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %forward = (s32[], bf16[24,8,257,64]{3,1,2,0:T(8,128)(2,1)}, f32[24,64,8]{2,1,0}) while(%x), condition=%c, body=%b, metadata={op_name="jit(step)/jvp(vision)/while"}, backend_config={"known_trip_count":{"n":"0"}}
  %backward = (s32[], bf16[24,8,257,64]{3,1,2,0}, f32[24,8,257]{2,1,0}, f32[24,64,8]{2,1,0}, f32[24,8,3]{2,1,0}) while(%x), condition=%c, body=%b, metadata={op_name="jit(step)/transpose(jvp(vision))/while"}, backend_config={"known_trip_count":{"n":"0"}}
  %texts = (s32[], bf16[24,256,64]{2,1,0}, bf16[24,8,32,64]{3,2,1,0}) while(%x), condition=%c, body=%b, metadata={op_name="jit(step)/jvp(text)/while"}, backend_config={"known_trip_count":{"n":"0"}}
  ROOT %end = f32[8]{0} copy(%x)
}

%b (x.1: f32[8]) -> f32[8] {
  ROOT %x.1 = f32[8]{0} parameter(0)
}
"""  # noqa: E501


def test_what_is_kept_of_each_block_is_read_from_the_loops_once():
    through = [Pass("vision", 24, 8, 257), Pass("text", 24, 8, 32)]
    kept = memory.kept_bytes(hlo.parse(LOOPS), through, {(24, 64, 8), (24, 256, 64)})
    vision = 24 * 8 * 257 * 64 * 2 + 24 * 8 * 257 * 4
    assert kept == vision + 24 * 8 * 32 * 64 * 2
    flat = memory.kept_bytes(hlo.parse(LOOPS), through[1:], ())  # rows and tokens may be one dimension
    assert flat == 2 * 24 * 8 * 32 * 64 * 2


def test_photos_of_all_streams_go_through_the_tower_together_and_captions_by_themselves():
    config = TrainConfig(
        model=CLIPConfig.tiny(),
        replay=DataConfig(dataset="replay", text_types=("caption",)),
        global_batch_size=64,
        replay_batch_size=32,
        micro_batches=2,
    )
    assert memory.passes(config, {"bio": 32, "replay": 77}, devices=4) == [
        Pass("vision", 6, 8 + 4, 65),
        Pass("text", 3, 8, 32),
        Pass("text", 3, 4, 77),
    ]


def test_kinds_are_what_the_shardings_say_and_add_up_to_the_compilers_sum():
    config = TrainConfig(
        model=CLIPConfig.tiny(16),
        optimizer=OptimizerConfig(ema_decay=0.9),
        global_batch_size=16,
        dtype="float32",
        remat_policy="full",
        mesh=MeshConfig(shard_optimizer=True),
    )
    program = make_program(config, make_mesh(devices=jax.devices()[:4]))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(program.abstract_state.parameters))
    sizes = compiled.Sizes(state=200_000_000, temporaries=50_000_000, code=7, peak=0)
    kinds = memory.by_kind(sizes, hlo.parse(LOOPS), program, config, {"bio": 32})
    assert kinds.parameters == 4 * parameters
    assert kinds.batch == 4 * (16 * 16 * 3 + 32 * 4) + program.abstract_signals.size
    assert 4 * parameters * 1.5 <= kinds.optimizer < 4 * parameters * 1.52  # two moments in four shares, and an average
    assert kinds.total == sizes.total
    assert dataclasses.replace(kinds, temporaries=0).total < sizes.total
