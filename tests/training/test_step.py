"""The step is the same mathematics on any mesh, its state is donated, and the schedule and groups are OpenCLIP's."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from bioclip_jax.config import (
    CLIPConfig,
    MeshConfig,
    OptimizerConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.parallel.sharding import batch_sharding
from bioclip_jax.training.feed import place
from bioclip_jax.training.optimizer import decay_mask, learning_rate_schedule, make_optimizer
from bioclip_jax.training.signals import ABORT, place_signals
from bioclip_jax.training.step import TrainState, apply_gradients, make_program

pytestmark = pytest.mark.core

CONFIG = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=1, heads=2)),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    global_batch_size=8,
    total_steps=10,
    dtype="float32",
)


def mesh_of(shape):
    return make_mesh(*shape, devices=jax.devices()[: math.prod(shape)])


def batch(mesh, seed=0):
    draw = np.random.default_rng(seed)
    rows = {
        "image": draw.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8),
        "tokens": draw.integers(1, 49408, (8, 16)).astype(np.int32),
    }
    return {"bio": {name: place(array, batch_sharding(mesh)) for name, array in rows.items()}}


@functools.cache
def program_of(shape, dtype="float32", shard_optimizer=False):
    """Compiled once for all tests."""
    mesh = mesh_of(shape)
    config = dataclasses.replace(CONFIG, dtype=dtype, mesh=MeshConfig(shard_optimizer=shard_optimizer))
    return mesh, make_program(config, mesh)


def run(shape, steps=3, dtype="float32", shard_optimizer=False):
    mesh, program = program_of(shape, dtype, shard_optimizer)
    state, signals = program.init(), place_signals({}, mesh)
    figures = []
    for step in range(steps):
        state, metrics = program.step(state, batch(mesh, step), signals)
        figures.append(jax.device_get(metrics))
    return state, figures, program


def changed(before, after):
    """Names of the parameters that differ."""
    flat = jax.tree.leaves_with_path(jax.tree.map(lambda a, b: bool((a != b).any()), before, after))
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, differs in flat if differs}


@pytest.fixture(scope="module")
def one_device():
    return run((1, 1))


@pytest.mark.parametrize(
    ("shape", "shard_optimizer"),
    [
        pytest.param((2, 2), False, marks=pytest.mark.slow),
        pytest.param((4, 1), False, marks=(pytest.mark.slow, pytest.mark.full)),
        ((4, 1), True),
        ((1, 4), False),
    ],
)
def test_any_mesh_gives_the_same_figures_and_weights(shape, shard_optimizer, one_device):
    state, figures, _ = run(shape, shard_optimizer=shard_optimizer)
    expected, expected_figures, _ = one_device
    for ours, theirs in zip(figures, expected_figures, strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, err_msg=name)
    # The first moments are the gradients' running mean: no rounding is blown up as Adam's division does to weights.
    moments = [jax.device_get(s.optimizer_state[0].mu) for s in (state, expected)]
    for a, b in zip(*map(jax.tree.leaves, moments), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("shape", [pytest.param((4, 1), marks=pytest.mark.full), (2, 2)])
def test_any_mesh_gives_the_same_step_in_float64(shape):
    with jax.enable_x64(True):
        (state, figures, _), (expected, expected_figures, _) = (run(s, 2, "float64") for s in (shape, (1, 1)))
        for ours, theirs in zip(figures, expected_figures, strict=True):
            for name, value in theirs.items():
                np.testing.assert_allclose(ours[name], value, rtol=1e-10, err_msg=name)
        moments = [jax.device_get(s.optimizer_state[0].mu) for s in (state, expected)]
        for a, b in zip(*map(jax.tree.leaves, moments), strict=True):
            assert a.dtype == np.float64
            assert np.linalg.norm(a - b) <= 1e-10 * np.linalg.norm(b) + 1e-14


def test_parameters_and_moments_are_split_over_fsdp():
    _, program = program_of((1, 4))
    state = program.init()
    for tree in (state.parameters, state.optimizer_state[0].mu):
        assert tree["text"]["token_embedding"].sharding.spec == PartitionSpec(None, "fsdp")
        assert tree["text"]["token_embedding"].addressable_shards[0].data.shape == (49408, 8)
        assert tree["visual"]["blocks"]["qkv"]["kernel"].sharding.spec[1] == "fsdp"
    abstract = program.abstract_state
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, abstract)


def test_step_donates_the_old_state():
    mesh, program = program_of((1, 1))
    old = program.init()
    program.step(old, batch(mesh), place_signals({}, mesh))
    assert old.parameters["text"]["token_embedding"].is_deleted()


def test_step_needs_no_transfer_beyond_the_batch():
    mesh, program = program_of((1, 4))
    state, rows, signals = program.init(), batch(mesh), place_signals({}, mesh)
    with jax.transfer_guard("disallow"):
        state, metrics = program.step(state, rows, signals)
    assert int(state.step) == 1
    assert np.isfinite(metrics["loss"])


def test_moments_are_split_over_the_replicas_where_asked():
    state, _, program = run((4, 1), steps=1, shard_optimizer=True)
    assert state.parameters["text"]["token_embedding"].is_fully_replicated
    moment = state.optimizer_state[0].mu["text"]["token_embedding"]
    assert moment.addressable_shards[0].data.shape == (49408 // 4, 32)
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, program.abstract_state)


def test_logit_scale_is_held_at_a_hundred():
    optimizer = make_optimizer(OptimizerConfig())
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(learning_rate=10.0, warmup_steps=1))
    parameters = {"logit_scale": jnp.asarray(2.0)}
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, zero, parameters, optimizer.init(parameters))
    up = apply_gradients(state, {"logit_scale": jnp.asarray(-1.0)}, optimizer, config)
    down = apply_gradients(state, {"logit_scale": jnp.asarray(1.0)}, optimizer, config)
    assert float(up.parameters["logit_scale"]) == pytest.approx(np.log(100))
    assert float(down.parameters["logit_scale"]) == 0


def test_step_that_is_not_finite_changes_nothing_and_is_counted():
    config = dataclasses.replace(CONFIG, optimizer=OptimizerConfig(ema_decay=0.9))
    mesh = mesh_of((1, 1))
    program, signals = make_program(config, mesh), place_signals({}, mesh)
    broken = program.init()
    broken = dataclasses.replace(broken, parameters={**broken.parameters, "logit_scale": jnp.float32(np.inf)})
    kept = jax.device_get(broken)
    after, metrics = program.step(broken, batch(mesh), signals)
    assert not np.isfinite(metrics["loss"])
    assert (int(after.step), int(after.skipped), int(metrics["skipped"])) == (1, 1, 1)
    for name in ("parameters", "optimizer_state", "ema"):
        assert not changed(getattr(kept, name), jax.device_get(getattr(after, name)))


def test_step_that_a_process_calls_off_changes_nothing_and_says_so():
    mesh, program = program_of((1, 1))
    state = program.init()
    kept = jax.device_get(state)
    after, metrics = program.step(state, batch(mesh), place_signals({ABORT: 1}, mesh))
    assert (int(after.step), int(after.skipped)) == (1, 0)
    assert metrics["signals"][ABORT] == 1
    assert not changed(kept.parameters, jax.device_get(after.parameters))


def test_validation_losses_are_those_of_a_step_on_the_same_rows():
    mesh, program = program_of((1, 1))
    state, rows = program.init(), batch(mesh)
    losses = jax.device_get(program.losses(state.weights, rows))
    _, metrics = program.step(state, rows, place_signals({}, mesh))
    assert losses["loss"] == pytest.approx(float(metrics["loss"]), rel=1e-6)
    assert losses["accuracy"] == metrics["accuracy"]


def test_only_vectors_of_a_layer_go_without_weight_decay(one_device):
    mask = decay_mask(one_device[0].parameters)
    flat = {jax.tree_util.keystr(path, simple=True, separator="/"): v for path, v in jax.tree.leaves_with_path(mask)}
    assert not flat["visual/class_embedding"]
    assert not flat["logit_scale"]
    assert not flat["text/blocks/ln_1/scale"]
    assert flat["text/token_embedding"]
    assert flat["visual/positional_embedding"]
    assert {name.rsplit("/", 1)[1] for name, on in flat.items() if on} == {
        *("kernel", "proj", "token_embedding", "positional_embedding")
    }


def test_schedule_warms_up_from_the_first_step_and_ends_at_zero():
    schedule = learning_rate_schedule(OptimizerConfig(learning_rate=1.0, warmup_steps=4), 12)
    rates = np.asarray(jnp.stack([schedule(step) for step in range(13)]))
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(rates[8], 0.5, rtol=1e-6)
    np.testing.assert_allclose(rates[12], 0, atol=1e-7)
    assert np.all(np.diff(rates[4:]) <= 0)


def test_constant_schedule_cools_down_over_its_last_steps():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=2, schedule="constant", cooldown_steps=4)
    schedule = learning_rate_schedule(config, 12)
    rates = np.asarray(jnp.stack([schedule(step) for step in range(13)]))
    np.testing.assert_allclose(rates, [0.5, 1, 1, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0], rtol=1e-6)
    forever = learning_rate_schedule(dataclasses.replace(config, cooldown_steps=0), 12)
    assert float(forever(11)) == 1
