"""Features, losses, gradients and five optimiser steps against OpenCLIP's float64 numbers, on any mesh.

Run as a program (arguments: precision, mesh shape, coordinator, processes, process) it is one process of a mesh.
"""

import functools
import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from jax.experimental import multihost_utils

from bioclip_jax.config import DataConfig, OptimizerConfig, TrainConfig
from bioclip_jax.convert.names import from_ours
from bioclip_jax.convert.open_clip import open_source
from bioclip_jax.convert.weights import Cast, TreeWeights, layers_of, read_tree
from bioclip_jax.models import clip
from bioclip_jax.parallel.sharding import batch_sharding, rows_here
from bioclip_jax.training.feed import place
from bioclip_jax.training.signals import place_signals
from bioclip_jax.training.step import make_program

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("as_users_compile")]

GOLDENS = Path(__file__).parents[1] / "goldens" / "tiny_clip"
GOLDEN = json.loads((GOLDENS / "golden.json").read_text())
FEATURES_AND_GRADIENTS = {"float64": 1e-11, "float32": 1e-5}
FIVE_STEPS = {"float64": 1e-9, "float32": 1e-5}
COPIES = 4
"""So that the batch divides over 8 devices: c copies of each row add log(c) to a loss and change no gradient."""


@pytest.fixture(params=["float64", "float32"])
def precision(request):
    """The type under test; float64 switches JAX's 64-bit mode on for this test alone."""
    with jax.enable_x64(request.param == "float64"), jax.default_matmul_precision("highest"):
        yield request.param


def relative(ours, golden):
    return np.linalg.norm(np.asarray(ours, np.float64) - golden) / np.linalg.norm(golden)


def tiny(precision):
    source = open_source(GOLDENS)
    config, parameters = source.config, read_tree(source, Cast())
    definition, _, _ = clip.abstract(config, dtype=precision, param_dtype=precision)
    return config, definition, jax.tree.map(lambda x: np.asarray(x, precision), parameters)


@functools.cache
def golden_batch():
    return safetensors.numpy.load_file(GOLDENS / "batch.safetensors")


def golden_streams(precision, mesh):
    """The golden rows, copied, those of this process on its devices."""
    batch, rows = golden_batch(), GOLDEN["bio_rows"]
    columns = {"image": batch["image"].transpose(0, 2, 3, 1).astype(precision), "tokens": batch["tokens"]}
    sharding = batch_sharding(mesh)

    def placed(column):
        whole = np.concatenate([column] * COPIES)
        return place(whole[rows_here(sharding, len(whole))], sharding)

    parts = {"bio": slice(rows), "replay": slice(rows, None)}
    return {name: {key: placed(column[part]) for key, column in columns.items()} for name, part in parts.items()}


def without_key_third(bias):
    query, _, value = np.split(bias, 3)
    return np.concatenate([query, value])


def to_open_clip(parameters, config):
    weights = TreeWeights(parameters)
    return {
        parameter.keys("open_clip", layer)[0]: from_ours(weights.read(parameter, layer), parameter.layouts["open_clip"])
        for parameter, layer in layers_of(config)
    }


def assert_parameters_close(parameters, config, golden_file, bound, *, leave_out_key_bias=False):
    ours = to_open_clip(parameters, config)
    golden = safetensors.numpy.load_file(GOLDENS / golden_file)
    assert set(ours) == set(golden)
    ours["token_embedding.weight"] = ours["token_embedding.weight"][golden_batch()["token_embedding_rows"]]
    for tensors in (ours, golden):
        for name in tensors:
            if leave_out_key_bias and name.endswith("in_proj_bias"):
                tensors[name] = without_key_third(tensors[name])
    distances = {name: relative(ours[name], tensor) for name, tensor in golden.items()}
    worst = max(distances, key=distances.get)
    assert distances[worst] <= bound, f"{worst}: {distances[worst]:.2e}"


def assert_five_steps_equal_open_clip(precision, shape, **changes):
    """Losses, gradients (as the first moment after one step has them), learning rates, weights after five steps."""
    config, _, parameters = tiny(precision)
    g, devices = GOLDEN["optimizer"], np.array(jax.devices()[: math.prod(shape)])
    mesh = jax.sharding.Mesh(devices.reshape(shape), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    run = TrainConfig(
        model=config,
        replay=DataConfig("replay"),
        replay_batch_size=(len(golden_batch()["tokens"]) - GOLDEN["bio_rows"]) * COPIES,
        optimizer=OptimizerConfig(g["lr"], g["b1"], g["b2"], g["eps"], g["weight_decay"], g["warmup"]),
        global_batch_size=GOLDEN["bio_rows"] * COPIES,
        total_steps=g["total_steps"],
        dtype=precision,
        **changes,
    )
    program, streams, signals = make_program(run, mesh), golden_streams(precision, mesh), place_signals({}, mesh)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_state.parameters)
    placed = jax.tree.map(
        lambda x, sharding: jax.make_array_from_callback(x.shape, sharding, lambda part: x[part]), parameters, shardings
    )
    state, close = program.start(placed), FEATURES_AND_GRADIENTS[precision]
    for step, golden in enumerate(GOLDEN["five_steps"]):
        state, metrics = program.step(state, streams, signals)
        jax.block_until_ready(metrics)
        bound = close if step == 0 else FIVE_STEPS[precision]
        for name in ("bio_loss", "replay_loss"):
            assert relative(metrics[name], golden[name] + math.log(COPIES)) <= bound
        assert relative(metrics["learning_rate"], golden["lr"]) <= bound
        assert relative(state.parameters["logit_scale"], golden["logit_scale_after"]) <= bound
        if step == 0:
            moments = whole(state.optimizer_state[0].mu)
            gradients = jax.tree.map(lambda x: x / (1 - g["b1"]), moments)
            assert_parameters_close(gradients, config, "gradients.safetensors", close)
    # The key third of in_proj_bias has no true gradient: in float32 Adam blows its rounding up (PyTorch's own: 2e-3).
    assert_parameters_close(
        whole(state.parameters),
        config,
        "after_5_steps.safetensors",
        FIVE_STEPS[precision],
        leave_out_key_bias=precision == "float32",
    )


def whole(tree):
    """Arrays that lie on several processes' devices, on this host."""
    return multihost_utils.process_allgather(tree, tiled=True) if jax.process_count() > 1 else jax.device_get(tree)


def test_features_equal_open_clip(precision):
    _, definition, parameters = tiny(precision)
    batch = golden_batch()
    images, tokens = jnp.asarray(batch["image"].transpose(0, 2, 3, 1), precision), jnp.asarray(batch["tokens"])
    model = clip.merge(definition, jax.tree.map(jnp.asarray, parameters))
    encode = jax.jit(
        lambda images, tokens: (
            model.encode_image(images),
            model.encode_image(images, replay=True),
            model.encode_text(tokens),
        )
    )
    bound = FEATURES_AND_GRADIENTS[precision]
    for features, name in zip(encode(images, tokens), ("image", "replay", "text"), strict=True):
        assert relative(features, batch[f"{name}_features"]) <= bound


def test_text_cut_after_its_last_token_gives_the_same_features(precision):
    _, definition, parameters = tiny(precision)
    tokens = jnp.asarray(golden_batch()["tokens"])
    model = clip.merge(definition, jax.tree.map(jnp.asarray, parameters))
    longest = int(jnp.argmax(tokens, axis=1).max()) + 1
    assert longest < 77
    whole, cut = model.encode_text(tokens), model.encode_text(tokens[:, :longest])
    assert relative(cut, np.asarray(whole, np.float64)) <= {"float64": 1e-14, "float32": 1e-6}[precision]


def test_five_steps_equal_open_clip(precision):
    assert_five_steps_equal_open_clip(precision, (1, 1))


@pytest.mark.slow
def test_micro_batches_change_nothing():
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        assert_five_steps_equal_open_clip("float64", (2, 2), micro_batches=2)


@pytest.mark.parametrize(
    ("precision", "shape", "processes"),
    [
        pytest.param("float64", (2, 4), 2, marks=pytest.mark.slow),
        pytest.param("float32", (8, 1), 1, marks=pytest.mark.slow),
        *(
            pytest.param(*case, marks=(pytest.mark.slow, pytest.mark.full))
            for case in (
                ("float32", (2, 4), 2),
                ("float64", (8, 1), 2),
                ("float64", (8, 1), 1),
                ("float64", (2, 4), 1),
            )
        ),
    ],
)
def test_five_steps_equal_open_clip_on_eight_devices(precision, shape, processes):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{probe.getsockname()[1]}"
    environment = os.environ | {
        "JAX_NUM_CPU_DEVICES": str(8 // processes),
        "JAX_ENABLE_X64": str(int(precision == "float64")),
    }
    command = [sys.executable, __file__, precision, *map(str, shape)]
    started = [
        subprocess.Popen(
            [*command, coordinator, str(processes), str(process)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(processes)
    ]
    for process in started:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-3000:]


if __name__ == "__main__":
    coordinator, processes, process = sys.argv[4:]
    if int(processes) > 1:
        jax.distributed.initialize(coordinator, int(processes), int(process))
    with jax.default_matmul_precision("highest"):
        assert_five_steps_equal_open_clip(sys.argv[1], (int(sys.argv[2]), int(sys.argv[3])))
