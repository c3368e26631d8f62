"""What XLA's compiler for CUDA makes of the training step on GPUs that are not here.

Neither a GPU nor NVIDIA's libraries are needed: `make test-tpu` has the compiler beside that for TPUs.
"""

import dataclasses

import pytest

from bioclip_jax.config import CLIPConfig, MeshConfig, TextConfig, TrainConfig, VisionConfig
from bioclip_jax.errors import UsageError
from bioclip_jax.planning.ask import ask
from bioclip_jax.planning.chips import CHIPS
from bioclip_jax.planning.topology import parse

pytestmark = pytest.mark.tpu

MODEL = CLIPConfig(
    64, VisionConfig(32, 8, 64, layers=2, heads=2), TextConfig(width=64, layers=2, heads=2, vocab_size=512)
)
CONFIG = TrainConfig(
    model=MODEL, global_batch_size=160, remat_policy="full", mesh=MeshConfig(fsdp=4, shard_optimizer=True)
)
TOKENS = {"bio": 32}


@pytest.fixture(scope="module")
def answer():
    return ask(CONFIG, parse("h100x16"), TOKENS)


def test_a_step_is_compiled_and_what_was_is_said(answer):
    assert answer.fits
    assert answer.needed == answer.memory.total <= answer.available == CHIPS["h100"].memory
    assert "by public figures; attention is XLA's" in answer.compiled_for
    assert not answer.parts  # nothing estimates cycles


def test_shares_stay_within_a_node_and_gradients_are_added_up_between_nodes(answer):
    assert {each.group for each in answer.exchanges if each.network == "fast"} <= {2, 4, 8}
    assert any(each.network == "slow" and each.group in (4, 16) for each in answer.exchanges)
    assert answer.gradient_dtype == "f32"


def test_memory_has_what_is_kept_of_each_block(answer):
    rows = 160 // 16
    vision, text = 2 * rows * 17 * 64 * 2, 2 * rows * 32 * 64 * 2
    assert answer.memory.activations == vision + text
    assert answer.memory.batch >= rows * (32 * 32 * 3 + 32 * 4)


def test_a_step_that_a_gpu_has_no_memory_for_is_told_so(monkeypatch):
    monkeypatch.setitem(CHIPS, "a100-40", dataclasses.replace(CHIPS["a100-40"], memory=100_000))
    small = dataclasses.replace(CONFIG, mesh=MeshConfig(), global_batch_size=16)
    answer = ask(small, parse("a100-40x1"), TOKENS)
    assert not answer.fits
    assert (answer.needed, answer.available) == (answer.memory.total, 100_000)
    assert (answer.exchanges, answer.gradient_dtype) == ((), "")


def test_a_batch_that_does_not_divide_is_refused():
    with pytest.raises(UsageError, match="global_batch_size 160 does not divide over 24 devices"):
        ask(dataclasses.replace(CONFIG, mesh=MeshConfig()), parse("h100x24"), TOKENS)
