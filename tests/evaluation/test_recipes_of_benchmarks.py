"""The built-in benchmarks load, say whose data they are, and read their published layouts in miniature."""

import csv
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.benchmark import Benchmark, FewShotTask
from bioclip_jax.evaluation.published.layouts import LayoutError
from bioclip_jax.pipeline.build import build
from bioclip_jax.recipes import builtin_recipes, load_recipe
from tests.evaluation.miniatures import MINIATURES, Shelf, copy, herbarium19_json, nabirds_archive, recipe

pytestmark = pytest.mark.core

OF_DATASETS = ("organisms", "synthetic", "photo_table")
"""Recipes on dataset directories, whose protocol is that of ranks."""


@pytest.mark.parametrize("name", ["organisms", "synthetic"])
def test_a_benchmark_names_data_licence_and_citation(name):
    benchmark = load_recipe("evals", name).benchmark("somewhere")
    assert benchmark.name == name
    assert benchmark.dataset == "somewhere"
    assert benchmark.license
    assert benchmark.citation
    assert set(benchmark.splits) == {"seen", "unseen"}


def test_every_recipe_has_a_miniature_and_a_line_in_the_docs():
    assert {*MINIATURES, "tfds", *OF_DATASETS} == set(builtin_recipes("evals"))
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert not [name for name in builtin_recipes("evals") if f"| `{name}` |" not in page]


@pytest.mark.parametrize("name", MINIATURES)
def test_a_recipe_reads_its_published_layout(miniatures, name):
    module = load_recipe("evals", name)
    benchmark = module.benchmark(str(miniatures / name))
    assert benchmark.name == ("photos_photo_classes" if name == "photo_classes" else name)
    assert all((benchmark.description, benchmark.license, benchmark.citation, benchmark.source))
    assert f"eval MODEL {name} --root" in module.__doc__
    for word in ("Labels:", "Protocol:", "icence", "itation", "DIR", "nown faults:"):
        assert word in module.__doc__ or name == "photo_classes", word
    for photos in benchmark.splits.values():
        assert len(photos) > 0
        for row in range(len(photos)):
            assert photos[row]["image"]
        assert all(len(values) == len(photos) for values in photos.columns.values())
    with pytest.raises(UsageError, match="--root"):
        module.benchmark(None)


@pytest.mark.parametrize("name", MINIATURES)
def test_a_recipe_refuses_an_empty_folder_with_both_trees(tmp_path, name):
    (tmp_path / "wrong").mkdir()
    with pytest.raises(LayoutError, match="is missing in") as info:
        recipe(name, tmp_path)
    assert "\n" not in str(info.value)
    assert len(info.value.details) >= 4
    assert info.value.details[-1].strip() == "(nothing)"


@pytest.mark.parametrize("name", [name for name in MINIATURES if name not in ("awa2", "herbarium19", "plantdoc")])
def test_a_table_without_its_photos_is_refused(miniatures, tmp_path, name):
    for table in (miniatures / name).glob("*.csv"):
        shutil.copy(table, tmp_path)
    with pytest.raises(LayoutError, match="none of the"):
        recipe(name, tmp_path)


def test_nabirds_is_read_from_its_archive_alone(photos, tmp_path):
    nabirds_archive(tmp_path, Shelf(photos))
    benchmark = recipe("nabirds", tmp_path)
    found = benchmark.splits["test"]
    assert found.columns["class"].tolist()[::7] == ["Oak Titmouse", "Ovenbird", "Snow Goose"]
    assert all(file.startswith("images/08") for file in found.files)
    assert any("the archive's own names" in note for note in benchmark.notes)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(LayoutError, match=r"classes\.txt is missing"):
        recipe("nabirds", tmp_path)


def test_a_download_that_was_unpacked_one_folder_too_deep_is_shown(miniatures, tmp_path):
    copy(miniatures, "newt", tmp_path)
    with pytest.raises(LayoutError, match=r"newt2021_labels\.csv is missing") as info:
        recipe("newt", tmp_path)
    assert "    newt/" in info.value.details
    assert "      newt2021_labels.csv" in info.value.details


def test_several_sets_of_meta_album_may_share_a_folder(miniatures, tmp_path):
    shutil.copytree(miniatures / "fungi" / "val", tmp_path / "set2" / "FNG_Mini" / "val")
    shutil.copytree(miniatures / "fungi", tmp_path / "FNG_Mini", ignore=shutil.ignore_patterns("val"))
    benchmark = recipe("fungi", tmp_path)
    assert benchmark.splits["test"].files[-1] == "set2/FNG_Mini/val/Agaricus impudicus (Rea) Pilát/6.jpg"


def test_fishnet_leaves_out_photos_without_all_labels_and_reads_columns_by_place(miniatures, tmp_path):
    benchmark = recipe("fishnet", miniatures / "fishnet")
    test = benchmark.splits["test"]
    assert test.columns["traits"].shape == (7, 9)
    assert test.columns["traits"][1].tolist() == [1, 1, 0, 1, 0, 0, 1, 0, 0]  # pelagic is 1
    assert "Image_Library/folder0/test_3.jpg" not in test.files
    assert test.taxa[0].species == "Salmo salar"
    assert "test: 1 of 8 photos lack one of the nine labels and were left out" in benchmark.notes
    root = copy(miniatures, "fishnet", tmp_path)
    for split in ("train", "test"):
        path = root / f"{split}.csv"
        path.write_text(path.read_text().replace("Tropical,", "Warm,", 1))
    assert (recipe("fishnet", root).splits["test"].columns["traits"] == test.columns["traits"]).all()
    (root / "test.csv").write_text("a,b\n1,2\n")
    with pytest.raises(LayoutError, match=r"test\.csv has 2 columns"):
        recipe("fishnet", root)


def test_fishnet_keeps_a_photo_whose_first_row_lacks_a_label(miniatures, tmp_path):
    root = copy(miniatures, "fishnet", tmp_path)
    lines = (root / "test.csv").read_text().splitlines()
    again = lines[3].split(",")
    again[18] = ""
    (root / "test.csv").write_text("\n".join([lines[0], ",".join(again), *lines[1:]]) + "\n")
    benchmark, whole = recipe("fishnet", root), recipe("fishnet", miniatures / "fishnet")
    assert sorted(benchmark.splits["test"].files) == sorted(whole.splits["test"].files)
    assert "test: 2 of 9 photos lack one of the nine labels and were left out" in benchmark.notes


def test_a_folder_named_as_a_published_benchmark_is_not_taken_for_it(miniatures, tmp_path):
    shutil.copytree(miniatures / "photo_classes", tmp_path / "fungi")
    assert recipe("photo_classes", tmp_path / "fungi").name == "photos_fungi"


def test_awa2_drops_the_numbers_before_class_names(miniatures, tmp_path):
    benchmark = recipe("awa2", miniatures / "awa2")
    train = benchmark.splits["train"]
    matrix = np.loadtxt(miniatures / "awa2" / "predicate-matrix-binary.txt", dtype=int)
    assert train.columns["class"][5] == "grizzly+bear"
    assert (train.columns["attributes"][5] == matrix[1]).all()
    root = copy(miniatures, "awa2", tmp_path)
    (root / "testclasses.txt").write_text("unicorn\n")
    with pytest.raises(UserError, match=r"a class that classes\.txt lacks: unicorn"):
        recipe("awa2", root)
    (root / "testclasses.txt").write_text("antelope\n")
    with pytest.raises(UserError, match=r"antelope is in trainclasses\.txt and in testclasses\.txt"):
        recipe("awa2", root)
    (root / "predicate-matrix-binary.txt").write_text("0 1\n1 2\n")
    with pytest.raises(UserError, match="2 rows, of unlike length or not one for each of 4 classes"):
        recipe("awa2", root)


def test_herbarium_reads_old_classes_from_either_file(miniatures, photos, tmp_path):
    task = recipe("herbarium19", miniatures / "herbarium19").tasks[0]
    assert task.old_classes == ("3", "0", "1")
    herbarium19_json(tmp_path, Shelf(photos))
    assert recipe("herbarium19", tmp_path).tasks[0] == task
    path = tmp_path / "herbarium_19_class_splits.json"
    for content, message in (
        ('{"Old": [3], "New": [700]}', "lists the class 700, but small-train has 5 class folders"),
        ('{"Old": [3], "New": [3]}', "lists a class twice"),
        ('{"Old": [], "New": [1]}', "0 old classes"),
        ("[1, 2]", "holds list"),
        ("{", "not JSON"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            recipe("herbarium19", tmp_path)
    path.unlink()
    with pytest.raises(LayoutError, match=r"class_splits\.json \(nor herbarium_19_class_splits\.pkl\) is missing"):
        recipe("herbarium19", tmp_path)


def test_herbarium_never_executes_its_pickle(miniatures, tmp_path):
    class Dangerous:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "made",)

    root = copy(miniatures, "herbarium19", tmp_path)
    (root / "herbarium_19_class_splits.pkl").write_bytes(pickle.dumps({"Old": Dangerous(), "New": []}))
    with pytest.raises(UserError, match="is not executed"):
        recipe("herbarium19", root)
    assert not (tmp_path / "made").exists()


def test_newt_keeps_tasks_and_refuses_other_labels(miniatures, tmp_path):
    train = recipe("newt", miniatures / "newt").splits["train"]
    assert set(train.columns["task"].tolist()) == {"fgvc_ravens", "age_eagles"}
    assert train.columns["label"].tolist()[:4] == [0, 1, 0, 1]
    assert train.columns["cluster"][0] == "fgvc"
    root = copy(miniatures, "newt", tmp_path)
    table = root / "newt2021_labels.csv"
    good = table.read_text()
    table.write_text(good.replace("fgvc_ravens_train_0,0,", "fgvc_ravens_train_0,2,"))
    with pytest.raises(UserError, match="labels are 0 or 1, one is '2'"):
        recipe("newt", root)
    table.write_text(good.replace(",train,", ",val,"))
    with pytest.raises(UserError, match="splits are train and test, one is 'val'"):
        recipe("newt", root)
    table.write_text(good.replace("task_subcluster", "x"))
    with pytest.raises(LayoutError, match="has no column task_subcluster"):
        recipe("newt", root)


def test_plantdoc_counts_classes_of_one_folder(miniatures):
    notes = recipe("plantdoc", miniatures / "plantdoc").notes
    assert "1 classes have photos in train but none in test" in notes


def test_your_own_table_needs_no_split_and_no_ranks(miniatures, tmp_path):
    root = copy(miniatures, "photo_classes", tmp_path)
    rows = [(f"images/{file.parent.name}/{file.name}", file.parent.name) for file in sorted(root.rglob("*.jpg"))]
    with (root / "mine.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    benchmark = load_recipe("evals", "photo_classes").benchmark(str(root / "mine.csv"))
    assert benchmark.name == "photos_mine"
    assert list(benchmark.splits) == ["test"]
    assert [task.name for task in benchmark.tasks] == ["zero_shot", "few_shot", "retrieval"]


def test_your_own_photos_are_measured_on_the_splits_that_they_have(tmp_path):
    splits = load_recipe("data", "synthetic").source(num_images=30, num_species=12, image_size=16)
    own, quiet = load_recipe("evals", "photo_table"), Console(quiet=True)
    build({name: splits[name] for name in ("train", "test")}, tmp_path / "two", name="mine", console=quiet)
    benchmark = own.benchmark(str(tmp_path / "two"))
    assert (benchmark.name, dict(benchmark.splits), benchmark.train_split) == ("mine", {"seen": "test"}, "train")
    build({"train": splits["train"]}, tmp_path / "one", name="mine", console=quiet)
    with pytest.raises(UsageError, match="has the splits train; to measure it needs test or test_unseen"):
        own.benchmark(str(tmp_path / "one"))
    with pytest.raises(UsageError, match="needs --root"):
        own.benchmark(None)


def test_photographs_need_their_directory_and_drawings_do_not():
    with pytest.raises(UsageError, match="needs its data"):
        load_recipe("evals", "organisms").benchmark(None)
    assert load_recipe("evals", "synthetic").benchmark(None).dataset == "synthetic"


def test_a_benchmark_that_cannot_be_measured_is_refused():
    values = {"name": "x", "description": "", "license": "", "citation": "", "dataset": "y"}
    with pytest.raises(UsageError, match="tribe"):
        Benchmark(**values, ranks=("tribe",))
    with pytest.raises(UsageError, match="dataset is empty"):
        Benchmark(**{**values, "dataset": ""})
    with pytest.raises(UsageError, match="at least 1"):
        Benchmark(**values, shots=(0,))
    with pytest.raises(UsageError, match="max_images -1"):
        Benchmark(**values, max_images=-1)


def test_leakage_is_refused():
    values = {"name": "x", "description": "", "license": "", "citation": "", "dataset": "y"}
    with pytest.raises(UsageError, match="both train and measured"):
        Benchmark(**values, splits={"seen": "train"})
    with pytest.raises(UsageError, match="none in common"):
        Benchmark(**values, few_shot=(FewShotTask("seen", ("train", "test"), ("test",)),))
