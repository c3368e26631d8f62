"""Every built-in benchmark is measured with all of its tasks, on its published layout in miniature."""

import numpy as np
import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.measure_tasks import measure_tasks
from bioclip_jax.evaluation.published import tfds_photos
from bioclip_jax.evaluation.published.camera_traps import MeanOf
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks import class_zero_shot
from bioclip_jax.pipeline.build import build
from bioclip_jax.recipes import load_recipe
from tests.evaluation.miniatures import MINIATURES, Shelf, copy, recipe, tfds_labels


class Shades:
    """Looks at the mean of each quarter of a photo; texts are hashed."""

    name = "shades"
    fingerprint = "shades-1"
    logit_scale = 10.0

    def preprocess(self, image) -> np.ndarray:
        from bioclip_jax.images import evaluation_image

        return evaluation_image(image, 8)

    def encode_image(self, images: np.ndarray, *, normalize: bool = True) -> np.ndarray:
        features = images.reshape(len(images), 2, 4, 2, 4, 3).mean(axis=(2, 4)).reshape(len(images), -1) / 255 - 0.5
        return _unit(features) if normalize else features.astype(np.float32)

    def encode_text(self, texts: list[str]) -> np.ndarray:
        return _unit(np.stack([np.random.default_rng(list(text.encode())).normal(size=12) for text in texts]))


def _unit(features: np.ndarray) -> np.ndarray:
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_recipe_is_measured_with_every_task(miniatures, name):
    benchmark = recipe(name, miniatures / name)
    findings = measure_tasks(Shades(), benchmark, Settings(resamples=2), cache_folder=None)
    assert {figure.split for figure in findings.figures} >= {task.name for task in benchmark.tasks}
    assert all(np.isfinite(figure.value) for figure in findings.figures)
    assert findings.predictions
    for note in benchmark.notes:
        assert any(note in line for line in findings.notes)


def test_a_partial_download_is_counted_and_the_rest_measured(miniatures, tmp_path):
    root = copy(miniatures, "plankton", tmp_path)
    for file in (root / "val" / "mix_elongated").glob("[0-4].png"):
        file.unlink()
    benchmark = recipe("plankton", root)
    assert "5 of 14 photos are missing below val: the download is not complete" in benchmark.notes
    findings = measure_tasks(Shades(), benchmark, Settings(resamples=2), cache_folder=None)
    assert any("5" in note and "missing" in note for note in findings.notes)
    zero_shot = [figure for figure in findings.figures if figure.split == "zero_shot"]
    assert {figure.samples for figure in zero_shot} == {9}


def test_a_class_of_which_no_photo_is_there_is_counted_among_those_left_out_of_few_shot(miniatures, tmp_path):
    root = copy(miniatures, "ena24", tmp_path)
    for file in root.rglob("0-*.png"):
        file.unlink()
    findings = measure_tasks(Shades(), recipe("ena24", root), Settings(resamples=2), cache_folder=None)
    assert {(f.left_out, f.classes) for f in findings.figures if f.split == "few_shot"} == {(1, 3)}
    assert {f.classes for f in findings.figures if f.split == "zero_shot"} == {4}


def test_island_keeps_its_singletons_and_empty_ranks_and_says_so(miniatures):
    benchmark = recipe("island", miniatures / "island")
    classes = benchmark.splits["test"].columns["class"].tolist()
    assert classes[-1] == "Animalia Chordata Aves     with common name petrel chick"
    assert classes.count(classes[-1]) == 1
    assert any(note.startswith("ranks are empty: order of 1") for note in benchmark.notes)
    findings = measure_tasks(Shades(), benchmark, Settings(resamples=2), cache_folder=None)
    assert any("1-shot: 1 of 5 classes" in note for note in findings.notes)
    assert {figure.left_out for figure in findings.figures if figure.split == "few_shot"} == {1}


def test_camera_traps_are_the_plain_mean_of_their_five_sets(miniatures):
    benchmark = recipe("camera_traps", miniatures / "camera_traps")
    findings = measure_tasks(Shades(), benchmark, Settings(resamples=50), cache_folder=None)
    figures = {f.split: f for f in findings.figures if (f.protocol, f.metric) == ("zero_shot", "micro_accuracy")}
    mean = figures.pop("zero_shot")
    assert len(figures) == 5
    assert mean.value == pytest.approx(np.mean([figure.value for figure in figures.values()]), abs=1e-9)
    assert mean.samples == sum(figure.samples for figure in figures.values()) == 141
    assert mean.clusters == sum(figure.clusters for figure in figures.values())
    assert mean.low <= mean.value <= mean.high
    means = {(f.variant, f.metric) for f in findings.figures if f.split in ("zero_shot", "few_shot")}
    assert {("paper", "balanced_accuracy"), ("paper", "top3_accuracy"), ("paper, 5-shot", "micro_accuracy")} <= means


def test_every_set_counts_the_same_in_every_resample_of_their_mean(monkeypatch):
    def names(texts):
        return np.stack([np.eye(4, dtype=np.float32)["abcd".index(text)] for text in texts])

    names_alone = {81: ("{}",)}
    right = TaskSamples("right", tuple("0123"), np.eye(4, dtype=np.float32), {"class": np.array(list("abcd"))})
    wrong = TaskSamples("wrong", tuple("012"), np.eye(4, dtype=np.float32)[[1, 2, 0]], {"class": np.array(list("abc"))})
    monkeypatch.setattr(class_zero_shot, "_TEMPLATES", names_alone)
    task = MeanOf("mean", tuple(class_zero_shot.ZeroShot(f"mean_{name}", name) for name in ("right", "wrong")))
    found = task.measure({"right": right, "wrong": wrong}, Context(encode_text=names, resamples=50))
    mean = next(figure for figure in found.figures if (figure.split, figure.metric) == ("mean", "micro_accuracy"))
    assert (mean.value, mean.low, mean.high) == (0.5, 0.5, 0.5)
    assert "mean: no mean of top4_accuracy (paper): not every set has it" in found.notes


def test_a_photo_that_cannot_be_read_is_counted(miniatures, tmp_path):
    root = copy(miniatures, "plantdoc", tmp_path)
    (root / "test" / "grape leaf" / "0.jpg").write_bytes(b"no photo")
    findings = measure_tasks(Shades(), recipe("plantdoc", root), Settings(resamples=2), cache_folder=None)
    assert any("1 of 12 photos could not be used" in note for note in findings.notes)


class Records(list):
    """A split of a dataset, by its records."""


def test_a_tfds_split_without_labels_and_photos_without_a_name_are_told(tmp_path, monkeypatch):
    ranks = {"kingdom": "Animalia", "genus": "Corvus", "species": "corax"}
    splits = {
        "train": Records([{"key": "0", "image": b"", **ranks}, {"key": "1", "image": b""}]),
        "test": Records([{"key": "0", "image": b""}]),
    }
    monkeypatch.setattr(tfds_photos, "find_dataset", lambda name, data_dir: tmp_path)
    monkeypatch.setattr(tfds_photos, "open_tfds", lambda name, data_dir, label_names: splits)
    found, notes = tfds_photos.tfds_photos("birds")
    assert list(found) == ["train"]
    assert notes == ("split test was left out: none of its 1 photos has a label",)
    assert [found["train"].columns[kind][1] for kind in ("class", "taxon_com", "sci")] == ["", "", ""]
    before = found["train"].hash
    (tmp_path / "birds-train.array_record").write_bytes(b"another version")
    assert tfds_photos.tfds_photos("birds")[0]["train"].hash != before
    del splits["train"]
    with pytest.raises(UserError, match="no photo has a label"):
        tfds_photos.tfds_photos("birds")


@pytest.mark.parametrize("ranks", [False, True], ids=["labels", "records"])
def test_a_tfds_dataset_is_measured(tmp_path, photos, ranks):
    if ranks:
        splits = load_recipe("data", "synthetic").source(num_images=40, num_species=4, image_size=16)
        splits = {name: splits[name] for name in ("train", "test")}
        build(splits, tmp_path / "mine", name="mine", console=Console(quiet=True))
    else:
        tfds_labels(tmp_path / "labels" / "1.0.0", Shelf(photos))
    root = tmp_path / ("mine" if ranks else "labels/1.0.0")
    benchmark = load_recipe("evals", "tfds").benchmark(f"tfds:{root}" if ranks else str(root))
    assert benchmark.name == ("tfds_mine" if ranks else "tfds_labels")
    names = [task.name for task in benchmark.tasks]
    assert {"linear_probe", "knn", "zero_shot", "few_shot"} <= set(names)
    assert ("taxonomic" in names) == ranks
    test = benchmark.splits["test"]
    assert test[0]["image"]
    assert test[0]["key"] == test.files[0]
    assert test.hash != benchmark.splits["train"].hash
    findings = measure_tasks(Shades(), benchmark, Settings(resamples=2), cache_folder=None)
    assert {figure.split for figure in findings.figures} >= {"zero_shot", "linear_probe"}
    with pytest.raises(UsageError, match="tfds:NAME"):
        load_recipe("evals", "tfds").benchmark(None)
    with pytest.raises(UsageError, match="not prepared"):
        load_recipe("evals", "tfds").benchmark("tfds:no_such_dataset")
