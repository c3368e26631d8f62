"""Questions that make no sense on a topology, or that no compiler is here for, are answered in a line."""

import dataclasses
import importlib.util

import pytest

from bioclip_jax.config import CLIPConfig, MeshConfig, TrainConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.planning.ask import ask, attention_calls
from bioclip_jax.planning.kernel_schedule import Call
from bioclip_jax.planning.topology import parse

pytestmark = pytest.mark.core

CONFIG = TrainConfig(model=CLIPConfig.tiny(), global_batch_size=256)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("v5e-8", {"dtype": "float64"}, "dtype float64 is for CPUs"),
        ("v5e-8", {"attention": "cudnn"}, "attention cudnn is NVIDIA's; v5e:2x4 takes"),
        ("h100x16", {"attention": "pallas"}, "attention pallas is a kernel for TPUs; h100x16 takes"),
        ("h100x16", {"mesh": MeshConfig(fsdp=16)}, "mesh.fsdp is 16, which does not divide the 8 GPUs of a node"),
    ],
)
def test_what_cannot_run_there_is_refused(name, fields, message):
    with pytest.raises(UsageError, match=message):
        ask(dataclasses.replace(CONFIG, **fields), parse(name), {"bio": 32})


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("v5e-8", "libtpu", "tpu"), ("h100x8", "jax_plugins.xla_cuda13", "cuda-compiler")],
)
def test_a_missing_compiler_names_its_extra(name, module, extra):
    if importlib.util.find_spec(module.split(".")[0]):
        pytest.skip(f"{module} is installed")
    with pytest.raises(UserError, match=rf"topology .*pip install 'bioclip-jax\[{extra}\]' \(x86 Linux only"):
        ask(CONFIG, parse(name), {"bio": 32})


def test_kernels_have_the_shapes_of_each_way_through_a_tower():
    config = dataclasses.replace(CONFIG, model=CLIPConfig.vit_l14(), global_batch_size=2048)
    assert attention_calls(config, {"bio": 32}, devices=16) == {
        ("vision attention", 128 * 257): Call(128, 257, 16, 64, is_causal=False),
        ("text attention", 128 * 32): Call(128, 32, 12, 64, is_causal=True),
    }
