"""The deterministic core of the probes equals the reference implementation's; both ways of testing are its figures."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks import probe as module
from bioclip_jax.evaluation.tasks.probe import Probe, Schedule, Weights, f1_scores, initial_weights, probe_logits, train

pytestmark = pytest.mark.usefixtures("as_users_compile")

GOLDENS = Path(__file__).parents[1] / "goldens/evaluation"
CONTEXT = Context(encode_text=lambda texts: np.zeros((len(texts), 1), np.float32), resamples=50)


def weights_of(arrays: dict[str, np.ndarray], name: str) -> Weights:
    """The golden's, which PyTorch holds as [out, in]."""
    hidden, output = (arrays[f"{name}_{layer}_weight"].T for layer in (0, 2))
    return Weights(hidden, arrays[f"{name}_0_bias"], output, arrays[f"{name}_2_bias"])


@pytest.mark.parametrize("probe", ["fishnet", "awa2"])
def test_training_without_dropout_equals_the_reference(probe):
    with np.load(GOLDENS / "probes.npz", allow_pickle=False) as file:
        golden = {name: array for name, array in file.items() if name.startswith(probe)}
    expected = json.loads((GOLDENS / "probes.json").read_text())["results"][probe]
    start = jax.tree.map(lambda array: jnp.asarray(array)[None], weights_of(golden, f"{probe}_init"))
    x, y, x_test = (golden[f"{probe}_{name}"].astype(np.float32) for name in ("x_train", "y_train", "x_test"))
    true = golden[f"{probe}_y_test"].astype(bool)
    keys = jax.random.split(jax.random.key(0), 1)
    for epochs in (3, 45):
        schedule = Schedule(expected["learning_rate"], expected["batch"], epochs)
        weights, losses = train(start, x, y, keys, schedule=schedule, dropout=False, shuffle=False)
        np.testing.assert_allclose(losses[0], golden[f"{probe}_losses"][: losses.shape[1]], atol=2e-6, rtol=0)
        for ours, theirs in zip(weights, weights_of(golden, f"{probe}_epoch{epochs}"), strict=True):
            np.testing.assert_allclose(ours[0], theirs, atol=5e-6, rtol=0)
        logits = np.asarray(probe_logits(weights, x_test, keys, dropout=False))[0]
        np.testing.assert_allclose(logits, golden[f"{probe}_epoch{epochs}_logits"], atol=5e-5, rtol=0)
        for threshold, name in ((0.5, "logit"), (0.0, "prob")):
            said, scores = logits > threshold, expected[f"epoch{epochs}"][f"{name}_above_half"]
            assert (said == true).all(axis=1).mean() == scores["exact_match"]
            if probe == "awa2":
                by_label = f1_scores(true, said)
                np.testing.assert_array_equal(by_label, golden[f"{probe}_epoch{epochs}_f1_{name}"])
                assert by_label.mean() == pytest.approx(scores["f1_macro_85"], abs=1e-12)
                assert by_label[:2].mean() == pytest.approx(scores["f1_first_two"], abs=1e-12)


def test_seeds_trained_at_once_are_those_trained_one_after_the_other(parts, monkeypatch):
    keys = jax.random.split(jax.random.key(3), 2)
    start = jax.vmap(lambda key: initial_weights(key, 8, 40, 4))(keys)
    x, y = parts["train"].features, parts["train"].columns["labels"].astype(np.float32)

    def both() -> tuple[jax.Array, jax.Array]:
        weights, losses = train(start, x, y, keys, schedule=Schedule(5e-3, 64, 3))
        return losses, probe_logits(weights, x, keys, dropout=True)

    one_by_one = both()
    monkeypatch.setattr(module, "_each_probe", lambda function, inputs: jax.vmap(function)(inputs))
    for function in (train, probe_logits):
        function.clear_cache()
    for ours, theirs in zip(both(), one_by_one, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    for function in (train, probe_logits):
        function.clear_cache()
    assert np.abs(one_by_one[0][0] - one_by_one[0][1]).max() > 1e-3


def test_the_first_weights_are_uniform_within_the_bound_of_each_layer():
    weights = initial_weights(jax.random.key(0), 64, 100, 40)
    for layer, bound in zip(weights, (1 / 8, 1 / 8, 1 / 10, 1 / 10), strict=True):
        assert float(jnp.abs(layer).max()) <= bound
        assert float(layer.std()) == pytest.approx(bound / np.sqrt(3), rel=0.2)
    assert not np.array_equal(weights.hidden_weight, initial_weights(jax.random.key(1), 64, 100, 40).hidden_weight)


def test_dropout_keeps_half_of_the_units_at_twice_their_value():
    hidden = 70  # not a multiple of the 32 bits of a word
    weights = Weights(jnp.zeros((3, hidden)), jnp.ones(hidden), jnp.eye(hidden), jnp.zeros(hidden))
    stacked = jax.tree.map(lambda array: jnp.asarray(array)[None], weights)
    units = np.asarray(
        probe_logits(stacked, np.zeros((200, 3), np.float32), jax.random.split(jax.random.key(0), 1), dropout=True)
    )
    assert set(np.unique(units)) == {0.0, 2.0}
    assert units.mean() == pytest.approx(1, abs=0.05)
    assert (units[0].std(axis=0) > 0).all()


@pytest.fixture(scope="module")
def parts() -> dict[str, TaskSamples]:
    """Two splits whose labels are linear in the features, apart from one that is never 1."""
    generator = np.random.default_rng(0)
    directions = generator.normal(size=(8, 4))
    parts = {}
    for split, n in (("train", 500), ("test", 120)):
        features = generator.normal(size=(n, 8)).astype(np.float32)
        labels = (features @ directions > 0).astype(np.int64)
        labels[:, 3] = 0
        names = np.array([f"class {row % 6}" for row in range(n)])
        keys = tuple(f"{split}{row}" for row in range(n))
        parts[split] = TaskSamples(split, keys, features, {"labels": labels, "class": names})
    return parts


SETTINGS = {"train": "train", "test": "test", "learning_rate": 5e-3, "epochs": 8, "batch_size": 64, "hidden": 40}


def test_the_task_reports_both_ways_of_testing_one_training(parts):
    found = Probe("p", **SETTINGS).measure(parts, CONTEXT)
    figures = {(figure.variant, figure.metric): figure for figure in found.figures}
    variants, metrics = ("paper", "paper v1", "corrected"), ("exact_match", "label_accuracy")
    assert list(figures) == [(variant, metric) for variant in variants for metric in metrics]
    paper, first, corrected = (figures[variant, "exact_match"] for variant in variants)
    assert corrected.value > paper.value + 0.05
    assert corrected.value > 0.7
    alone = Probe("p", seeds=(0,), **SETTINGS).measure(parts, CONTEXT).figures[0]
    assert (first.value, first.spread) == (alone.value, None)
    for single in (figures[variant, "label_accuracy"] for variant in variants):
        exact = figures[single.variant, "exact_match"].value
        assert exact < single.value <= 1 - (1 - exact) / 4, "a wrong photo has one to four of four labels wrong"
        assert single.low < single.value < single.high
        assert (single.chance, 0.5 < single.majority < 1) == (0.5, True)
    for figure in (paper, corrected):
        rows = [row for row in found.predictions if row.variant == figure.variant]
        assert len(rows) == figure.samples == 120
        assert figure.value == pytest.approx(np.mean([row.correct for row in rows]))
        assert figure.low <= figure.value <= figure.high
        assert figure.spread is not None
        assert figure.clusters == 6
    assert any("dropout is active" in note for note in found.notes)


def test_f1_figures_are_those_of_the_predictions_and_empty_labels_are_counted(parts):
    found = Probe("p", metric="f1", seeds=(4,), **SETTINGS).measure(parts, CONTEXT)
    figures = {(figure.variant, figure.metric): figure for figure in found.figures}
    assert list(figures) == [(v, m) for v in ("paper", "paper v1", "corrected") for m in ("f1_first2", "macro_f1")]
    for (variant, metric), figure in figures.items():
        rows = [row for row in found.predictions if row.variant == variant]
        true, said = (
            np.array([[c == "1" for c in getattr(row, side)] for row in rows]) for side in ("true", "predicted")
        )
        by_label = f1_scores(true, said)
        assert figure.value == pytest.approx((by_label[:2] if metric == "f1_first2" else by_label).mean())
        assert figure.low < figure.value < figure.high
    assert any("corrected: 1 of 4 labels count as F1 = 0" in note for note in found.notes)


def test_f1_equals_that_of_scikit_learn():
    from sklearn.metrics import f1_score

    generator = np.random.default_rng(0)
    true, said = generator.random((50, 6)) < 0.3, generator.random((50, 6)) < 0.3
    true[:, 2] = said[:, 2] = False
    expected = f1_score(true, said, average=None, zero_division=0)
    np.testing.assert_allclose(f1_scores(true, said), expected, atol=1e-12)


def test_no_resamples_leave_intervals_out(parts):
    bare = Context(encode_text=CONTEXT.encode_text, resamples=0)
    for metric in ("exact_match", "f1"):
        found = Probe("p", metric=metric, seeds=(4,), **SETTINGS).measure(parts, bare)
        assert all(np.isnan([figure.low, figure.high]).all() for figure in found.figures)
        assert all(np.isfinite(figure.value) for figure in found.figures)


def test_labels_that_are_no_labels_are_refused(parts):
    def changed(split: str, **changes) -> dict[str, TaskSamples]:
        part = parts[split]
        columns = {**part.columns, **changes.pop("columns", {})}
        features = changes.pop("features", part.features)
        return {**parts, split: TaskSamples(split, part.keys, features, columns)}

    task = Probe("p", **SETTINGS)
    labels = parts["train"].columns["labels"]
    broken = np.where(np.arange(500)[:, None] == 3, np.nan, parts["train"].features).astype(np.float32)
    for samples, message in (
        (changed("train", columns={"labels": labels + 1}), "must be 0 or 1"),
        (changed("train", columns={"labels": labels[:, 0]}), "photos by labels"),
        (changed("train", columns={"labels": labels[:9]}), "500 photos, but 9 labels"),
        (changed("train", columns={"labels": labels[:, :3]}), "has 3 labels, test has 4"),
        (changed("train", features=broken), "1 of 500 photos of split train have features that are not finite"),
        (changed("test", features=parts["test"].features[:, :5]), "8 wide in training, 5 in test"),
    ):
        with pytest.raises(UserError, match=message):
            task.measure(samples, CONTEXT)
    with pytest.raises(UserError, match="has no labels 'traits'; it has labels, class"):
        Probe("p", column="traits", **SETTINGS).measure(parts, CONTEXT)
    with pytest.raises(UsageError, match="neither exact_match nor f1"):
        Probe("p", metric="accuracy", **SETTINGS)
