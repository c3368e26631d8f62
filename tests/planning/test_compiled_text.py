"""Counting in a compiled program's text: loops, fusions, kernels and exchanges."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from bioclip_jax.planning import collectives, compiled, cycles, hlo
from bioclip_jax.planning.chips import CHIPS

pytestmark = pytest.mark.core

# As the compiler for TPUs writes it, shortened: a loop of 24 turns with a fusion and a kernel, then two more fusions.
PROGRAM = (Path(__file__).parent / "program.hlo.txt").read_text()


@pytest.fixture(scope="module")
def module():
    return hlo.parse(PROGRAM)


def test_a_loops_body_counts_as_often_as_it_turns(module):
    times = {instruction.name: times for instruction, times in module.runs()}
    assert times["fusion"] == 24
    assert times["fusion.1"] == times["while.1"] == 1
    assert "gather.1" not in times  # inside a fusion


def test_a_loop_of_unknown_length_is_an_error(module):
    loop = next(instruction for instruction, _ in module.runs() if instruction.opcode == "while")
    unknown = hlo.parse(PROGRAM.replace("%turns = s32[]{:T(128)} constant(24)", "%turns = s32[]{:T(128)} parameter(1)"))
    with pytest.raises(ValueError, match=r"while\.1 does not say"):
        unknown.trip_count(loop)


def test_cycles_are_added_up_by_part_of_the_step(module):
    assert cycles.fusion_cycles(module) == {"vision mlp": 24 * 1500, "loss": 7, "optimizer": 20}


def test_a_kernel_takes_as_long_as_its_arithmetic_its_bytes_or_its_schedule(module):
    (kernel,) = cycles.kernels(module)
    assert (kernel.name, kernel.times, kernel.category) == ("attention_forward_kernel", 24, "vision attention")
    chip, part = CHIPS["v5e"], ("vision attention", 8)
    low = round(1e-6 * chip.clock)  # 819,000 bytes are a microsecond
    assert cycles.kernel_cycles(kernel, chip) == (24 * low, 24 * low)
    assert cycles.kernel_cycles(kernel, chip, {part: {kernel.name: 1600}}) == (24 * low, 24 * 1600)
    assert cycles.kernel_cycles(kernel, chip, {part: {kernel.name: 2}}) == (24 * low, 24 * low)
    assert cycles.kernel_cycles(kernel, chip, {(kernel.category, 9): {kernel.name: 1600}})[1] == 24 * low


def test_parts_are_seconds_from_the_lowest_to_the_highest_reading(module):
    chip = CHIPS["v5e"]
    parts = cycles.part_seconds(module, chip, {("vision attention", 8): {"attention_forward_kernel": 3000}})
    assert list(parts) == ["vision attention", "vision mlp", "optimizer", "loss"]
    assert parts["vision mlp"] == (24 * 1500 / chip.clock,) * 2
    assert parts["vision attention"] == (pytest.approx(24e-6, rel=1e-3), 24 * 3000 / chip.clock)


@pytest.mark.parametrize(
    ("op_name", "category"),
    [
        ("jit(step)/jvp(vision)/while/body/closed_call/attention/norm/sub", "vision norm"),
        ("jit(step)/transpose(jvp(text))/while/body/checkpoint/mlp/dot_general", "text mlp"),
        ("jit(step)/jvp(vision)/while/body/attention/shard_map/pallas_call", "vision attention"),
        ("jit(step)/jvp(vision)/reshape", "vision other"),
        ("jit(step)/transpose(jvp())/shard_map/psum", "loss"),
        ("jit(step)/transpose(jvp())/dot_general", "other"),
        ("jit(step)/sqrt", "optimizer"),
    ],
)
def test_an_operation_belongs_to_the_part_its_scopes_name(op_name, category):
    assert cycles.category(op_name) == category


def test_an_exchange_spread_over_fusions_counts_once_and_a_combined_one_with_all_it_carries(module):
    found = {(each.kind, each.times): each for each in collectives.collectives(module)}
    assert set(found) == {("all-gather", 24), ("all-reduce", 1)}
    assert found["all-gather", 24].bytes == 24 * 8 * 128 * 2
    assert found["all-reduce", 1].shapes == (hlo.Shape("f32", (4,)), hlo.Shape("f32", (2, 2)))


def test_the_compiler_on_this_machine_is_understood_too():
    mesh = jax.make_mesh((4, 1), ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto))

    def step(x):
        x = jax.lax.scan(lambda carry, _: (jnp.sin(carry @ carry.T) @ carry, None), x, length=3)[0]
        return jnp.sum(x, axis=0)

    split = NamedSharding(mesh, PartitionSpec("data"))
    answer = compiled.compile_function(jax.jit(step), jax.ShapeDtypeStruct((8, 16), np.float32, sharding=split))
    assert isinstance(answer, compiled.Fits)
    assert answer.memory.total >= 2 * 16 * 4
    kinds = {each.kind: each.times for each in collectives.collectives(answer.module)}
    assert kinds["all-gather"] == 3
    assert "all-reduce" in kinds


def test_too_little_memory_is_an_answer():
    message = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 94.22G of "
        "15.75G hbm. ... total memory required (94.22G) exceeds available HBM (15.75G)"
    )
    answer = compiled._out_of_memory(jax.errors.JaxRuntimeError(message), 1.0)
    assert (answer.needed, answer.available) == (int(94.22 * 2**30), int(15.75 * 2**30))
    short = "RESOURCE_EXHAUSTED: ... Ran out of memory in memory space hbm. Used 94.22G of 15.75G hbm. Exceeded hbm ..."
    assert compiled._out_of_memory(jax.errors.JaxRuntimeError(short), 1.0) == answer


@pytest.mark.parametrize("message", ["INTERNAL: else", "RESOURCE_EXHAUSTED: ... Used 32.42M of 16.00M vmem. Exceeded"])
def test_any_other_failure_of_a_compiler_stays_one(message):
    with pytest.raises(jax.errors.JaxRuntimeError, match=message[:8]):
        compiled._out_of_memory(jax.errors.JaxRuntimeError(message), 1.0)
