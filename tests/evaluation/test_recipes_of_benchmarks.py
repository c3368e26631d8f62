"""The built-in benchmarks load and say whose data they are."""

import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.benchmark import Benchmark, FewShotTask
from bioclip_jax.pipeline.build import build
from bioclip_jax.recipes import builtin_recipes, load_recipe

pytestmark = pytest.mark.core


@pytest.mark.parametrize("name", [name for name in builtin_recipes("evals") if name != "photo_table"])
def test_a_benchmark_names_data_licence_and_citation(name):
    benchmark = load_recipe("evals", name).benchmark("somewhere")
    assert benchmark.name == name
    assert benchmark.dataset == "somewhere"
    assert benchmark.license
    assert benchmark.citation
    assert set(benchmark.splits) == {"seen", "unseen"}


def test_your_own_photos_are_measured_on_the_splits_that_they_have(tmp_path):
    splits = load_recipe("data", "synthetic").source(num_images=30, num_species=12, image_size=16)
    recipe, quiet = load_recipe("evals", "photo_table"), Console(quiet=True)
    build({name: splits[name] for name in ("train", "test")}, tmp_path / "two", name="mine", console=quiet)
    benchmark = recipe.benchmark(str(tmp_path / "two"))
    assert (benchmark.name, dict(benchmark.splits), benchmark.train_split) == ("mine", {"seen": "test"}, "train")
    build({"train": splits["train"]}, tmp_path / "one", name="mine", console=quiet)
    with pytest.raises(UsageError, match="has the splits train; to measure it needs test or test_unseen"):
        recipe.benchmark(str(tmp_path / "one"))
    with pytest.raises(UsageError, match="needs --root"):
        recipe.benchmark(None)


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
