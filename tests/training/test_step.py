"""The step is the same mathematics on any mesh, its state is donated, and the schedule and groups are OpenCLIP's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from bioclip_jax.config import CLIPConfig, OptimizerConfig, TextConfig, TrainConfig, VisionConfig
from bioclip_jax.training.feed import place
from bioclip_jax.training.optimizer import decay_mask, learning_rate_schedule, make_optimizer
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
    count = int(np.prod(shape))
    return jax.make_mesh(
        shape, ("data", "fsdp"), axis_types=(AxisType.Auto, AxisType.Auto), devices=jax.devices()[:count]
    )


def batch(mesh, seed=0):
    draw = np.random.default_rng(seed)
    rows = {
        "image": draw.integers(0, 256, (8, 32, 32, 3)).astype(np.uint8),
        "tokens": draw.integers(1, 49408, (8, 16)).astype(np.int32),
    }
    return {"bio": place(rows, jax.sharding.NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))}


@functools.cache
def program_of(shape, dtype="float32"):
    """Compiled once for all tests."""
    mesh = mesh_of(shape)
    return mesh, make_program(dataclasses.replace(CONFIG, dtype=dtype), mesh)


def run(shape, steps=3, dtype="float32"):
    mesh, program = program_of(shape, dtype)
    state = program.init()
    figures = []
    for step in range(steps):
        state, metrics = program.step(state, batch(mesh, step))
        figures.append(jax.device_get(metrics))
    return state, figures, program


@pytest.fixture(scope="module")
def one_device():
    return run((1, 1))


@pytest.mark.parametrize("shape", [pytest.param((4, 1), marks=pytest.mark.slow), (2, 2), (1, 4)])
def test_any_mesh_gives_the_same_figures_and_weights(shape, one_device):
    state, figures, _ = run(shape)
    expected, expected_figures, _ = one_device
    for ours, theirs in zip(figures, expected_figures, strict=True):
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-5, err_msg=name)
    # The first moments are the gradients' running mean: no rounding is blown up as Adam's division does to weights.
    moments = [jax.device_get(s.optimizer_state[0].mu) for s in (state, expected)]
    for a, b in zip(*map(jax.tree.leaves, moments), strict=True):
        assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b) + 1e-8


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 1), (2, 2)])
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
    program.step(old, batch(mesh))
    assert old.parameters["text"]["token_embedding"].is_deleted()


def test_step_needs_no_transfer_beyond_the_batch():
    mesh, program = program_of((2, 2))
    state, rows = program.init(), batch(mesh)
    with jax.transfer_guard("disallow"):
        state, metrics = program.step(state, rows)
    assert int(state.step) == 1
    assert np.isfinite(metrics["loss"])


def test_logit_scale_is_held_at_a_hundred():
    optimizer = make_optimizer(OptimizerConfig(learning_rate=10.0, warmup_steps=1), 10)
    parameters = {"logit_scale": jnp.asarray(2.0)}
    state = TrainState(jnp.zeros((), jnp.int32), parameters, optimizer.init(parameters))
    up = apply_gradients(state, {"logit_scale": jnp.asarray(-1.0)}, optimizer, 100.0)
    down = apply_gradients(state, {"logit_scale": jnp.asarray(1.0)}, optimizer, 100.0)
    assert float(up.parameters["logit_scale"]) == pytest.approx(np.log(100))
    assert float(down.parameters["logit_scale"]) == 0


def test_replay_stream_adds_its_own_loss():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, replay_projector=True))
    mesh = mesh_of((2, 1))
    program = make_program(config, mesh)
    streams = batch(mesh) | {"replay": batch(mesh, 1)["bio"]}
    _, metrics = program.step(program.init(), streams)
    assert float(metrics["loss"]) == pytest.approx(float(metrics["bio_loss"] + metrics["replay_loss"]))


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
