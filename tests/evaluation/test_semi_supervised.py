"""Semi-supervised k-means and its matchings equal the reference implementation's."""

import json
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks import kmeans
from bioclip_jax.evaluation.tasks.kmeans import cluster
from bioclip_jax.evaluation.tasks.semi_supervised import Matching, SemiSupervisedKMeans, split_labelled

pytestmark = pytest.mark.usefixtures("as_users_compile")

GOLDENS = Path(__file__).parents[1] / "goldens/evaluation"
CONTEXT = Context(encode_text=lambda texts: np.zeros((len(texts), 1), np.float32), resamples=50)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / "herbarium19.npz", allow_pickle=False) as file:
        return dict(file), json.loads((GOLDENS / "herbarium19.json").read_text())


def unit(features):
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)


@pytest.mark.parametrize(("version", "atol"), [("v2", 1e-5), ("v1", 1e-4)])
def test_clusterings_and_scores_equal_the_reference(golden, version, atol):
    arrays, expected = golden
    old_rows = np.isin(arrays["folder_label"], arrays["old_classes"])
    labelled, unlabelled = split_labelled(old_rows, 0.8)
    np.testing.assert_array_equal(labelled, arrays["labelled_rows"])
    np.testing.assert_array_equal(unlabelled, arrays["unlabelled_rows"])
    features = unit(arrays["features"]) if version == "v2" else arrays["features"]
    labels, known = arrays["labels"], len(labelled)
    runs = expected["results"][version]["runs"]
    seeds = [run["seed"] for run in runs]
    clusters = expected["results"]["n_old"] + expected["results"]["n_new"]
    found = cluster(features[labelled], labels[:known], features[unlabelled], clusters, seeds=seeds)
    np.testing.assert_array_equal(found.draws, arrays[f"{version}_draws"])
    np.testing.assert_array_equal(found.labels, arrays[f"{version}_final_labels"])
    np.testing.assert_allclose(found.initial_centres, arrays[f"{version}_init_centres"], atol=atol, rtol=0)
    np.testing.assert_allclose(found.centres, arrays[f"{version}_final_centres"], atol=atol, rtol=0)
    np.testing.assert_allclose(found.inertia, [run["inertia"] for run in runs], rtol=1e-5)
    np.testing.assert_array_equal(found.iterations, [run["iterations"] for run in runs])
    true = labels[known:]
    is_old = true < expected["results"]["n_old"]
    for run, assigned in zip(runs, found.labels[:, known:], strict=True):
        right = np.zeros(len(true), bool)
        for part in (is_old, ~is_old):
            right[part] = Matching.of(true[part], assigned[part], clusters).classes[assigned[part]] == true[part]
        assert [right.mean(), right[is_old].mean(), right[~is_old].mean()] == [
            run[name] for name in ("all", "old", "new")
        ]
        joint = Matching.of(true, assigned, clusters)
        right = joint.classes[assigned] == true
        assert right.mean() == run["joint"]["all"]
        fewest, most = joint.bounds(np.arange(clusters) < expected["results"]["n_old"])
        assert (fewest == most) == run["joint"]["old_new_parts_unique"]
        assert fewest <= right[is_old].sum() <= most
        if fewest == most:
            assert right[is_old].mean() == run["joint"]["old"]
            assert right[~is_old].mean() == run["joint"]["new"]


def test_an_emptied_cluster_ends_the_search_as_in_the_reference(golden):
    arrays, expected = golden
    case = expected["empty_cluster_case"]
    found = cluster(
        arrays["edge_labelled"], arrays["edge_labels"], arrays["edge_unlabelled"], case["k"], seeds=[case["seed"]]
    )
    np.testing.assert_array_equal(found.draws[0], arrays["edge_draws"])
    np.testing.assert_array_equal(found.initial_centres[0], arrays["edge_init_centres"])
    np.testing.assert_array_equal(found.labels[0], arrays["edge_final_labels"])
    np.testing.assert_allclose(found.centres[0], arrays["edge_final_centres"], atol=1e-5, rtol=0, equal_nan=True)
    np.testing.assert_allclose(found.inertia[0], case["inertia"], rtol=1e-5)
    assert found.iterations[0] == case["iterations"]


def test_chunks_do_not_show(golden, monkeypatch):
    arrays, _ = golden
    features, known = unit(arrays["features"]), 560
    rows = np.concatenate([arrays["labelled_rows"], arrays["unlabelled_rows"]])
    monkeypatch.setattr(kmeans, "CHUNK", 100)
    kmeans._iterate.clear_cache()
    found = cluster(features[rows[:known]], arrays["labels"][:known], features[rows[known:]], 57, seeds=[0])
    kmeans._iterate.clear_cache()
    np.testing.assert_array_equal(found.labels[0], arrays["v2_final_labels"][0])


def herbarium(arrays, **columns) -> dict[str, TaskSamples]:
    """The golden's photos as a split; classes are their folders' names."""
    names = np.array([f"{label:03}" for label in arrays["folder_label"]])
    keys = tuple(f"{row}.jpg" for row in range(len(names)))
    return {"train": TaskSamples("train", keys, arrays["features"], {"class": names, **columns})}


def test_the_task_reports_the_references_figures(golden):
    arrays, expected = golden
    old = tuple(f"{label:03}" for label in arrays["old_classes"])
    found = SemiSupervisedKMeans("herb", "train", old_classes=old).measure(herbarium(arrays), CONTEXT)
    micro = {figure.variant: figure for figure in found.figures if figure.metric == "micro_accuracy"}
    results = expected["results"]
    for variant, version in (("paper", "v2"), ("paper v1", "v1")):
        runs = results[version]["runs"]
        for figure, part in ((variant, "all"), (f"{variant}, old", "old"), (f"{variant}, new", "new")):
            assert micro[figure].value == pytest.approx(np.mean([run[part] for run in runs]), abs=1e-12)
    assert micro["paper"].spread == pytest.approx(results["v2"]["std"], abs=1e-12)
    assert micro["paper v1"].spread is None
    assert micro["corrected"].value == pytest.approx(results["v2"]["joint_mean"], abs=1e-12)
    assert micro["corrected"].low < micro["corrected"].value < micro["corrected"].high
    assert all(np.isnan(figure.chance) for figure in found.figures)
    assert {figure.classes for figure in found.figures} == {results["n_old"] + results["n_new"]}
    assert micro["corrected"].samples == len(arrays["unlabelled_rows"])
    assert any("corrected: several matchings are equally good" in note for note in found.notes)
    for variant in ("paper", "corrected", "paper v1"):
        rows = [row for row in found.predictions if row.variant == variant]
        assert [row.key for row in rows] == [f"{row}.jpg" for row in arrays["unlabelled_rows"]]
        assert np.mean([row.correct for row in rows]) == pytest.approx(micro[variant].value)


def test_a_column_says_which_classes_are_old_as_well_as_a_list(golden):
    arrays, _ = golden
    flags = np.isin(arrays["folder_label"], arrays["old_classes"]).astype(int)
    samples = herbarium(arrays, old=flags)
    by_column = SemiSupervisedKMeans("h", "train", old_column="old").measure(samples, CONTEXT)
    old = tuple(f"{label:03}" for label in arrays["old_classes"])
    by_list = SemiSupervisedKMeans("h", "train", old_classes=old).measure(samples, CONTEXT)
    ours, theirs = (
        {f.variant: f.value for f in found.figures if f.metric == "micro_accuracy"} for found in (by_column, by_list)
    )
    # a joint matching's parts are not unique, so the order of classes may show in them
    unique = ("corrected", "paper", "paper, old", "paper, new", "paper v1", "paper v1, old", "paper v1, new")
    assert [ours[name] for name in unique] == pytest.approx([theirs[name] for name in unique], abs=1e-12)


def small(**changes) -> dict[str, TaskSamples]:
    generator = np.random.default_rng(1)
    numbers = np.array([0] * 8 + [1] * 8 + [2] * 8 + [3] * 8 + [4])
    features = (np.eye(6)[numbers] + 0.1 * generator.normal(size=(33, 6))).astype(np.float32)
    columns = {"class": np.array(["a", "b", "c", "d", "e"])[numbers], **changes}
    return {"train": TaskSamples("train", tuple(map(str, range(33))), features, columns)}


def test_an_old_class_without_a_labelled_photo_has_to_be_found():
    for old in (("e", "a"), ("e", "b"), ("e", "c"), ("e", "d")):
        found = SemiSupervisedKMeans("h", "train", old_classes=old, labelled_fraction=0.5).measure(small(), CONTEXT)
        if any("1 of 2 old classes have no labelled photo" in note for note in found.notes):
            break
    else:
        pytest.fail("e was labelled in every draw")
    value = next(f.value for f in found.figures if (f.variant, f.metric) == ("corrected", "micro_accuracy"))
    assert value > 0.9


def test_clusters_that_become_empty_are_told():
    samples = small()
    samples["train"].features[:] = np.eye(6, dtype=np.float32)[[0] * 16 + [1] * 17]
    found = SemiSupervisedKMeans("h", "train", old_classes=("a",)).measure(samples, CONTEXT)
    assert any("in 3 of 3 runs a cluster became empty" in note for note in found.notes)
    assert all(np.isfinite(figure.value) for figure in found.figures)


@pytest.mark.parametrize(
    ("changes", "columns", "message"),
    [
        ({"old_classes": ("a", "x")}, {}, "1 of 2 old classes have no photo in split train .first: 'x'."),
        ({"old_classes": tuple("abcde")}, {}, "5 of 5 classes are old"),
        ({"old_column": "old"}, {}, "has no labels 'old'"),
        ({"old_column": "old"}, {"old": np.arange(33)}, "must be 0 or 1"),
        ({"old_column": "old"}, {"old": np.arange(33) % 2}, "class 'a' is old for some photos and new for others"),
        ({"old_classes": ("e",)}, {}, "no photo of an old class is labelled"),
    ],
)
def test_bad_old_classes_are_refused(changes, columns, message):
    with pytest.raises(UserError, match=message):
        SemiSupervisedKMeans("h", "train", **changes).measure(small(**columns), CONTEXT)


def test_old_classes_are_named_in_one_way():
    with pytest.raises(UsageError, match="either old_classes or old_column"):
        SemiSupervisedKMeans("h", "train")
