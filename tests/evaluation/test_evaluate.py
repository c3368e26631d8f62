"""From a model and a benchmark to a results database: what is measured, kept, and said where it cannot be."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Difference, Figure, Prediction, Species
from bioclip_jax.evaluation.run import evaluate
from bioclip_jax.images import ImageError
from bioclip_jax.pipeline.readers import DAMAGED, ShardedSource
from bioclip_jax.pipeline.record import BadRecord

pytestmark = pytest.mark.core


@pytest.fixture
def run(tmp_path, quiet):
    """Evaluates into one database of the test; returns it."""

    def call(model, benchmark, again=False, **settings):
        evaluate(
            model,
            [benchmark],
            tmp_path / "results.sqlite",
            settings=Settings(resamples=50, **settings),
            command="the command",
            console=quiet,
            batch_size=5,
            again=again,
        )
        return tmp_path / "results.sqlite"

    return call


def printed(console) -> str:
    return console.file.getvalue()


def test_every_figure_has_chance_interval_and_counts(run, model, coloured_photos, benchmark_of, quiet):
    path = run(model, benchmark_of(coloured_photos))
    with Results(path) as results:
        ((number, kept),) = results.runs().items()
        figures = results.rows(Figure, number)
        differences = results.rows(Difference, number)
    assert kept.command == "the command"
    assert json.loads(kept.splits)["test_unseen"] == {
        "records": 8,
        "used": 8,
        "unreadable": {},
        "species": 2,
        "in_train": 0,
    }
    species = next(
        f
        for f in figures
        if (f.learner, f.variant, f.split, f.rank, f.metric) == ("model", "sum", "seen", "species", "balanced_accuracy")
    )
    assert (species.value, species.samples, species.classes, species.left_out) == (1.0, 12, 3, 0)
    assert species.clusters == 3
    assert species.chance == pytest.approx(1 / 3)
    for figure in figures:
        if figure.protocol in ("zero_shot", "few_shot"):
            assert 0 <= figure.low <= figure.value <= figure.high <= 1
            assert 0 < figure.chance < 1
    assert {f.variant for f in figures if f.protocol == "zero_shot"} == {
        "mean",
        "sum",
        "prototype",
        "prefix",
        "regression",
    }
    assert {f.variant for f in figures if f.protocol == "few_shot"} == {"1-shot"}
    assert {d.protocol for d in differences} == {"zero_shot", "few_shot", "joint"}
    assert "zero-shot, balanced accuracy" in printed(quiet)
    assert "…" not in printed(quiet), "at 80 columns nothing is cut"


def test_photos_without_a_name_at_a_rank_are_left_out_there_and_counted(
    run, model, coloured_photos, benchmark_of, quiet
):
    path = run(model, benchmark_of(coloured_photos))
    with Results(path) as results:
        predictions = results.rows(Prediction, 1)
        notes = json.loads(results.runs()[1].notes)
    assert "unseen: order is not measured, the split has only one taxon (Corviformes) there" in notes
    assert not [p for p in predictions if p.split == "unseen" and p.rank == "order"]
    genus = [p for p in predictions if (p.learner, p.split, p.rank) == ("model", "unseen", "genus")]
    assert {p.true for p in genus} == {"Corvus", "Carex"}
    assert len(genus) == 8


def test_the_same_again_reads_features_and_keeps_one_run(run, model, coloured_directory, benchmark_of):
    run(model, benchmark_of(coloured_directory))
    photos = sum(model.seen)
    path = run(model, benchmark_of(coloured_directory), again=True)
    assert sum(model.seen) == photos == 38
    with Results(path) as results:
        assert list(results.runs()) == [1]
        figures = len(results.rows(Figure, 1))
    path = run(model, benchmark_of(coloured_directory), method="prefix")
    with Results(path) as results:
        assert len(results.runs()) == 2
        assert len(results.rows(Figure, 1)) == figures


def test_features_of_live_data_are_never_stale(run, model, coloured_photos, benchmark_of, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(coloured_photos, folder)
    run(model, benchmark_of(folder))
    shutil.copy(folder / "test_2_0.png", folder / "test_0_3.png")
    with Results(run(model, benchmark_of(folder))) as results:
        (number,) = results.runs()
        predictions = [p for p in results.rows(Prediction, number) if (p.learner, p.rank) == ("model", "species")]
    assert [p.key for p in predictions if p.true != p.predicted] == ["test_0_3.png"]


def test_damaged_features_are_computed_again_with_a_warning(run, model, coloured_directory, benchmark_of, quiet):
    path = run(model, benchmark_of(coloured_directory))
    for file in (path.parent / "features").iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    photos = sum(model.seen)
    run(model, benchmark_of(coloured_directory), again=True)
    assert sum(model.seen) == 2 * photos
    assert "are damaged (BadZipFile); computing them again" in printed(quiet)


def test_a_shard_that_could_not_be_read_once_is_read_the_next_time(
    run, model, coloured_directory, benchmark_of, monkeypatch
):
    read = ShardedSource.__getitem__

    def damaged(source, index):
        if index == 1:
            raise BadRecord("record 1", f"{DAMAGED}: a block of the disk")
        return read(source, index)

    with monkeypatch.context() as context:
        context.setattr(ShardedSource, "__getitem__", damaged)
        path = run(model, benchmark_of(coloured_directory))
    for _ in range(2):  # the second time it is done
        seen = sum(model.seen)
        run(model, benchmark_of(coloured_directory))
    assert sum(model.seen) == seen
    with Results(path) as results:
        (kept,) = results.runs().values()
    assert all(split["unreadable"] == {} for split in json.loads(kept.splits).values())


def test_unreadable_photos_are_counted_by_reason(run, model, coloured_photos, benchmark_of, tmp_path, quiet):
    folder = tmp_path / "copy"
    shutil.copytree(coloured_photos, folder)
    (folder / "test_0_0.png").write_bytes(b"")
    (folder / "test_0_1.png").write_bytes((folder / "test_0_1.png").read_bytes()[:100])
    path = run(model, benchmark_of(folder))
    with Results(path) as results:
        test = json.loads(results.runs()[1].splits)["test"]
    assert test["records"] == 12
    assert test["used"] == 10
    assert sum(test["unreadable"].values()) == 2
    assert test["unreadable"]["empty"] == 1
    assert "split test: 2 photos could not be used" in printed(quiet)


def test_features_that_are_not_finite_stop_the_run_and_leave_earlier_ones(run, model, coloured_photos, benchmark_of):
    path = run(model, benchmark_of(coloured_photos))
    model.fingerprint = "diverged"
    model.encode_image = lambda images: np.full((len(images), 3), np.nan, np.float32)
    with pytest.raises(UserError, match=r"'colours' gives NaN .* for 5 of 5 inputs \(first: 'test_0_0.png'\)"):
        run(model, benchmark_of(coloured_photos))
    with Results(path) as results:
        assert list(results.runs()) == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"species": "corax", "genus": "Corvus", "kingdom": "A"}, r"only one taxon \(A\)"),
        ({"species": "", "genus": "", "kingdom": ""}, "no photo with a name"),
    ],
    ids=["one class", "no names"],
)
def test_a_benchmark_with_nothing_to_tell_apart_is_one_clear_line(
    run, model, coloured_photos, benchmark_of, tmp_path, change, message
):
    folder = tmp_path / "copy"
    shutil.copytree(coloured_photos, folder)
    blank = {"phylum": "", "class": "", "order": "", "family": "", "common_name": "", **change}
    splits = json.loads((folder / "splits.json").read_text())
    (folder / "splits.json").write_text(
        json.dumps({name: [row | blank for row in rows] for name, rows in splits.items()})
    )
    with pytest.raises(UserError, match=message) as error:
        run(model, benchmark_of(folder))
    assert "\n" not in str(error.value)


def test_a_benchmark_without_photos_or_split_is_one_clear_line(run, model, coloured_photos, benchmark_of, tmp_path):
    (tmp_path / "recipe.py").write_text((coloured_photos / "recipe.py").read_text())
    (tmp_path / "splits.json").write_text('{"train": [], "test": [], "test_unseen": []}')
    with pytest.raises(UserError, match="have no photos"):
        run(model, benchmark_of(tmp_path))
    with pytest.raises(UsageError, match="no split 'validation', only train, test, test_unseen"):
        run(model, benchmark_of(tmp_path, splits={"seen": "validation"}))


def test_an_unseen_split_that_is_empty_is_left_out_with_a_note(
    run, model, coloured_photos, benchmark_of, tmp_path, quiet
):
    folder = tmp_path / "copy"
    shutil.copytree(coloured_photos, folder)
    splits = json.loads((folder / "splits.json").read_text()) | {"test_unseen": []}
    (folder / "splits.json").write_text(json.dumps(splits))
    path = run(model, benchmark_of(folder))
    assert "split test_unseen is empty and was left out" in printed(quiet)
    with Results(path) as results:
        assert {f.split for f in results.rows(Figure, 1)} == {"seen"}


def test_a_limit_takes_a_fixed_choice_of_photos(run, model, coloured_photos, benchmark_of):
    path = run(model, benchmark_of(coloured_photos, max_images=7, max_train_images=9), baseline=False, few_shot=False)
    with Results(path) as results:
        used = {name: split["used"] for name, split in json.loads(results.runs()[1].splits).items()}
        assert used == {"test": 7, "test_unseen": 7, "train": 0}
        assert {f.learner for f in results.rows(Figure, 1)} == {"model"}
    path = run(model, benchmark_of(coloured_photos, max_train_images=9), few_shot=False)
    with Results(path) as results:
        assert json.loads(results.runs()[2].splits)["train"]["used"] == 9


def test_unseen_species_that_training_has_are_counted_and_said(run, model, coloured_photos, benchmark_of, quiet):
    run(model, benchmark_of(coloured_photos, splits={"unseen": "test"}))
    assert "split test: 3 of its 3 unseen species are in train" in printed(quiet)


def test_few_shot_at_a_rank_that_zero_shot_leaves_out(run, model, coloured_photos, benchmark_of):
    with Results(run(model, benchmark_of(coloured_photos, ranks=("class",)))) as results:
        assert {f.rank for f in results.rows(Figure, 1) if f.protocol == "few_shot"} == {"species", "kingdom"}


def test_a_photo_that_only_one_reader_accepts_is_left_out_of_both(run, model, coloured_photos, benchmark_of):
    preprocess, refused = model.preprocess, (coloured_photos / "test_0_0.png").read_bytes()

    def picky(image):
        if image == refused:
            raise ImageError("corrupt")
        return preprocess(image)

    model.preprocess = picky
    with Results(run(model, benchmark_of(coloured_photos))) as results:
        test = json.loads(results.runs()[1].splits)["test"]
    assert test["used"] == 11
    assert sum(test["unreadable"].values()) >= 1


def test_names_that_are_no_text_are_written_all_the_same(run, model, coloured_photos, benchmark_of):
    model.name = "colours\udcff"
    with Results(run(model, benchmark_of(coloured_photos, description="\udc80"))) as results:
        assert results.runs()[1].model == "colours\N{REPLACEMENT CHARACTER}"


def test_a_cache_that_cannot_be_written_stops_nothing(run, model, coloured_directory, benchmark_of, tmp_path, quiet):
    (tmp_path / "features").write_text("in the way")
    run(model, benchmark_of(coloured_directory))
    assert "cannot be kept" in printed(quiet)


def test_temporaries_of_killed_runs_are_removed(tmp_path):
    for name, age in (("old", 7200), ("new", 0)):
        path = tmp_path / f".{name}.npz.1"
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    ArrayCache(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".new.npz.1"]


def test_species_embeddings_are_unit_vectors_with_names(run, model, coloured_photos, benchmark_of):
    path = run(model, benchmark_of(coloured_photos))
    with Results(path) as results:
        rows = results.rows(Species, 1)
    assert {(row.split, row.images) for row in rows} == {("seen", 4), ("unseen", 4)}
    for row in rows:
        assert np.linalg.norm(np.frombuffer(row.embedding, "<f4")) == pytest.approx(1, abs=1e-5)
        assert json.loads(row.taxon)["genus"] in row.label


def test_an_unknown_way_of_making_candidates_is_named():
    with pytest.raises(UsageError, match="'average' is not one of mean, sum, prototype, prefix"):
        Settings(method="average")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"seed": -1}, "seed -1"),
        ({"text_types": ()}, "text types: nothing is not among"),
        ({"text_types": ("taxn",)}, "text types: 'taxn' is not among"),
        ({"rank_text_types": ("x",)}, "rank text types: 'x'"),
        ({"templates": ()}, "templates"),
        ({"resamples": 1}, "resamples 1"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, message):
    with pytest.raises(UsageError, match=message):
        Settings(**setting)
