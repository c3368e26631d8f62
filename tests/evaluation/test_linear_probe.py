"""The linear probe and nearest neighbours equal scikit-learn's, and say what they left out."""

import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks import nearest_neighbours
from bioclip_jax.evaluation.tasks.linear_probe import LinearProbe, choose_strength, hold_out
from bioclip_jax.evaluation.tasks.nearest_neighbours import KNN, TEMPERATURE, knn

CONTEXT = Context(encode_text=lambda texts: np.zeros((len(texts), 1), np.float32), resamples=50)
SPLITS = {"train": "train", "test": "test"}


def split(name: str, classes: np.ndarray, seed: int) -> TaskSamples:
    """Photos scattered about fixed class centres."""
    centres = np.random.default_rng(0).normal(size=(12, 16))
    features = centres[classes] + 0.9 * np.random.default_rng(seed).normal(size=(len(classes), 16))
    names = np.array(["", *(f"class {number}" for number in range(11))])[classes]
    keys = tuple(f"{name}{row}" for row in range(len(classes)))
    return TaskSamples(name, keys, features.astype(np.float32), {"class": names})


@pytest.fixture(scope="module")
def parts() -> dict[str, TaskSamples]:
    """Nine classes to train on, ten in the test, and photos without a label (class 0) in both."""
    generator = np.random.default_rng(5)
    return {
        "train": split("train", np.concatenate([np.arange(10), generator.integers(0, 10, 390)]), 1),
        "test": split("test", np.concatenate([np.arange(11), generator.integers(0, 11, 189)]), 2),
    }


def test_the_chosen_penalty_and_the_answers_are_those_of_scikit_learn(parts):
    from sklearn.linear_model import LogisticRegression

    found = LinearProbe("probe", **SPLITS, iterations=400).measure(parts, CONTEXT)
    train, test = (part.columns["class"] for part in parts.values())
    x = parts["train"].unit_features[train != ""]
    mean, scale = x.mean(axis=0), x.std(axis=0)
    asked = np.isin(test, train) & (test != "")
    x, x_test = (x - mean) / scale, (parts["test"].unit_features[asked] - mean) / scale
    y = train[train != ""]
    held = hold_out(np.unique(y, return_inverse=True)[1], 0.2, 0)
    best = max(
        (LogisticRegression(C=c, tol=1e-6, max_iter=2000).fit(x[~held], y[~held]).score(x[held], y[held]), -c)
        for c in (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    )
    assert f"C = {-best[1]:g} was chosen on {held.sum()} training photos" in " ".join(found.notes)
    judge = LogisticRegression(C=-best[1], tol=1e-6, max_iter=2000).fit(x, y)
    assert [row.predicted for row in found.predictions] == judge.predict(x_test).tolist()
    scores = [row.score for row in found.predictions]
    np.testing.assert_allclose(scores, judge.predict_proba(x_test).max(axis=1), atol=5e-3)
    micro = next(figure for figure in found.figures if figure.metric == "micro_accuracy")
    assert micro.value == pytest.approx((judge.predict(x_test) == test[asked]).mean())
    assert micro.low < micro.value < micro.high
    assert (micro.samples, micro.classes) == (asked.sum(), 9)


def test_photos_without_a_class_to_learn_are_left_out_and_counted(parts):
    test = parts["test"].columns["class"]
    strange = int((test == "class 9").sum())
    for task in (LinearProbe("t", **SPLITS, strengths=(0.1,), iterations=5), KNN("t", **SPLITS)):
        found = task.measure(parts, CONTEXT)
        assert f"t: {strange} photos of 1 classes that split train lacks were left out" in found.notes
        assert f"t: {(test == '').sum()} photos of split test have no label and were left out" in found.notes
        assert {figure.samples for figure in found.figures} == {int((test != "").sum()) - strange}


def test_classes_that_are_never_asked_about_count_as_candidates(parts):
    rows = np.flatnonzero(np.isin(parts["test"].columns["class"], ["class 0", "class 1"]))
    keys = tuple(parts["test"].keys[row] for row in rows)
    test = TaskSamples("test", keys, parts["test"].features[rows], {"class": parts["test"].columns["class"][rows]})
    for task in (LinearProbe("t", **SPLITS, strengths=(0.1,), iterations=5), KNN("t", **SPLITS)):
        found = task.measure({**parts, "test": test}, CONTEXT)
        assert {(figure.classes, figure.chance) for figure in found.figures} == {(9, 1 / 9)}


def test_of_equal_penalties_the_strongest_is_chosen():
    features = np.repeat(np.eye(2, dtype=np.float32) * 4 - 2, 10, axis=0)
    labels = np.repeat([0, 1], 10)
    best, accuracy = choose_strength(features, labels, hold_out(labels, 0.2, 0), 2, (1.0, 0.01, 0.1), 50)
    assert accuracy == {0.01: 1.0, 0.1: 1.0, 1.0: 1.0}
    assert best == 0.01


def test_a_class_keeps_photos_to_train_on_whatever_is_held_out():
    labels = np.array([0, 1, 1, 2, 2, 2, 2, 2, 2, 2])
    held = hold_out(labels, 0.5, 3)
    assert np.bincount(labels[held], minlength=3).tolist() == [0, 1, 3]
    np.testing.assert_array_equal(held, hold_out(labels, 0.5, 3))


def test_neighbours_and_votes_equal_scikit_learns(parts, monkeypatch):
    from sklearn.neighbors import KNeighborsClassifier

    monkeypatch.setattr(nearest_neighbours, "SIMILARITIES", 400 * 64)  # chunks of 64, the last of them padded
    train, test = parts["train"].unit_features, parts["test"].unit_features
    _, labels = np.unique(parts["train"].columns["class"], return_inverse=True)
    nearest, voted, share = knn(train, labels, test, 10, 20)
    weigh = {"metric": "cosine", "weights": lambda distance: np.exp((1 - distance) / TEMPERATURE)}
    judge = KNeighborsClassifier(20, **weigh).fit(train, labels)
    np.testing.assert_array_equal(voted, judge.predict(test))
    np.testing.assert_allclose(share, judge.predict_proba(test).max(axis=1), atol=1e-4)
    np.testing.assert_array_equal(nearest, KNeighborsClassifier(1, metric="cosine").fit(train, labels).predict(test))


def test_the_task_reports_the_vote_and_the_nearest(parts):
    found = KNN("near", **SPLITS).measure(parts, CONTEXT)
    assert {figure.variant for figure in found.figures} == {"k=20", "k=1"}
    for figure in found.figures:
        assert figure.low <= figure.value <= figure.high
        assert figure.value > 3 * figure.chance
    assert {row.score is None for row in found.predictions if row.variant == "k=1"} == {True}
    few = TaskSamples("train", tuple("abc"), parts["train"].features[1:4], {"class": np.array(["class 0", "x", "y"])})
    found = KNN("near", **SPLITS).measure({**parts, "train": few}, CONTEXT)
    assert "near: k = 3, not 20: split train has no more photos" in found.notes


def test_what_cannot_be_measured_is_refused_in_a_line(parts):
    def train(features=parts["train"].features[1:4], classes=("a", "b", "c")):
        return {**parts, "train": TaskSamples("train", tuple("abc"), features, {"class": np.array(classes)})}

    broken = np.full((3, 16), np.nan, np.float32)
    for samples, message in (
        (train(broken), "3 of 3 photos of split train have features that are not finite"),
        (train(classes=("class 0",) * 3), "1 classes in split train"),
        (train(), "no photo of split test is of a class of split train"),
    ):
        for task in (LinearProbe("t", **SPLITS), KNN("t", **SPLITS)):
            with pytest.raises(UserError, match=message):
                task.measure(samples, CONTEXT)
    with pytest.raises(UserError, match="photos enough to hold one out"):
        LinearProbe("t", **SPLITS).measure(train(classes=("class 0", "class 1", "class 2")), CONTEXT)
    with pytest.raises(UsageError, match="k 0 must be at least 1"):
        KNN("t", **SPLITS, k=0)
    with pytest.raises(UsageError, match="strengths must be positive"):
        LinearProbe("t", **SPLITS, strengths=(0.0,))
