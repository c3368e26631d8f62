"""A made-up compiler and machine, for tests of everything around the compiler's answer."""

import dataclasses

import pytest

from bioclip_jax.config import CLIPConfig, DataConfig, MeshConfig, TrainConfig
from bioclip_jax.planning.answer import Answer, Exchange, Memory
from bioclip_jax.planning.inputs import Stream
from bioclip_jax.planning.machine import Machine
from bioclip_jax.planning.question import Reply

GIB = 2**30
KEPT = {"none": 34, "dots": 14, "mlp": 7, "attention": 6, "context": 3, "full": 1}
CONFIG = TrainConfig(
    model=dataclasses.replace(CLIPConfig.vit_l14(), replay_projector=True),
    data=DataConfig(dataset="photos-that-are-not-here"),
    replay=DataConfig(dataset="pairs-that-are-not-here", text_types=("caption",)),
    mesh=MeshConfig(shard_optimizer=True),
    global_batch_size=90_112,
    replay_batch_size=10_240,
    total_steps=71_280,
    remat_policy="full",
)
MACHINE = Machine("v5e:16x16", "v5e", 256, 256, 32, 1, 197e12, 90e9, 25e9, 112)
ANSWER = Answer(
    topology="v5e:16x16",
    compiled_for="the whole step, compiled by a made-up compiler",
    fits=True,
    needed=12 * GIB + 512,
    available=16 * GIB,
    seconds=131.4,
    memory=Memory(
        parameters=2 * GIB,
        optimizer=GIB // 4,
        batch=GIB // 8 + 512,
        activations=6 * GIB,
        temporaries=3 * GIB + GIB // 2,
        code=GIB // 8,
        peak=10 * GIB,
    ),
    exchanges=(
        Exchange("all-reduce", "fast", "f32", 256, 9, 72),
        Exchange("reduce-scatter", "fast", "f32", 256, 29, 6_700_000),
        Exchange("all-gather", "fast", "f32", 256, 27, 1_700_000_000),
    ),
    gradient_dtype="f32",
    parts={"vision mlp": (0.9, 0.9), "vision attention": (0.6, 0.65), "optimizer": (0.02, 0.02)},
)


class MadeUpCompiler:
    """Memory as a function of the settings; counts what it is asked."""

    def __init__(self, state=4 * GIB, row=2**20, available=16 * GIB):
        self.state, self.row, self.available = state, row, available
        self.asked = []

    def needed(self, config, devices):
        rows = (config.global_batch_size + config.replay_batch_size) / devices / config.micro_batches
        mesh = config.mesh
        moments = 1 / devices if mesh.shard_optimizer else 1 / mesh.fsdp
        state = self.state * (0.65 / mesh.fsdp + 0.35 * moments)
        return int(state + self.row * KEPT[config.remat_policy] * rows)

    def answer(self, config, machine):
        needed = self.needed(config, machine.devices)
        if needed > self.available:
            return Answer(machine.topology, "made up", False, needed, self.available, 5.0)
        memory = Memory(needed // 4, 0, 0, 0, needed - needed // 4, 0, needed)
        return Answer(machine.topology, "made up", True, needed, self.available, 60.0, memory)

    def ask(self, machine):
        """Answers about several configs, for a search."""

        def ask(configs):
            self.asked.extend(configs)
            return [self.answer(config, machine) for config in configs]

        return ask


@pytest.fixture
def config():
    return CONFIG


@pytest.fixture
def machine():
    return MACHINE


@pytest.fixture
def answer():
    return ANSWER


@pytest.fixture
def reply():
    return Reply(ANSWER, 5_140_835_352)


@pytest.fixture
def streams():
    return {
        "bio": Stream(32, "--tokens bio=32"),
        "replay": Stream(77, "the whole context: the data are not here"),
    }


@pytest.fixture
def made_up_compiler():
    return MadeUpCompiler
