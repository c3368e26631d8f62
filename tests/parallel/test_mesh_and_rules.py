"""Meshes of devices, and the rules that place parameters on them."""

import jax
import pytest
from jax.sharding import AxisType, PartitionSpec

from bioclip_jax.errors import UsageError
from bioclip_jax.parallel.mesh import BATCH_AXES, make_mesh
from bioclip_jax.parallel.sharding import ShardingRules, batch_sharding, rows_here

pytestmark = pytest.mark.core


def test_mesh_takes_all_local_devices_and_leaves_sharding_to_the_compiler():
    assert jax.local_device_count() == 4
    assert dict(make_mesh().shape) == {"data": 4, "fsdp": 1}
    mesh = make_mesh(fsdp=2)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2}
    assert set(mesh.axis_types) == {AxisType.Auto}


@pytest.mark.parametrize(("sizes", "message"), [((-1, 3), "fsdp is 3"), ((3, 1), "data 3 x"), ((-1, 0), "fsdp is 0")])
def test_sizes_that_are_not_the_devices_are_refused(sizes, message):
    with pytest.raises(UsageError, match=message):
        make_mesh(*sizes)


def test_batch_is_split_over_all_axes():
    assert batch_sharding(make_mesh(fsdp=2)).spec == PartitionSpec(BATCH_AXES)


def test_rules_split_a_dimension_that_divides_and_leave_others_whole():
    mesh, rules = make_mesh(fsdp=4), ShardingRules()
    axes = ("layers", "embed", "mlp")
    assert rules.sharding(mesh, axes, (2, 8, 32)).spec == PartitionSpec(None, "fsdp", None)
    assert rules.sharding(mesh, axes, (2, 6, 32)).spec == PartitionSpec(None, None, None)
    assert rules.sharding(mesh, (), ()).spec == PartitionSpec()
    assert ShardingRules(embed=None, mlp="fsdp").sharding(mesh, axes, (2, 8, 32)).spec[2] == "fsdp"


def test_rows_of_this_process_are_those_that_its_devices_hold():
    mesh = make_mesh(2, 2)
    assert rows_here(batch_sharding(mesh), 8) == list(range(8))


def test_rows_of_a_process_need_not_lie_together():
    class SomeDevices:
        """Of four devices, the second and the fourth are here."""

        def addressable_devices_indices_map(self, shape):
            assert shape == (8,)
            return {"b": (slice(2, 4),), "d": (slice(6, None),)}

    assert rows_here(SomeDevices(), 8) == [2, 3, 6, 7]


class Chip:
    """A device as far as the arrangement looks at it: one of two slices of 2 x 2 chips."""

    platform, device_kind, core_on_chip = "tpu", "TPU v6 lite", 0

    def __init__(self, index):
        self.id, self.slice_index, self.process_index = index, index // 4, index // 4
        self.coords = (index % 4 % 2, index % 4 // 2, 0)

    def __repr__(self):
        return f"Chip({self.id})"


def test_shares_of_the_parameters_stay_within_a_slice_and_replicas_go_over_both():
    mesh = make_mesh(fsdp=2, devices=[Chip(index) for index in (0, 4, 1, 5, 2, 6, 3, 7)])
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
    assert [len({chip.slice_index for chip in row}) for row in mesh.devices] == [1, 1, 1, 1]
    assert {chip.slice_index for chip in mesh.devices[:, 0]} == {0, 1}
    with pytest.raises(UsageError, match="fsdp is 8, which does not divide the 4 devices of each of the 2 slices"):
        make_mesh(fsdp=8, devices=[Chip(index) for index in range(8)])
