"""A search finds what trying everything would find, with few questions."""

import dataclasses
import random

import pytest

from bioclip_jax.config import CLIPConfig, DataConfig, MeshConfig, TrainConfig
from bioclip_jax.planning.machine import Machine
from bioclip_jax.planning.search import candidates, search_batch, search_settings, settings_of
from bioclip_jax.planning.work import expected_seconds

pytestmark = pytest.mark.core

GIB = 2**30
TOKENS = {"bio": 32}


def machine_of(chips):
    return Machine(f"v5e-{chips}", "v5e", chips, chips, max(chips // 8, 1), 1, 197e12, 90e9, 25e9, 112)


def config_of(chips, rows, **fields):
    return TrainConfig(model=CLIPConfig.vit_l14(), global_batch_size=chips * rows, **fields)


def nothing(left):
    pass


def test_settings_found_are_the_quickest_of_all_that_fit(made_up_compiler):
    draw, questions = random.Random(0), []
    for _ in range(16):
        chips = draw.choice([8, 16, 64, 256])
        machine = machine_of(chips)
        mesh = MeshConfig(shard_optimizer=draw.random() < 0.5)
        config = config_of(chips, draw.choice([8, 32, 128, 2048]), mesh=mesh)
        compiler = made_up_compiler(draw.uniform(1, 11) * GIB, draw.uniform(1e5, 2e7), draw.choice([16, 95]) * GIB)
        found, tried = search_settings(config, machine, TOKENS, compiler.ask(machine), 1, nothing)
        fitting = [one for one in candidates(config, machine) if compiler.needed(one, chips) <= compiler.available]
        assert (found is None) == (not fitting)
        if found:
            quickest = min(expected_seconds(one, TOKENS, machine) for one in fitting)
            assert expected_seconds(found, TOKENS, machine) == quickest
            assert compiler.needed(found, chips) <= compiler.available
        assert [one.config for one in tried] == compiler.asked
        questions.append(len(tried))
    assert max(questions) <= 12  # of up to 300 candidates
    assert sum(questions) / len(questions) < 5


def test_of_equally_quick_settings_the_config_keeps_its_own_sharding(made_up_compiler):
    machine, config = machine_of(16), config_of(16, 8)
    found, _ = search_settings(config, machine, TOKENS, made_up_compiler(GIB, 1e5).ask(machine), 1, nothing)
    assert settings_of(found) == (0, False, 1, 1)


def test_several_questions_at_a_time_find_the_same(made_up_compiler):
    machine, config = machine_of(64), config_of(64, 256, mesh=MeshConfig(shard_optimizer=True))
    results = [
        search_settings(config, machine, TOKENS, made_up_compiler(4 * GIB, 9e6).ask(machine), at_a_time, nothing)[0]
        for at_a_time in (1, 2, 4)
    ]
    assert results[0] == results[1] == results[2]
    assert settings_of(results[0]) == (2, True, 4, 1)  # mlp fits with parameters in four shares


def test_shares_of_parameters_stay_within_a_network_and_batches_divide():
    machine = Machine("h100x32", "h100", 32, 32, 4, 4, 989e12, 450e9, 400e9, 96)
    config = config_of(32, 12)
    found = candidates(config, machine)
    assert {one.mesh.fsdp for one in found} == {1, 2, 4, 8}
    assert {one.micro_batches for one in found} == {1, 2, 4}


def test_what_cannot_fit_is_not_asked_about(made_up_compiler):
    machine, config = machine_of(8), config_of(8, 4096)
    compiler = made_up_compiler(400 * GIB, 2e7)
    found, tried = search_settings(config, machine, TOKENS, compiler.ask(machine), 1, nothing)
    assert found is None
    assert len(tried) <= 4


@pytest.mark.parametrize("replay", [0, 1])
def test_the_largest_batch_is_found_to_two_per_cent_with_few_questions(made_up_compiler, replay):
    draw, questions = random.Random(1), []
    for _ in range(16):
        chips = draw.choice([1, 8, 64])
        machine, rows = machine_of(chips), draw.choice([8, 32, 128, 2048])
        config = config_of(
            chips,
            rows,
            replay=DataConfig(dataset="pairs" * replay),
            replay_batch_size=replay * chips * rows // 4,
            remat_policy="full",
        )
        compiler = made_up_compiler(draw.uniform(1, 8) * GIB, draw.uniform(1e5, 2e8))
        found, tried = search_batch(config, machine, compiler.ask(machine), nothing)
        assert found is not None
        assert compiler.needed(found, chips) <= compiler.available
        share = config.replay_batch_size / config.global_batch_size
        assert found.replay_batch_size == pytest.approx(found.global_batch_size * share, abs=2 * chips)
        each = found.global_batch_size // chips
        more = max(each * 1.03, each + 8) if each >= 32 else each + 2
        larger = dataclasses.replace(
            found,
            global_batch_size=int(more) * chips,
            replay_batch_size=replay * max(round(int(more) * share), 2) * chips,
        )
        assert compiler.needed(larger, chips) > compiler.available
        questions.append(len(tried))
    assert max(questions) <= 8
    assert sum(questions) / len(questions) < 5


def test_no_batch_fits_where_the_state_alone_is_too_large(made_up_compiler):
    machine = machine_of(8)
    found, tried = search_batch(config_of(8, 64), machine, made_up_compiler(100 * GIB).ask(machine), nothing)
    assert found is None
    assert len(tried) <= 8


def test_how_many_questions_are_left_is_told(made_up_compiler):
    machine, told = machine_of(64), []
    search_batch(config_of(64, 128, remat_policy="full"), machine, made_up_compiler().ask(machine), told.append)
    assert told[-1] == 0
    assert all(one > 0 for one in told[:-1])
