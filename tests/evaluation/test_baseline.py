"""The learner without deep learning: its features, and that its regression is scikit-learn's."""

import io

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression as Reference

from bioclip_jax.evaluation.baseline import Baseline, ColourFeatures, Standardiser
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.logistic import LogisticRegression

pytestmark = pytest.mark.core


def test_regression_finds_the_optimum_that_scikit_learn_finds():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 4, 300)
    features = (generator.normal(size=(4, 10))[labels] + generator.normal(size=(300, 10)) * 2).astype(np.float32)
    ours = LogisticRegression.fit(features, labels, classes=4, inverse_strength=0.1, iterations=500)
    theirs = Reference(C=0.1, max_iter=2000, tol=1e-8).fit(features.astype(np.float64), labels)
    np.testing.assert_allclose(ours.weights.T, theirs.coef_, atol=2e-3)
    np.testing.assert_array_equal(ours.logits(features).argmax(axis=1), theirs.predict(features.astype(np.float64)))


def test_features_are_the_histogram_and_the_grid_of_mean_colours():
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, :, :32] = 255
    features = ColourFeatures().encode_image(image)[0]
    assert features.shape == (6**3 + 8 * 8 * 3,)
    assert features[0] ** 2 == pytest.approx(0.5)
    assert features[6**3 - 1] ** 2 == pytest.approx(0.5)
    np.testing.assert_array_equal(features[6**3 :].reshape(8, 8, 3)[:, :4], 1)


def test_any_photo_is_squashed_to_the_mean_of_its_areas():
    image = np.zeros((128, 256, 3), np.uint8)
    image[:, :128] = 200
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    squashed = ColourFeatures().preprocess(file.getvalue())
    assert squashed.shape == (64, 64, 3)
    assert (squashed[:, :32] == 200).all()
    assert (squashed[:, 32:] == 0).all()


def test_a_constant_feature_is_standardised_to_zero():
    features = np.array([[1, 5], [3, 5]], np.float32)
    np.testing.assert_allclose(Standardiser.fit(features)(features), [[-1, 0], [1, 0]])


def test_only_candidates_are_answered_and_only_those_that_training_had():
    features = np.repeat(np.eye(3, dtype=np.float32), 5, axis=0)
    baseline = Baseline.fit(features, ["a"] * 5 + ["b"] * 5 + ["c"] * 5, ArrayCache(None))
    assert baseline.predict(features[::5], ("b", "new", "a"), balanced=True).tolist()[:2] == [2, 0]
    assert baseline.predict(features[::5], ("new",), balanced=False).tolist() == [-1, -1, -1]


def test_the_balanced_rule_does_not_favour_the_large_class():
    generator = np.random.default_rng(0)
    labels = ["many"] * 190 + ["few"] * 10
    features = generator.normal(size=(200, 1)).astype(np.float32)
    features[190:] += 1.0
    baseline = Baseline.fit(features, labels, ArrayCache(None))
    query = np.array([[2.0]], np.float32)
    assert baseline.predict(query, ("many", "few"), balanced=False).tolist() == [0]
    assert baseline.predict(query, ("many", "few"), balanced=True).tolist() == [1]
