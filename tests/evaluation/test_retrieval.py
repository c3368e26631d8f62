"""Retrieval both ways, against a loop in NumPy and scikit-learn's average precision."""

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks.retrieval import Retrieval, image_to_text, median, text_to_image
from bioclip_jax.text.taxonomy import Taxon


def unit(features):
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def world():
    generator = np.random.default_rng(0)
    texts = unit(generator.normal(size=(9, 16)))
    labels = np.concatenate([np.arange(9), generator.integers(0, 9, 51)])
    return unit(texts[labels] + 0.9 * generator.normal(size=(60, 16))), texts, labels


def test_places_and_average_precision_equal_a_plain_loop(world, monkeypatch):
    from sklearn.metrics import average_precision_score

    images, texts, labels = world
    monkeypatch.setattr("bioclip_jax.evaluation.measures.hierarchy.CELLS", 200)  # several chunks, the last one padded
    similarity = images.astype(np.float64) @ texts.T
    expected = [(row > row[label]).sum() for row, label in zip(similarity, labels, strict=True)]
    np.testing.assert_array_equal(image_to_text(images, texts, labels), expected)
    found = text_to_image(images, texts, labels)
    for text in range(9):
        order = np.argsort(-similarity[:, text])
        assert found.first[text] == np.flatnonzero(labels[order] == text)[0]
        exact = average_precision_score(labels == text, similarity[:, text])
        assert found.average_precision[text] == pytest.approx(exact, abs=1e-6)


def test_of_equal_similarities_the_earlier_is_nearer():
    texts = unit(np.ones((3, 4)))
    images = unit(np.ones((3, 4)))
    assert image_to_text(images, texts, np.array([0, 1, 2])).tolist() == [0, 1, 2]
    assert text_to_image(images, texts, np.array([0, 1, 2])).first.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 5])}, "not 3 numbers of texts"),
        ({"labels": np.array([0, -1, 1])}, "not 3 numbers of texts"),
        ({"labels": np.array([0, 0, 0])}, "1 of 2 texts have no photo"),
        ({"images": np.full((3, 4), np.nan, np.float32)}, "3 photos are not finite"),
        ({"images": np.empty((0, 4), np.float32)}, "0 and 2"),
    ],
)
def test_what_cannot_be_retrieved_is_named(change, message):
    values = {
        "images": np.ones((3, 4), np.float32),
        "texts": np.ones((2, 4), np.float32),
        "labels": np.array([0, 1, 1]),
    }
    with pytest.raises(UserError, match=message):
        text_to_image(**{**values, **change})


def test_the_median_is_weighted():
    values = np.array([3.0, 1.0, 2.0])
    assert median(values)(np.ones(3)) == 2
    assert median(values)(np.array([5.0, 1.0, 1.0])) == 3


def test_the_task_gives_figures_with_intervals_both_ways(world):
    images, texts, labels = world
    column = np.array([f"class {label}" for label in labels])
    column[-1] = ""
    samples = TaskSamples("all", tuple(map(str, range(60))), images * 3, {"class": column})
    place = {f"a photo of class {label}.": label for label in range(9)}
    context = Context(lambda prompts: texts[[place[prompt] for prompt in prompts]], resamples=50)
    found = Retrieval("retrieval", "all").measure({"all": samples}, context)
    assert found.notes == ["retrieval: 1 photos have no text and were left out"]
    figures = {(f.variant, f.metric): f for f in found.figures}
    recall = figures["image to text", "recall_at_1"]
    assert recall.value == pytest.approx((image_to_text(images, texts, labels)[:-1] == 0).mean())
    assert (recall.samples, recall.classes, recall.left_out) == (59, 9, 1)
    assert ("image to text", "recall_at_10") not in figures, "there are nine texts only"
    precision = text_to_image(images[:-1], texts, labels[:-1]).average_precision.mean()
    assert figures["text to image", "mean_average_precision"].value == pytest.approx(precision)
    for figure in found.figures:
        assert figure.low <= figure.value <= figure.high
        assert figure.split == "retrieval"


def test_captions_of_a_taxonomy_can_be_the_texts(world):
    images, texts, _ = world
    taxa = tuple(Taxon(genus="Corvus", species=name, common_name=name) for name in ("a", "b", "a"))
    samples = TaskSamples("all", ("1", "2", "3"), images[:3], taxa=taxa)
    context = Context(lambda prompts: texts[: len(prompts)], resamples=0)
    found = Retrieval("retrieval", "all", text_type="com").measure({"all": samples}, context)
    assert {f.classes for f in found.figures} == {2}
    with pytest.raises(UserError, match="no taxonomy"):
        Retrieval("r", "all", text_type="com").measure({"all": TaskSamples("all", ("1",), images[:1])}, context)
