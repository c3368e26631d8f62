"""A slice of TPUs has several names, and a wrong one is refused in a line."""

import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.planning.topology import parse

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("name", "shape", "chips"),
    [
        ("v5e-256", "v5e:16x16", 256),
        ("v5e-128", "v5e:8x16", 128),
        ("v5e-16", "v5e:4x4", 16),
        ("v6e-64", "v6e:8x8", 64),
        ("v5p-128", "v5p:4x4x4", 64),  # counts TensorCores, two in a chip
        ("v5p-8", "v5p:2x2x1", 4),
        ("v5p-64", "v5p:2x4x4", 32),
        ("v5e:4x8", "v5e:4x8", 32),
        ("2xv5e-256", "2xv5e:16x16", 512),
        ("tpu7x:2x2x4", "tpu7x:2x2x4", 16),
    ],
)
def test_short_and_long_names_mean_the_same_slice(name, shape, chips):
    topology = parse(name)
    assert (str(topology), topology.chips) == (shape, chips)
    assert parse(shape) == topology


@pytest.mark.parametrize(
    ("name", "slices", "hosts", "devices"),
    [
        ("h100x32", 4, 4, 32),
        ("h200x4", 1, 1, 4),
        ("a100-80x16", 2, 2, 16),
        ("v5e-256", 1, 64, 256),
        ("v5e-8", 1, 1, 8),  # one machine of eight
        ("2xv6e-16", 2, 8, 32),
        ("v5p-8", 1, 1, 4),
        ("tpu7x:2x2x4", 1, 4, 32),  # two devices on a chip
    ],
)
def test_slices_hosts_and_devices_are_counted(name, slices, hosts, devices):
    topology = parse(name)
    assert (topology.slices, topology.hosts, topology.devices) == (slices, hosts, devices)
    assert parse(str(topology)) == topology


@pytest.mark.parametrize(
    "name",
    ["v5e", "v5e-0", "v5e-48", "v5e-512", "v5p-7", "v5e:4x4x4", "v5p:4x4", "h100-8", "0xv5e-4", "h100x0", "h100x12",
     "h100", "4xh100x8", "9999xv5e-256", "v5e:9999x9999", ""],
)  # fmt: skip
def test_what_is_no_slice_is_refused(name):
    with pytest.raises(UsageError, match=f"topology '{name}'"):
        parse(name)


@pytest.mark.parametrize(
    ("name", "first"), [("h10x32", "h100"), ("2xv6-64", "v6e"), ("A100x8", "a100-"), ("v5-8", "v5")]
)
def test_an_unknown_chip_is_answered_with_the_known_ones_nearest_first(name, first):
    with pytest.raises(UsageError, match=f"chips: {first}.*tpu7x"):
        parse(name)
