"""Public figures of chips, the descriptions that are compiled for, and listings of kernels."""

import pytest

from bioclip_jax.parallel.chips import CHIPS, chip_of
from bioclip_jax.planning import gpus, kernel_schedule
from bioclip_jax.planning.chips import nearest_first

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("cpu", None),
    ],
)
def test_a_device_that_is_here_is_known_by_its_kind(kind, name):
    found = chip_of(kind)
    assert (found.name if found else None) == name


def test_a_chip_of_two_devices_gives_each_half_its_arithmetic():
    assert CHIPS["tpu7x"].device_flops_per_second == 2307e12 / 2
    assert CHIPS["v5e"].clock == pytest.approx(1.5e9, rel=0.01)


def test_names_that_look_alike_come_first():
    assert nearest_first("h10")[:2] == ["h100", "h200"]
    assert nearest_first("V6")[0] == "v6e"
    assert set(nearest_first("nothing like it")) == set(CHIPS)


@pytest.mark.parametrize("name", ["a100-40", "a100-80", "h100", "h200"])
def test_a_gpus_description_has_its_public_figures(name):
    text = gpus.target_config(CHIPS[name])
    assert ("core_count: 108" if name.startswith("a100") else "core_count: 132") in text
    assert f"memory_bandwidth: {CHIPS[name].bytes_per_second:.0f}" in text
    assert text.count("{") == text.count("}")


def test_kernels_that_cannot_be_compiled_are_told_from_those_without_a_listing(monkeypatch):
    monkeypatch.setattr(kernel_schedule.sys, "executable", "/bin/false")
    assert kernel_schedule.schedules.__wrapped__("v5e", ()) is None


def test_instructions_of_a_listing_count_by_the_depth_of_their_loops():
    listing = """
     0   :  { %s1 = vmov 1 }
   0x1 LH: > { %s2 = vmov 2 }
   0x2   : > > { %s3 = vmov 3 }
   0x3 LB: > > { %s4 = vmov 4 }
// a remark { }
"""
    assert kernel_schedule.bundles(listing) == {0: 1, 1: 1, 2: 2}
