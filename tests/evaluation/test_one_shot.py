"""One-shot classification of a test split equals the reference implementation's, in both versions."""

import json
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.few_shot import simple_shot
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks.one_shot import OneShot, draw_supports, support_folds

pytestmark = pytest.mark.usefixtures("as_users_compile")

GOLDENS = Path(__file__).parents[1] / "goldens/evaluation"
CONTEXT = Context(encode_text=lambda texts: np.zeros((len(texts), 1), np.float32), resamples=50)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / "plantdoc.npz", allow_pickle=False) as file:
        return dict(file), json.loads((GOLDENS / "plantdoc.json").read_text())


@pytest.fixture(scope="module")
def parts(golden) -> dict[str, TaskSamples]:
    parts = {}
    for split in ("train", "test"):
        features, labels = golden[0][f"x_{split}"], golden[0][f"y_{split}"]
        names = np.array([f"{label:02}" for label in labels])
        parts[split] = TaskSamples(
            split, tuple(f"{split}{row}" for row in range(len(names))), features, {"class": names}
        )
    return parts


@pytest.mark.parametrize("version", ["v2", "v1"])
def test_supports_and_predictions_equal_the_reference(golden, parts, version):
    arrays, expected = golden
    drawn = draw_supports(arrays["y_train"], expected["k"], expected["repeats"], reseeded=version == "v2")
    np.testing.assert_array_equal(drawn, arrays[f"{version}_support"])
    folds = support_folds(drawn, arrays["y_train"], np.arange(len(arrays["y_test"])))
    which = "unit_features" if version == "v2" else "features"
    predicted = simple_shot(*(getattr(parts[split], which) for split in ("train", "test")), folds)
    np.testing.assert_array_equal(predicted, arrays[f"{version}_pred"])
    accuracy = (predicted == arrays["y_test"]).mean(axis=1)
    np.testing.assert_allclose(accuracy, arrays[f"{version}_accuracy"], atol=1e-6)


def test_the_task_reports_the_references_means(golden, parts):
    found = OneShot("plants", "train", "test").measure(parts, CONTEXT)
    micro = {figure.variant: figure for figure in found.figures if figure.metric == "micro_accuracy"}
    for variant, version in (("paper", "v2"), ("paper v1", "v1")):
        figure, result = micro[f"{variant}, 1-shot"], golden[1]["results"][version]
        assert figure.value == pytest.approx(result["mean"], abs=1e-6)
        assert figure.spread == pytest.approx(result["std"], abs=1e-6)
        assert figure.low < figure.value < figure.high
        rows = [row for row in found.predictions if row.variant == figure.variant]
        assert [row.key for row in rows] == list(parts["test"].keys)
        assert np.mean([row.correct for row in rows]) == pytest.approx(figure.value)


def test_classes_that_are_never_asked_about_count_as_candidates(parts):
    classes = parts["test"].columns["class"]
    rows = np.flatnonzero(np.isin(classes, np.unique(classes)[:2]))
    keys = tuple(parts["test"].keys[row] for row in rows)
    test = TaskSamples("test", keys, parts["test"].features[rows], {"class": classes[rows]})
    found = OneShot("plants", "train", "test").measure({**parts, "test": test}, CONTEXT)
    count = len(np.unique(parts["train"].columns["class"]))
    assert {(figure.classes, figure.chance) for figure in found.figures} == {(count, 1 / count)}


def test_classes_with_too_few_supports_are_left_out_and_counted(parts):
    sizes = np.unique(parts["train"].columns["class"], return_counts=True)[1]
    shots = int(sizes.min()) + 1
    found = OneShot("plants", "train", "test", shots=shots).measure(parts, CONTEXT)
    left_out = int((sizes < shots).sum())
    assert any(note.startswith(f"plants: {left_out} classes have fewer than {shots} photos") for note in found.notes)
    assert {figure.left_out for figure in found.figures} == {left_out}
    assert {figure.classes for figure in found.figures} == {len(sizes) - left_out}
    with pytest.raises(UserError, match="fewer than two classes of train have 1000 photos"):
        OneShot("plants", "train", "test", shots=1000).measure(parts, CONTEXT)
