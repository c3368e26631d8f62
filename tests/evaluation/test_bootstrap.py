"""Accuracies, what guessing gives, and intervals that hold what they say."""

import numpy as np
import pytest

from bioclip_jax.evaluation.bootstrap import Bootstrap, difference, interval
from bioclip_jax.evaluation.metrics import chance, sample_weights

pytestmark = pytest.mark.core


def test_balanced_accuracy_is_the_mean_of_the_classes_recalls():
    true = np.array([0, 0, 0, 0, 2, 2, -1])
    correct = np.array([1, 1, 1, 0, 0, 1, 1], bool)
    assert sample_weights("balanced_accuracy", true) @ correct == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert sample_weights("micro_accuracy", true) @ correct == pytest.approx(4 / 6)


def test_chance_knows_the_number_of_classes_and_the_largest():
    found = chance(np.array([0, 0, 0, 4, -1]))
    assert (found.uniform, found.majority) == (0.5, 0.75)


def test_no_labelled_sample_is_no_error():
    none = np.array([-1, -1])
    assert np.isnan(chance(none)).all()
    assert sample_weights("balanced_accuracy", none).tolist() == [0, 0]


def test_resamples_are_a_pure_function_of_their_seed():
    values, weights = np.random.default_rng(0).random((2, 40, 3))
    one, two = (Bootstrap(np.arange(40), resamples=150, seed=3).ratios(values, weights) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, Bootstrap(np.arange(40), resamples=150, seed=4).ratios(values, weights))


def test_interval_of_micro_accuracy_is_that_of_a_binomial_share():
    correct = np.arange(1000) < 300
    ones = np.ones((1000, 1))
    found = interval(Bootstrap(np.arange(1000), resamples=2000).ratios(correct[:, None].astype(float), ones)[:, 0])
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert found.low == pytest.approx(0.3 - spread, abs=0.004)
    assert found.high == pytest.approx(0.3 + spread, abs=0.004)


def test_photos_of_one_species_count_as_one_draw():
    species = np.repeat(np.arange(50), 20)
    correct = (species < 15).astype(float)[:, None]
    found = interval(Bootstrap(species, resamples=2000).ratios(correct, np.ones((1000, 1)))[:, 0])
    spread = 1.96 * np.sqrt(0.3 * 0.7 / 50)
    assert found.low == pytest.approx(0.3 - spread, abs=0.02)
    assert found.high == pytest.approx(0.3 + spread, abs=0.02)


@pytest.mark.parametrize("sizes", [[1] * 150, [60, 30, 10, 5, 5]], ids=["one photo per class", "few uneven classes"])
def test_interval_of_balanced_accuracy_covers_the_truth_as_often_as_it_says(sizes):
    generator = np.random.default_rng(5)
    true = np.repeat(np.arange(len(sizes)), sizes)
    recalls = np.linspace(0.3, 0.7, len(sizes))
    weights = sample_weights("balanced_accuracy", true)
    right = (generator.random((len(true), 300)) < recalls[true][:, None]).astype(float)
    resampled = Bootstrap(np.arange(len(true)), resamples=400).ratios(right, np.repeat(weights[:, None], 300, axis=1))
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
    covered = ((low <= recalls.mean()) & (recalls.mean() <= high)).mean()
    assert 0.90 <= covered <= 0.995


def test_paired_difference_is_sharper_than_two_intervals_and_knows_no_difference():
    generator = np.random.default_rng(1)
    first = (generator.random(400) < 0.6).astype(float)
    second = np.where(generator.random(400) < 0.05, 0, first)
    resampled = Bootstrap(np.arange(400)).ratios(np.stack([first, second, first], axis=1), np.ones((400, 3)))
    better = difference(resampled[:, 0], resampled[:, 1], first.mean() - second.mean())
    own = interval(resampled[:, 0])
    assert 0 < better.low < better.value < better.high
    assert better.high - better.low < own.high - own.low
    assert better.p_value == pytest.approx(2 / 1001)
    assert difference(resampled[:, 0], resampled[:, 2], 0.0).p_value == 1
