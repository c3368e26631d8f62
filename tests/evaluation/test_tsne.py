"""The map of features: exact t-SNE, judged by scikit-learn's."""

import numpy as np
import pytest

from bioclip_jax.evaluation.report.projection import MOST_FOR_TSNE, project
from bioclip_jax.evaluation.report.tsne import _affinities, principal_components, tsne


@pytest.mark.parametrize("points", [1, 2, 12, 40])
def test_a_map_fits_the_unit_square_and_repeats(points):
    features = np.random.default_rng(0).normal(size=(points, 6)).astype(np.float32)
    placed, _ = project(features)
    assert placed.shape == (points, 2)
    assert placed.min() >= 0
    assert placed.max() <= 1
    np.testing.assert_array_equal(placed, project(features)[0])


def clusters(points, seed=0):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(8, 24))
    return (centres[generator.integers(0, 8, points)] + 0.4 * generator.normal(size=(points, 24))).astype(np.float32)


@pytest.mark.parametrize("points", [60, 120])
def test_the_map_keeps_neighbours_about_as_well_as_scikit_learns(points):
    from sklearn.manifold import TSNE, trustworthiness  # the judge

    features, perplexity = clusters(points), min(30.0, (points - 1) / 3)
    ours = trustworthiness(features, tsne(features, perplexity), n_neighbors=8)
    theirs = TSNE(perplexity=perplexity, init="pca", random_state=0, method="exact").fit_transform(features)
    assert ours > trustworthiness(features, theirs, n_neighbors=8) - 0.02
    assert ours > trustworthiness(features, principal_components(features), n_neighbors=8) + 0.02


def test_components_do_not_depend_on_the_sign_that_a_library_chose():
    features = clusters(30)
    found = principal_components(features)
    np.testing.assert_allclose(
        found.std(axis=0), np.linalg.svd(features - features.mean(0))[1][:2] / np.sqrt(30), rtol=1e-4
    )
    assert (found[np.abs(found).argmax(axis=0), [0, 1]] > 0).all()


def test_every_point_has_the_perplexity_that_was_asked_for():
    joint = np.asarray(_affinities(clusters(80), 12.0), np.float64)
    np.testing.assert_allclose(joint, joint.T, rtol=1e-6)
    assert joint.sum() == pytest.approx(1, abs=1e-5)

    from sklearn.manifold._t_sne import _joint_probabilities

    features = clusters(80).astype(np.float64)
    squared = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    expected = _joint_probabilities(squared, 12.0, 0)
    np.testing.assert_allclose(joint[np.triu_indices(80, 1)], expected, atol=2e-6)


def test_equal_points_and_too_many_are_placed_by_components():
    assert project(np.ones((50, 3), np.float32))[1] == "principal components"
    many = np.random.default_rng(0).normal(size=(MOST_FOR_TSNE + 1, 3))
    assert project(many)[1] == "principal components"
