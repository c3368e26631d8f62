"""Who exchanges what, and over which network, in the words of compilers for TPUs and GPUs."""

import pytest

from bioclip_jax.planning import hlo
from bioclip_jax.planning.answer import Exchange
from bioclip_jax.planning.collectives import collectives, exchanges, gradient_dtype
from bioclip_jax.planning.groups import groups_of, spans

pytestmark = pytest.mark.core

# Lines as compilers write them, shortened. A GPU's loop says how often it turns; exchanges there begin and end.
PROGRAM = """HloModule jit_step, is_scheduled=true

%body (state: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %state = (s32[], f32[8,16]{1,0}) parameter(0)
  %gather-start = (bf16[4,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(%state), replica_groups=[4,8]<=[32]
  %gather-done = bf16[32,16]{1,0} all-gather-done(%gather-start)
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%state, %state)
}

ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %loop = (s32[], f32[8,16]{1,0}) while(%x), condition=%unknown, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %scatter-start = ((f32[64,16]{1,0}, f32[32]{0}), (f32[2,16]{1,0}, f32[1]{0})) reduce-scatter-start(%x, %x), replica_groups=[1,32]<=[32]
  %scatter-done = (f32[2,16]{1,0}, f32[1]{0}) reduce-scatter-done(%scatter-start)
  %sum = f32[8,16]{1,0} all-reduce-start(%x), replica_groups=[8,4]<=[4,8]T(1,0)
  %alone = f32[64,64]{1,0} all-reduce(%x), replica_groups=mesh['a'=1,'b'=32] {'a'}
  %shift = (bf16[8,16]{1,0}, bf16[8,16]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1},{1,2}}
  ROOT %texts = bf16[999,16]{1,0} all-reduce(%x), replica_groups={}, metadata={op_name="jit(step)/transpose(jvp())/shard_map/psum"}
}
"""  # noqa: E501
NODES = [device // 8 for device in range(32)]

# Of two slices, each runs a program of its own, with groups of its own devices, and sends to the other's host.
SLICES = """ENTRY %main (x: f32[8,16]) -> f32[8,16] {
  %x = f32[8,16]{1,0} parameter(0)
  %sum = f32[8,16]{1,0} all-reduce(%x), replica_groups={{0,1,2,3}}
  %recv = (f32[2,16]{1,0:T(8,128)}, u32[], token[]) recv(%x), is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %send = (f32[2,16]{1,0:T(8,128)}, u32[], token[]) send(%x, %x), is_host_transfer=true, frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
}
"""  # noqa: E501


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, to_apply=%add", ((0, 2), (1, 3))),
        ("replica_groups={}", ((0, 1, 2, 3),)),
        ("replica_groups=[2,2]<=[4]", ((0, 1), (2, 3))),
        ("replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}", ((0, 2), (1, 3))),
        ("replica_groups=[1,4]<=[4]", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={0}", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=1,'b'=4] {'a','b'}", ((0, 1, 2, 3),)),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", ((0, 1, 2, 3),)),  # not understood: all of them
        ("source_target_pairs={{0,1},{1,2}}, channel_id=1", ((0, 1), (1, 2))),
        ("channel_id=1, use_global_device_ids=true", ((0, 1, 2, 3),)),
    ],
)
def test_groups_of_devices_have_several_forms(text, groups):
    assert groups_of(text, 4) == groups


def test_a_group_spans_networks_where_its_devices_lie_in_several():
    assert not spans(((0, 1), (2, 3)), [0, 0, 1, 1])
    assert spans(((0, 2), (1, 3)), [0, 0, 1, 1])


def test_exchanges_of_gpus_are_added_up_by_kind_network_type_and_group():
    assert set(exchanges(collectives(hlo.parse(PROGRAM)), NODES)) == {
        Exchange("all-gather", "fast", "bf16", 8, 3, 3 * 32 * 16 * 2),
        Exchange("reduce-scatter", "slow", "f32", 32, 1, (2 * 16 + 1) * 4),
        Exchange("all-reduce", "slow", "f32", 4, 1, 8 * 16 * 4),
        Exchange("all-reduce", "slow", "bf16", 32, 1, 999 * 16 * 2),
        Exchange("collective-permute", "fast", "bf16", 2, 1, 8 * 16 * 2),
    }


def test_exchanges_between_slices_are_what_their_hosts_receive():
    found = collectives(hlo.parse(SLICES))
    assert set(exchanges(found, [0, 0, 0, 0, 1, 1, 1, 1])) == {
        Exchange("all-reduce", "fast", "f32", 4, 1, 8 * 16 * 4),
        Exchange("all-reduce", "slow", "f32", 2, 1, 2 * 16 * 4),
    }
    assert gradient_dtype(found) == "f32"


def test_gradients_are_told_from_what_the_loss_adds_up():
    assert gradient_dtype(collectives(hlo.parse(PROGRAM))) == "f32"  # more bytes are of texts, in bf16
    assert gradient_dtype([]) == ""
