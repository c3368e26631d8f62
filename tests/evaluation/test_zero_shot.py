"""Zero-shot classification equals the reference implementation; its ways of making candidates equal their formulas."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation import zero_shot
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks.class_zero_shot import ZeroShot
from bioclip_jax.heads import TaxonHead, ensemble, logits
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.templates import TEMPLATES

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("as_users_compile")]
GOLDENS = Path(__file__).parents[1] / "goldens/evaluation"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / "zero_shot.npz", allow_pickle=False) as file:
        return dict(file), json.loads((GOLDENS / "zero_shot.json").read_text())


def accuracy_within(top, labels):
    hits = top == labels[:, None]
    return {f"top{k}": float(hits[:, :k].any(axis=1).mean()) for k in sorted({min(k, top.shape[1]) for k in (1, 3, 5)})}


def test_class_weights_logits_and_top_five_equal_the_reference(golden):
    arrays, expected = golden
    scale = float(np.exp(arrays["log_logit_scale"]))
    weights = np.asarray(ensemble(arrays["text_features"]))
    np.testing.assert_allclose(weights.T, arrays["class_weights"], atol=1e-6, rtol=0)
    np.testing.assert_allclose(logits(arrays["image_features"], weights, scale), arrays["logits"], atol=1e-4, rtol=0)
    top = zero_shot.top_k(arrays["image_features"], weights, scale, 5).top
    np.testing.assert_array_equal(top, arrays["top5"])
    accuracy = accuracy_within(top, arrays["labels"])
    assert {f"val-unseen-{name}": value for name, value in accuracy.items()} == expected["accuracy"]


def test_k_is_capped_by_the_number_of_classes(golden):
    arrays, expected = golden
    rows = arrays["labels"] < 4
    weights = np.asarray(ensemble(arrays["text_features"][:4]))
    top = zero_shot.top_k(arrays["image_features"][rows], weights, 1.0, 5, width=9).top
    accuracy = accuracy_within(top, arrays["labels"][rows])
    assert {f"val-unseen-{name}": value for name, value in accuracy.items()} == expected["accuracy_first_four_classes"]


def test_templates_are_those_of_the_golden(golden):
    rendered = "\n".join(template.format("X") for template in TEMPLATES)
    assert len(TEMPLATES) == golden[1]["templates_count"]
    assert hashlib.sha256(rendered.encode()).hexdigest() == golden[1]["templates_sha256"]


def test_batches_do_not_show(golden, monkeypatch):
    arrays, _ = golden
    weights = arrays["class_weights"].T.copy()
    whole = zero_shot.top_k(arrays["image_features"], weights, 10.0, 5)
    monkeypatch.setattr(zero_shot, "BATCH", 50)
    parts = zero_shot.top_k(arrays["image_features"], weights, 10.0, 5, width=len(weights) + 3)
    np.testing.assert_array_equal(parts.top, whole.top)
    np.testing.assert_allclose(parts.log_probability, whole.log_probability, atol=1e-5)
    assert zero_shot.top_k(arrays["image_features"][:0], weights, 10.0, 5).top.shape == (0, 5)


def test_probability_of_a_genus_is_the_sum_over_its_species():
    taxa = tuple(Taxon("A", "B", "C", "D", "E", genus, species) for genus, species in ("Ga", "Gb", "Hc"))
    features = np.eye(3, 4, dtype=np.float32)
    head = TaxonHead(taxa, features, logit_scale=2.0)
    images = np.array([[1, 0, 0, 0], [0, 0, 1, 0]], np.float32)
    species = np.exp(head.log_probabilities(images))
    (genus,) = zero_shot.summed_top_k(images, head, [head.groups("genus")], 5)
    assert genus.top.tolist() == [[0, 1], [1, 0]]
    summed = np.array([species[0, 0] + species[0, 1], species[1, 2]])
    np.testing.assert_allclose(np.exp(genus.log_probability), summed, rtol=1e-6)


def test_the_mean_of_the_members_favours_no_genus_of_many_species():
    taxa = tuple(Taxon("A", "B", "C", "D", "E", genus, species) for genus, species in ("Ga", "Gb", "Hc"))
    head = TaxonHead(taxa, np.eye(3, dtype=np.float32), logit_scale=1.0)
    images = np.log(np.array([[0.3, 0.3, 0.4]], np.float32))
    (by_sum,), (by_mean,) = (
        zero_shot.summed_top_k(images, head, [head.groups("genus")], 2, mean=mean) for mean in (False, True)
    )
    assert by_sum.top.tolist() == [[0, 1]]
    assert by_mean.top.tolist() == [[1, 0]]
    np.testing.assert_allclose(np.exp([by_sum.log_probability[0], by_mean.log_probability[0]]), [0.6, 0.4], rtol=1e-5)


def test_ranking_goes_on_where_probabilities_underflow():
    taxa = tuple(Taxon("A", "B", "C", "D", "E", genus, "x") for genus in ("Ga", "Gb", "Gc", "Gd"))
    features = np.array([[1, 0], [0, 1], [0.2, 0.98], [0.4, 0.917]], np.float32)
    images = np.array([[1, 0]], np.float32)
    head = TaxonHead(taxa, features, logit_scale=1000.0)
    assert np.exp(head.log_probabilities(images))[0, 1:].tolist() == [0, 0, 0]
    for ranking in (
        zero_shot.top_k(images, features, 1000.0, 4),
        zero_shot.summed_top_k(images, head, [head.groups("genus")], 4)[0],
    ):
        assert ranking.top.tolist() == [[0, 3, 2, 1]]


def pool(arrays, names, rows=slice(None), **columns):
    """The golden's photos as a task sees them, and a text side that looks its features up."""
    labels = np.array([names[label] for label in arrays["labels"][rows]])
    features = 3 * arrays["image_features"][rows]
    table = {
        template.format(name): arrays["text_features"][number, place]
        for number, name in enumerate(names)
        for place, template in enumerate(TEMPLATES)
    }
    asked: list[str] = []

    def encode_text(texts):
        asked.extend(texts)
        return np.stack([table[text] for text in texts])

    keys = tuple(f"{row}.jpg" for row in range(len(labels)))
    return {"test": TaskSamples("test", keys, features, {"class": labels, **columns})}, encode_text, asked


def test_the_task_gives_the_accuracies_of_the_reference_and_a_row_for_each_photo(golden, tmp_path):
    arrays, expected = golden
    names = [f"Corvus {chr(97 + number)}us" for number in range(22)]
    samples, encode_text, asked = pool(arrays, names)
    scale = float(np.exp(arrays["log_logit_scale"]))
    context = Context(encode_text, scale, resamples=20, cache=ArrayCache(tmp_path), fingerprint="golden")
    found = ZeroShot("birds", "test").measure(samples, context)
    figures = {figure.metric: figure for figure in found.figures}
    assert [figure.metric for figure in found.figures] == [
        *("micro_accuracy", "top3_accuracy", "top5_accuracy", "balanced_accuracy")
    ]
    for metric, name in zip(figures, ("top1", "top3", "top5"), strict=False):
        assert figures[metric].value == pytest.approx(expected["accuracy"][f"val-unseen-{name}"], abs=1e-12)
    recalls = [np.mean(arrays["top5"][arrays["labels"] == label, 0] == label) for label in np.unique(arrays["labels"])]
    assert figures["balanced_accuracy"].value == pytest.approx(np.mean(recalls), abs=1e-9)
    assert all(figure.variant == "paper" and figure.low < figure.value < figure.high for figure in found.figures)
    logits_ = arrays["logits"].astype(np.float64)
    probability = np.exp(logits_ - logits_.max(axis=1, keepdims=True))
    probability = (probability / probability.sum(axis=1, keepdims=True)).max(axis=1)
    assert [row.predicted for row in found.predictions] == [names[best] for best in arrays["top5"][:, 0]]
    np.testing.assert_allclose([row.score for row in found.predictions], probability, atol=1e-4)
    assert {row.cluster for row in found.predictions} == set(names)

    assert len(asked) == len(set(asked)) == 22 * 81
    again = ZeroShot("birds", "test").measure(samples, context)
    assert again.predictions == found.predictions
    assert len(asked) == 22 * 81  # the head was kept


def test_the_task_caps_k_and_leaves_photos_without_a_label_out(golden):
    arrays, expected = golden
    names = [*"abcd"]
    rows = np.flatnonzero(arrays["labels"] < 4)
    samples, encode_text, _ = pool(arrays, names, rows)
    samples["test"].columns["class"][3] = ""
    found = ZeroShot("birds", "test").measure(samples, Context(encode_text, 1.0, resamples=0))
    assert [figure.metric for figure in found.figures][1:3] == ["top3_accuracy", "top4_accuracy"]
    assert {(figure.left_out, figure.samples, figure.classes) for figure in found.figures} == {(1, len(rows) - 1, 4)}
    assert len(found.predictions) == len(rows) - 1
    assert found.notes == [
        "birds: 1 photos have no label and were left out",
        "birds: paper: with 4 classes the last accuracy is top-4",
    ]
    assert np.isnan(found.figures[0].low)
    top1 = expected["accuracy_first_four_classes"]["val-unseen-top1"] * len(rows)
    assert found.figures[0].value * (len(rows) - 1) == pytest.approx(top1, abs=1 + 1e-9)


def test_what_cannot_be_measured_is_said_in_a_line(golden):
    arrays, _ = golden
    samples, encode_text, _ = pool(arrays, ["a", "b"], np.flatnonzero(arrays["labels"] < 2))
    context = Context(encode_text, 1.0, resamples=0)
    with pytest.raises(UserError, match="no labels 'genus'"):
        ZeroShot("birds", "test", column="genus").measure(samples, context)
    with pytest.raises(UserError, match="82 templates"):
        ZeroShot("birds", "test", templates=82)
    nothing = Context(lambda texts: np.full((len(texts), 40), np.nan, np.float32), 1.0, resamples=0)
    with pytest.raises(UserError, match="NaN or infinite features for 162 of 162 texts"):
        ZeroShot("birds", "test").measure(samples, nothing)
    short = Context(lambda texts: np.ones((len(texts), 3), np.float32), 1.0, resamples=0)
    with pytest.raises(UserError, match="text features have 3 numbers"):
        ZeroShot("birds", "test").measure(samples, short)
    samples["test"].columns["class"][:] = "a"
    with pytest.raises(UserError, match="1 classes"):
        ZeroShot("birds", "test").measure(samples, context)
    samples["test"].features[0, 0] = np.nan
    with pytest.raises(UserError, match="not finite"):
        ZeroShot("birds", "test").measure(samples, context)
