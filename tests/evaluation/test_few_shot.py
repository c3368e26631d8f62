"""SimpleShot equals the reference implementation, fold by fold."""

import json
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation import few_shot
from bioclip_jax.evaluation.few_shot import pool_folds, simple_shot, split_folds
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks.simple_shot import SimpleShot

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("as_users_compile")]
GOLDENS = Path(__file__).parents[1] / "goldens/evaluation"
CONTEXT = Context(encode_text=lambda texts: np.zeros((len(texts), 1), np.float32), resamples=50)


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDENS / "few_shot.npz", allow_pickle=False) as file:
        return dict(file), json.loads((GOLDENS / "few_shot.json").read_text())


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_folds_and_predictions_equal_the_reference(reference, version):
    golden, expected = reference
    folds = pool_folds(golden["labels"], expected["shots"], expected["folds"], compounding=version == "v1")
    for shots, drawn in folds.items():
        name = f"{version}_k{shots}"
        np.testing.assert_array_equal(drawn.classes, golden["class_order"])
        np.testing.assert_array_equal(drawn.support, golden[f"{name}_support"])
        np.testing.assert_array_equal(drawn.query, golden[f"{name}_query"])
        predicted = simple_shot(golden["features"], golden["features"], drawn)
        np.testing.assert_array_equal(predicted, golden[f"{name}_pred"])
        accuracy = (predicted == golden["labels"][drawn.query]).mean(axis=1)
        np.testing.assert_array_equal(accuracy, golden[f"{name}_accuracy"])
        assert abs(accuracy.mean() - expected["results"][name]["mean"]) < 1e-12
        assert abs(accuracy.std() - expected["results"][name]["std"]) < 1e-12


def test_chunks_do_not_show(reference, monkeypatch):
    golden, _ = reference
    monkeypatch.setattr(few_shot, "CHUNK", 20)
    drawn = pool_folds(golden["labels"], (5,))[5]
    predicted = simple_shot(golden["features"], golden["features"], drawn)
    np.testing.assert_array_equal(predicted, golden["v2_k5_pred"])


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


def pool(features: np.ndarray, labels: np.ndarray) -> dict[str, TaskSamples]:
    names = np.array([f"class {label}" if label >= 0 else "" for label in labels])
    return {"all": TaskSamples("all", tuple(f"{row}.jpg" for row in range(len(labels))), features, {"class": names})}


def test_the_task_reports_the_references_means_of_both_versions(reference):
    golden, expected = reference
    found = SimpleShot("few", "all").measure(pool(golden["features"], golden["labels"]), CONTEXT)
    assert len(found.figures) == 8
    micro = {figure.variant: figure for figure in found.figures if figure.metric == "micro_accuracy"}
    for variant, version in (("paper", "v2"), ("paper v1", "v1")):
        for shots in (1, 5):
            figure, result = micro[f"{variant}, {shots}-shot"], expected["results"][f"{version}_k{shots}"]
            assert figure.value == pytest.approx(result["mean"], abs=1e-12)
            assert figure.spread == pytest.approx(result["std"], abs=1e-12)
            assert figure.low < figure.value < figure.high
    assert any("paper v1: lists are shuffled in place" in note for note in found.notes)


def test_a_photos_row_holds_the_share_of_folds_that_were_right_about_it(reference):
    golden, _ = reference
    found = SimpleShot("few", "all", shots=(5,)).measure(pool(golden["features"], golden["labels"]), CONTEXT)
    drawn = pool_folds(golden["labels"], (5,))[5]
    predicted = simple_shot(golden["features"], golden["features"], drawn)
    for row in found.predictions:
        if row.variant == "paper, 5-shot":
            asked = drawn.query == int(row.key.removesuffix(".jpg"))
            said = predicted[asked]
            assert row.correct == pytest.approx((said == int(row.true.removeprefix("class "))).mean())
            counts = np.bincount(said)
            assert row.predicted == min(
                (f"class {label}" for label in np.flatnonzero(counts == counts.max())),
                key=list(dict.fromkeys(f"class {label}" for label in golden["labels"])).index,
            )


def test_the_task_says_which_classes_and_photos_it_left_out(reference):
    golden, _ = reference
    labels = np.concatenate([np.repeat([0, 1], 6), [2, 2, -1]])
    samples = pool(golden["features"][: len(labels)], labels)
    found = SimpleShot("few", "all").measure(samples, CONTEXT)
    assert "few: 1 photos have no label and were left out" in found.notes
    assert any(note.startswith("few: 5-shot: 1 of 3 classes have no more than 5 photos") for note in found.notes)
    assert {figure.left_out for figure in found.figures if figure.variant.endswith("5-shot")} == {1}
    found = SimpleShot("few", "all", shots=(1, 9)).measure(samples, CONTEXT)
    assert {figure.variant for figure in found.figures} == {"paper, 1-shot", "paper v1, 1-shot"}
    assert any("9-shot: 3 of 3 classes have no more than 9 photos; not measured" in note for note in found.notes)
    with pytest.raises(UserError, match="fewer than two classes have enough photos"):
        SimpleShot("few", "all", shots=(9,)).measure(samples, CONTEXT)
