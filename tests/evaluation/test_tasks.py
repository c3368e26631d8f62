"""Published benchmarks: labelled photos in, features kept, every task measured, whatever one of them meets."""

import json
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import bioclip_jax.evaluation.features as features_module
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Figure, Prediction
from bioclip_jax.evaluation.run import evaluate
from bioclip_jax.evaluation.task import Outcome, task_figure
from bioclip_jax.evaluation.task_benchmark import PhotoList, TaskBenchmark
from bioclip_jax.evaluation.tasks.class_zero_shot import ZeroShot
from bioclip_jax.text.taxonomy import Taxon

pytestmark = pytest.mark.core


@dataclass(frozen=True)
class Nearest:
    """Answers with the class of the nearest mean, and looks at what it is given."""

    name: str = "nearest"
    split: str = "test"
    problem: str = ""
    value: float | None = None

    @property
    def splits(self):
        return (self.split,)

    def measure(self, samples, context):
        if self.problem:
            raise UserError(self.problem)
        part = samples[self.split]
        true, names = part.classes("class")
        means = np.stack([part.features[true == c].mean(axis=0) for c in range(len(names))])
        said = np.argmin(((part.features[:, None] - means) ** 2).sum(axis=2), axis=1)
        value = float((said == true).mean()) if self.value is None else self.value
        rows = zip(part.keys, part.clusters("class"), true, said, strict=True)
        return Outcome(
            [
                task_figure(self, "nearest", "paper", "micro_accuracy", value=value, samples=len(part)),
                task_figure(self, "nearest", "paper", "length", value=float(np.linalg.norm(part.features[0]))),
            ],
            [
                Prediction(
                    "model", "nearest", "paper", self.name, "class", k, c, names[t], names[s], float(t == s), None
                )
                for k, c, t, s in rows
            ],
            notes=[f"{self.name}: paper: looks at what it is asked about"],
        )


@pytest.fixture
def published(coloured_photos):
    """A benchmark of the coloured squares, as it would be read from published files."""

    def make(folder=coloured_photos, tasks=(Nearest(),), keep=slice(None), **changes):
        rows = json.loads((coloured_photos / "splits.json").read_text())["train"][keep]
        photos = PhotoList(
            folder,
            tuple(row["key"] for row in rows),
            {"class": np.array([row["species"] for row in rows]), "number": np.arange(len(rows))},
            tuple(Taxon.from_record(row) for row in rows),
        )
        values = {
            "name": "squares",
            "description": "squares",
            "license": "none",
            "citation": "nobody",
            "source": "a test",
            "splits": {"test": photos},
            "tasks": tasks,
            "notes": ("a known fault",),
            **changes,
        }
        return TaskBenchmark(**values)

    return make


class RawModel:
    """The colour model, whose features are not normalised unless that is asked for."""

    def __init__(self, model):
        self._model, self.name, self.fingerprint, self.logit_scale = model, model.name, "raw", model.logit_scale
        self.preprocess, self.encode_text, self.seen = model.preprocess, model.encode_text, model.seen

    def encode_image(self, images, *, normalize=True):
        return self._model.encode_image(images) * (1 if normalize else 3)


@pytest.fixture
def run(tmp_path, quiet):
    def call(model, *benchmarks, settings=Settings(resamples=20), **options):
        evaluate(model, benchmarks, tmp_path / "r.sqlite", settings=settings, console=quiet, batch_size=4, **options)
        return tmp_path / "r.sqlite"

    return call


def printed(console) -> str:
    return console.file.getvalue()


def test_figures_predictions_and_notes_of_tasks_are_kept_and_shown(run, model, published, quiet):
    path = run(RawModel(model), published())
    with Results(path) as results:
        ((number, kept),) = results.runs().items()
        accuracy, length = results.rows(Figure, number)
        predictions = results.rows(Prediction, number)
    assert (accuracy.split, accuracy.protocol, accuracy.value, accuracy.samples) == ("nearest", "nearest", 1.0, 18)
    assert np.isnan(accuracy.low)
    assert np.isnan(accuracy.chance)
    assert length.value == pytest.approx(3), "a task is given features as the projector leaves them"
    assert len(predictions) == 18
    assert {p.cluster for p in predictions} >= {"Corvus corax", "Canis lupus"}
    assert json.loads(kept.splits) == {
        "test": {"records": 18, "used": 18, "unreadable": {}, "species": 3, "in_train": None}
    }
    assert json.loads(kept.notes) == ["squares: a known fault", "nearest: paper: looks at what it is asked about"]
    settings = json.loads(kept.settings)
    assert settings["tasks"]["nearest"][0] == "Nearest"
    assert set(settings) == {"resamples", "seed", "tasks", "source"}, "no setting that tasks do not know"
    for words in ("colours on squares", "note: squares: a known fault", "micro_accuracy"):
        assert words in printed(quiet)


def test_unreadable_photos_are_in_no_figure_but_in_the_denominator_that_is_said(
    run, model, published, coloured_photos, tmp_path, quiet
):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, file in enumerate(published().splits["test"].files):
        if number:
            (folder / file).write_bytes((coloured_photos / file).read_bytes() if number > 2 else b"")
    path = run(model, published(folder))
    with Results(path) as results:
        split = json.loads(results.runs()[1].splits)["test"]
        keys = [p.key for p in results.rows(Prediction, 1)]
    assert (split["records"], split["used"]) == (18, 15)
    assert split["unreadable"] == {"its file is missing": 1, "empty": 2}
    assert keys == list(published().splits["test"].files[3:])
    assert "split test: 3 of 18 photos could not be used" in printed(quiet)
    assert "without a photo" not in printed(quiet), "every class has some"


@pytest.fixture
def copied(coloured_photos, tmp_path):
    """The photos in a folder that a test may change."""
    folder = tmp_path / "photos"
    shutil.copytree(coloured_photos, folder)
    return folder


def test_a_class_without_a_photo_stays_a_candidate_and_is_said(run, model, published, copied):
    photos = published(copied).splits["test"]
    lost = set(photos.columns["class"][:6])
    for file in photos.files[:6]:
        (copied / file).unlink()
    path = run(model, published(copied, tasks=(ZeroShot("zero_shot", "test", templates=1),)))
    with Results(path) as results:
        figure = results.rows(Figure, 1)[0]
        notes = json.loads(results.runs()[1].notes)
    assert (figure.classes, figure.samples, figure.chance) == (3, 12, pytest.approx(1 / 3))
    assert lost == {"corax"}
    assert "split test: without a photo that can be used: 1 of 3 classes in 'class', 1 of 3 species" in notes


def test_a_photo_of_the_same_size_in_the_place_of_another_is_encoded(run, model, published, copied):
    run(model, published(copied))
    file = copied / published().splits["test"].files[0]
    os.utime(file, ns=(1, 1))
    path = run(model, published(copied))
    assert sum(model.seen) == 36
    with Results(path) as results:
        assert len(results.runs()) == 2


def test_a_photo_that_could_not_be_read_once_is_read_the_next_time(run, model, published, copied, monkeypatch):
    files = published().splits["test"].files
    (copied / files[0]).unlink()
    read = Path.read_bytes

    def stale(path):
        if path.name == files[1]:
            raise OSError(116, "Stale file handle")
        return read(path)

    with monkeypatch.context() as context:
        context.setattr(Path, "read_bytes", stale)
        path = run(model, published(copied))
    run(model, published(copied))
    with Results(path) as results:
        (kept,) = results.runs().values()
        assert json.loads(kept.splits)["test"]["unreadable"] == {"its file is missing": 1}
    seen = sum(model.seen)
    run(model, published(copied), again=True)
    assert sum(model.seen) == seen, "that one is missing is known from its folder and kept"


def test_photos_are_encoded_once_whatever_split_and_benchmark_list_them(run, model, published, copied, monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK", 3)
    photos = published(copied).splits["test"]
    run(model, published(copied))
    other = published(name="other", splits={"pool": photos}, tasks=(Nearest(split="pool"),))
    path = run(model, other)
    assert sum(model.seen) == 18
    shutil.copy(copied / photos.files[0], copied / "0.png")
    label = {"class": np.array(["corax", *photos.columns["class"]])}
    run(model, published(splits={"test": PhotoList(copied, ("0.png", *photos.files), label)}))
    assert 18 < sum(model.seen) <= 18 + 1 + 6, "one file more changes one chunk"
    with Results(path) as results:
        values = [results.rows(Figure, number)[0].value for number in results.runs()]
        keys = [[p.key for p in results.rows(Prediction, number)] for number in results.runs()]
    assert values == [1.0] * 3, "features stand beside the labels of their own photos"
    assert keys == [list(photos.files), list(photos.files), ["0.png", *photos.files]]


def test_files_of_two_data_sets_that_agree_in_all_but_what_is_in_them_are_told_apart(run, model, published, tmp_path):
    values = []
    for name, colour in (("red", (220, 30, 30)), ("green", (30, 200, 40))):
        (tmp_path / name).mkdir()
        Image.new("RGB", (12, 12), colour).save(tmp_path / name / "a.bmp")
        os.utime(tmp_path / name / "a.bmp", ns=(1, 1))
        photos = PhotoList(tmp_path / name, ("a.bmp",), {"class": np.array(["corax"])})
        path = run(RawModel(model), published(name=name, splits={"test": photos}))
        values.append(sum(model.seen))
    assert values == [1, 2]
    with Results(path) as results:
        assert len({run.dataset_hash for run in results.runs().values()}) == 1


def test_flags_that_tasks_do_not_know_are_said(run, model, published, quiet):
    run(model, published())
    assert "cannot change" not in printed(quiet)
    run(model, published(), settings=Settings(resamples=20, few_shot=False, templates=("{}",)))
    line = "note: --templates, --no-few-shot cannot change the protocols of published tasks: squares"
    assert printed(quiet).replace("\n", " ").count(line) == 1


def test_a_name_that_the_system_refuses_is_a_missing_photo(run, model, published, coloured_photos):
    photos = published().splits["test"]
    files = ("x" * 300 + ".jpg", *photos.files)
    other = PhotoList(coloured_photos, files, {"class": np.array(["corax", *photos.columns["class"]])})
    path = run(model, published(splits={"test": other}))
    with Results(path) as results:
        split = json.loads(results.runs()[1].splits)["test"]
    assert (split["used"], sum(split["unreadable"].values())) == (18, 1)


def test_what_the_system_refuses_stops_one_benchmark_alone(run, model, published, quiet, monkeypatch):
    class Refused(PhotoList):
        @property
        def hash(self):
            raise PermissionError(13, "Permission denied", "/data/closed")

    bad = published(name="bad", splits={"test": Refused(Path(), ())})
    with pytest.raises(UserError, match="1 of 2 benchmarks could not be measured: bad"):
        run(model, bad, published())
    assert "bad cannot be measured: /data/closed: Permission denied" in printed(quiet)
    assert "colours on squares" in printed(quiet)


def test_a_task_that_cannot_be_measured_stops_no_other(run, model, published, quiet):
    empty = PhotoList(published().splits["test"].root, ())
    splits = {"test": published().splits["test"], "none": empty}
    tasks = (Nearest("bad", problem="too few photos"), Nearest("nan", value=float("nan")), Nearest("other", "none"))
    path = run(model, published(splits=splits, tasks=(*tasks, Nearest())))
    with Results(path) as results:
        assert {f.split for f in results.rows(Figure, 1) if f.metric == "micro_accuracy"} == {"nearest"}
        notes = json.loads(results.runs()[1].notes)
    for note in (
        "bad: not measured: too few photos",
        "nan: paper: micro_accuracy of class is not a number and was left out",
        "other: not measured, split none has no photo that can be used",
        "split none is empty",
    ):
        assert note in notes
    with pytest.raises(UserError, match=r"squares: nothing can be measured; .*too few photos"):
        run(model, published(tasks=tasks[:1]))
    assert "normalised features only" in printed(quiet)


def test_a_killed_run_goes_on_in_the_middle_of_a_split(run, model, published, monkeypatch):
    monkeypatch.setattr(features_module, "CHUNK", 4)
    encode = model.encode_image

    def killed(images):
        if sum(model.seen) >= 12:
            raise KeyboardInterrupt
        return encode(images)

    model.encode_image = killed
    with pytest.raises(KeyboardInterrupt):
        run(model, published())
    first = sum(model.seen)
    model.encode_image = encode
    run(model, published())
    assert first < 18
    assert 18 <= sum(model.seen) <= 18 + 8, "at most the chunk that was begun is begun again"


def test_only_what_features_depend_on_makes_them_anew(run, model, published):
    run(model, published())
    photos = sum(model.seen)
    labels = published().splits["test"]
    other = replace(labels, columns={"class": np.roll(labels.columns["class"], 1)})
    path = run(model, published(splits={"test": other}))
    run(model, published(tasks=(Nearest(), Nearest("again"))))
    assert sum(model.seen) == photos
    with Results(path) as results:
        assert len(results.runs()) == 3, "labels and tasks are part of what a run is"
    run(model, published(keep=slice(4)))
    assert sum(model.seen) == photos + 4


def test_what_was_measured_is_shown_and_not_measured_again(run, model, published, quiet):
    path = run(model, published())
    with Results(path) as results:
        first = results.runs()[1].started
    shown = printed(quiet).count("colours on squares")
    run(model, published())
    assert f"squares: measured {first}" in printed(quiet)
    assert printed(quiet).count("colours on squares") == shown + 1
    run(model, published(), again=True)
    with Results(path) as results:
        ((_, kept),) = results.runs().items()
    assert kept.started > first


def test_one_benchmark_that_fails_does_not_stop_the_suite(run, model, published, quiet):
    bad = published(name="bad", tasks=(Nearest(problem="too few"),))
    with pytest.raises(UserError, match="2 of 3 benchmarks could not be measured: gone, bad") as error:
        run(model, bad, published(), failed={"gone": UsageError("no such folder [here]")})
    assert error.value.exit_code == 1
    assert "gone cannot be measured: no such folder [here]" in printed(quiet)
    assert "bad cannot be measured: benchmark bad: nothing can be measured" in printed(quiet)
    assert "colours on squares" in printed(quiet)


def test_features_that_are_not_finite_name_the_photo(run, model, published):
    model.encode_image = lambda images: np.where(np.arange(len(images))[:, None] == 1, np.nan, np.ones((1, 3)))
    second = published().splits["test"].files[1]
    with pytest.raises(UserError, match=rf"NaN or infinite features .*first: '{second}'"):
        run(model, published())


def test_labels_that_disagree_with_the_photos_are_refused(tmp_path):
    with pytest.raises(UserError, match="there are 2 photos but 3 labels in 'class'"):
        PhotoList(tmp_path, ("a", "b"), {"class": np.array(["x", "y", "z"])})
    with pytest.raises(UserError, match="2 photos but 1 labels in 'taxa'"):
        PhotoList(tmp_path, ("a", "b"), taxa=(Taxon(),))
