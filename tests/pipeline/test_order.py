"""Which record stands where depends on (seed, step, row) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.order import MOST_RECORDS, Mixture, Order, neighbours, place_of, uniforms

pytestmark = pytest.mark.core


@settings(deadline=None, max_examples=60)
@given(records=st.integers(1, 300), seed=st.integers(0, 2**40), block_size=st.integers(1, 400), epoch=st.integers(0, 9))
def test_each_epoch_holds_every_record_once(records, seed, block_size, epoch):
    order = Order(records, seed, block_size)
    assert sorted(order[epoch * records + place] for place in range(records)) == list(range(records))


@settings(deadline=None, max_examples=60)
@given(batch_size=st.integers(1, 600), block_size=st.integers(1, 90), windows=st.integers(1, 2))
def test_every_place_is_held_by_one_row_of_one_step(batch_size, block_size, windows):
    steps = windows * next(n for n in range(1, 100) if place_of(n, 0, batch_size, block_size) == n * batch_size)
    places = [place_of(step, row, batch_size, block_size) for step in range(steps) for row in range(batch_size)]
    assert sorted(places) == list(range(steps * batch_size))


def test_epochs_differ_and_so_do_seeds():
    order, other = Order(20, 3), Order(20, 4)
    assert len({tuple(o[20 * epoch + i] for i in range(20)) for o in (order, other) for epoch in range(3)}) == 6


def test_many_records_take_no_memory_and_any_place_is_reached_at_once():
    order = Order(214_000_000, 0)
    assert len({order[214_000_000 * 1_000 + place] for place in range(500)}) == 500
    assert max(order[place] for place in range(500)) > 200_000_000


def test_shuffle_sends_neighbours_far_apart():
    records = np.array([Order(100_000, 5)[place] for place in range(2000)])
    assert abs(np.corrcoef(records[1:], records[:-1])[0, 1]) < 0.1
    assert abs(np.corrcoef(records, np.arange(2000))[0, 1]) < 0.1
    assert abs(records.mean() / 100_000 - 0.5) < 0.03


def test_blocks_stay_together_and_their_records_are_shuffled():
    order = Order(103, seed=1, block_size=10)
    blocks = [[order[10 * block + i] for i in range(10)] for block in range(10)]
    assert all({record // 10 for record in block} == {block[0] // 10} for block in blocks)
    assert [block[0] // 10 for block in blocks] != list(range(10))
    assert all(block != sorted(block) for block in blocks)
    assert sorted(order[place] for place in range(100, 103)) == [100, 101, 102]


def test_a_lane_works_through_one_block_over_several_steps():
    batch, block_size = 512, 64  # 256 lanes of two rows, 32 steps a block
    seen = {place_of(step, row, batch, block_size) // block_size for step in range(32) for row in (6, 7)}
    assert seen == {3}
    assert len({place_of(5, row, batch, block_size) // block_size for row in range(batch)}) == 256


def test_draws_with_replacement_miss_about_a_third_of_an_epoch():
    for block_size in (1, 10):
        order = Order(2000, 7, block_size, replacement=True)
        seen = len({order[place] for place in range(2000)})
        assert abs(seen / 2000 - (1 - np.exp(-1))) < 0.06


@settings(deadline=None, max_examples=12)
@given(
    weights=st.lists(st.floats(0.01, 100), min_size=2, max_size=4),
    sizes=st.lists(st.integers(1, 50), min_size=4, max_size=4),
)
def test_mixture_holds_each_dataset_by_its_weight_and_each_runs_through_its_own_epochs(weights, sizes):
    orders = [Order(size, seed) for seed, size in enumerate(sizes[: len(weights)])]
    places = [Mixture(orders, weights)[place] for place in range(4096)]
    for dataset, order in enumerate(orders):
        own = [record for which, record in places if which == dataset]
        assert abs(len(own) / 4096 - weights[dataset] / sum(weights)) <= 3 / 4096
        assert own == [order[place] for place in range(len(own))]


def test_mixture_interleaves_evenly():
    datasets = [Mixture([Order(10, 0), Order(10, 1)], [3, 1])[place][0] for place in range(400)]
    assert all(sum(datasets[start : start + 40]) == 10 for start in range(0, 400, 40))


def test_random_numbers_of_a_place_do_not_depend_on_what_is_drawn_with_it():
    many = uniforms(9, np.arange(1000), 24)
    np.testing.assert_array_equal(uniforms(9, np.array([700]), 24)[0], many[700])
    np.testing.assert_array_equal(uniforms(9, np.array([700]), 3)[0], many[700, :3])
    assert abs(many.mean() - 0.5) < 0.01
    assert abs(np.corrcoef(many[1:].ravel(), many[:-1].ravel())[0, 1]) < 0.02
    assert len(np.unique(many)) == many.size
    assert (many >= 0).all()
    assert (many < 1).all()


def test_random_numbers_are_those_of_the_published_generator():
    """SplitMix64 as its authors give it, run forwards."""
    state, mask = int.from_bytes(uniform_state(5).tobytes(), "little"), 2**64 - 1
    expected = []
    for _ in range(130):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(((z ^ (z >> 31)) >> 11) * 2.0**-53)
    drawn = uniforms(5, np.arange(3), 64).ravel()[:130]
    np.testing.assert_array_equal(drawn, expected)


def uniform_state(seed):
    """Where the stream of a seed starts: the seed, hashed by the same function."""
    mask, z = 2**64 - 1, seed
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return np.uint64(z ^ (z >> 31))


def test_neighbours_leave_a_damaged_stretch_behind():
    assert neighbours(5, 100)[:7] == [6, 7, 9, 13, 21, 37, 69]
    assert neighbours(99, 100)[0] == 0
    assert neighbours(0, 1) == []
    assert max(neighbours(0, 10**9)) > 8_000_000


@pytest.mark.parametrize("arguments", [(0, 1), (MOST_RECORDS + 1, 1), (10, 1, 0)], ids=str)
def test_orders_that_cannot_be_are_refused(arguments):
    with pytest.raises(UsageError):
        Order(*arguments)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weights_that_are_none_are_refused(weight):
    with pytest.raises(UsageError, match="weights"):
        Mixture([Order(3, 0), Order(3, 0)], [1, weight])


def test_records_drawn_with_replacement_do_not_decide_their_crops():
    records = np.array([Order(1000, 5, replacement=True)[place] for place in range(2000)])
    crops = uniforms(5, np.arange(2000), 24)
    assert max(abs(np.corrcoef(records, crops[:, draw])[0, 1]) for draw in range(24)) < 0.1


def test_datasets_and_epochs_have_permutations_of_their_own():
    orders = [Order(50, seed) for seed in (5, 5 + 2**32, 5 + 2**40)]
    epochs = {tuple(order[50 * epoch + place] for place in range(50)) for order in orders for epoch in (0, 1, 256)}
    assert len(epochs) == 9
