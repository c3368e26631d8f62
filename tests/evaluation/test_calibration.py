"""Calibration and selective prediction, against sums by hand and averages over orders."""

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.bootstrap import Bootstrap
from bioclip_jax.evaluation.measures.calibration import bins_of, expected_calibration_error, gaps, reliability
from bioclip_jax.evaluation.measures.selective import RiskCurve, at_level, back_off

pytestmark = pytest.mark.core


def drawn(n=400, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.uniform(size=n)
    return confidence, (generator.uniform(size=n) < confidence).astype(float)


def test_bins_are_open_below_and_closed_above():
    assert bins_of(np.array([0.0, 0.1, 0.1001, 0.2, 1.0]), 10).tolist() == [0, 0, 1, 1, 9]


def test_the_error_is_the_mean_gap_of_the_bins():
    confidence = np.array([0.95, 0.95, 0.55, 0.55, 0.55, 0.55])
    correct = np.array([1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    assert expected_calibration_error(confidence, correct, 10) == pytest.approx((2 * 0.45 + 4 * 0.2) / 6)
    curve = reliability(confidence, correct, 10)
    assert curve.answers.tolist() == [0, 0, 0, 0, 0, 4, 0, 0, 0, 2]
    assert curve.accuracy[[5, 9]].tolist() == [0.75, 0.5]
    assert curve.confidence[[5, 9]] == pytest.approx([0.55, 0.95])
    assert np.isnan(curve.accuracy[0])


def test_a_calibrated_model_has_little_error_and_a_sure_one_the_share_of_mistakes():
    confidence, correct = drawn(20000)
    assert expected_calibration_error(confidence, correct) < 0.02
    assert expected_calibration_error(np.ones(20000), correct) == pytest.approx(1 - correct.mean())


def test_the_error_of_a_resample_is_that_of_its_photos():
    confidence, correct = drawn(60)
    clusters = np.arange(60) % 12
    bootstrap = Bootstrap(clusters, resamples=5)
    apart = gaps(confidence, correct)
    fast = np.abs(bootstrap.ratios(apart, np.ones_like(apart))).sum(axis=1)

    def slow(counts):
        rows = np.repeat(np.arange(60), counts.astype(int))
        return expected_calibration_error(confidence[rows], correct[rows])

    np.testing.assert_allclose(fast, bootstrap.each(slow), rtol=1e-12)


@pytest.mark.parametrize("wrong", [1.2, -0.1, np.nan])
def test_what_is_no_probability_is_named(wrong):
    with pytest.raises(UserError, match="probabilities from 0 to 1"):
        bins_of(np.array([0.5, wrong]))


def test_risk_is_the_share_of_mistakes_among_the_most_probable():
    curve = RiskCurve(np.array([0.9, 0.6, 0.8, 0.7]), np.array([1.0, 0.0, 0.0, 1.0]))
    coverage, risk = curve.points()
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert curve.summary()[0] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_answers_of_one_probability_come_in_every_order_alike():
    confidence = np.array([0.9, 0.9, 0.9, 0.5, 0.5, 0.1])
    correct = np.array([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    generator = np.random.default_rng(0)
    areas = []
    for _ in range(20000):
        order = np.lexsort((generator.uniform(size=6), -confidence))
        areas.append((np.cumsum(1 - correct[order]) / np.arange(1, 7)).mean())
    assert RiskCurve(confidence, correct).summary()[0] == pytest.approx(np.mean(areas), abs=0.003)
    shuffled = generator.permutation(6)
    again = RiskCurve(confidence[shuffled], correct[shuffled]).summary()
    np.testing.assert_allclose(again, RiskCurve(confidence, correct).summary(), rtol=1e-12)


def test_weights_are_copies():
    confidence, correct = drawn(50)
    counts = np.random.default_rng(1).integers(0, 4, 50)
    rows = np.repeat(np.arange(50), counts)
    weighted = RiskCurve(confidence, correct).summary(counts)
    np.testing.assert_allclose(weighted, RiskCurve(confidence[rows], correct[rows]).summary(), rtol=1e-10)
    assert np.isnan(RiskCurve(confidence, correct).summary(np.zeros(50))).all()


def test_accuracy_at_a_coverage_leaves_the_least_probable_out():
    confidence = np.linspace(1, 0.01, 100)
    correct = (np.arange(100) < 85).astype(float)
    area, at_80, at_90 = RiskCurve(confidence, correct).summary()
    assert (at_80, at_90) == pytest.approx((1.0, 85 / 90))
    assert 0 < area < 0.15 * 0.15


def test_without_answers_there_is_no_curve():
    with pytest.raises(UserError, match="needs answers"):
        RiskCurve(np.empty(0), np.empty(0))
    with pytest.raises(UserError, match="needs answers"):
        RiskCurve(np.array([np.nan]), np.array([1.0]))


def test_backing_off_answers_at_the_deepest_rank_that_is_probable_enough():
    probability = np.array([[0.99, 0.8, 0.3], [0.6, 0.2, 0.1], [0.9, np.nan, 0.95], [0.9, 0.4, np.nan]])
    assert back_off(probability, 0.7).tolist() == [1, -1, 2, 0]
    assert back_off(probability, 0.0).tolist() == [2, 2, 2, 1]
    right = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]], bool)
    assert at_level(right, back_off(probability, 0.7)).tolist() == [1, 0, 1, 0]
