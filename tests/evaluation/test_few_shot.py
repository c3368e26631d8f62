"""SimpleShot equals the reference implementation, fold by fold."""

import json
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.evaluation.few_shot import pool_folds, simple_shot, split_folds

pytestmark = pytest.mark.core
GOLDENS = Path(__file__).parents[1] / "goldens/evaluation"


def test_folds_and_predictions_equal_the_reference():
    with np.load(GOLDENS / "few_shot.npz", allow_pickle=False) as file:
        golden = dict(file)
    expected = json.loads((GOLDENS / "few_shot.json").read_text())
    folds = pool_folds(golden["labels"], expected["shots"], expected["folds"])
    for shots, drawn in folds.items():
        name = f"v2_k{shots}"
        np.testing.assert_array_equal(drawn.classes, golden["class_order"])
        np.testing.assert_array_equal(drawn.support, golden[f"{name}_support"])
        np.testing.assert_array_equal(drawn.query, golden[f"{name}_query"])
        predicted = simple_shot(golden["features"], golden["features"], drawn)
        np.testing.assert_array_equal(predicted, golden[f"{name}_pred"])
        accuracy = (predicted == golden["labels"][drawn.query]).mean(axis=1)
        np.testing.assert_array_equal(accuracy, golden[f"{name}_accuracy"])
        assert abs(accuracy.mean() - expected["results"][name]["mean"]) < 1e-12
        assert abs(accuracy.std() - expected["results"][name]["std"]) < 1e-12


def test_classes_with_too_few_images_are_left_out_and_counted():
    labels = np.array([7, 7, 7, 3, 3, 9, -1])
    one, two = pool_folds(labels, (1, 2)).values()
    assert one.classes.tolist() == [7, 3]
    assert one.left_out == 1
    assert two.classes.tolist() == [7]
    assert two.left_out == 2
    assert one.query.shape == (5, 3)
    assert not (set(one.query.ravel()) | set(one.support.ravel())) & {5, 6}


def test_supports_from_one_split_classify_every_photo_of_the_other():
    support, query = np.array([0, 0, 1, 1, 2]), np.array([1, 0, 2, 5])
    drawn = split_folds(support, query, (1, 2))
    assert drawn[1].query.tolist() == [[0, 1, 2]] * 5
    assert drawn[1].left_out == 1
    assert drawn[2].query.tolist() == [[0, 1]] * 5
    assert all(support[rows].tolist() == [0, 1, 2] for rows in drawn[1].support)
    features = np.eye(3, dtype=np.float32)
    predicted = simple_shot(features[support], features[query[:3]], drawn[1])
    assert predicted.tolist() == [[1, 0, 2]] * 5
