"""What names, paths, `all` and `--root` mean."""

import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation import suite as suite_module
from bioclip_jax.evaluation.suite import open_suite
from bioclip_jax.recipes import builtin_recipes

pytestmark = pytest.mark.core

RECIPE = """
from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.benchmark import Benchmark

def benchmark(root=None):
    if root is None or root.endswith("bad"):
        raise UsageError(f"NAME: no data in {root}; they come from example.org/NAME")
    return Benchmark(name="NAME", description="", license="", citation="", dataset=root)
"""


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """Built-in recipes `birds`, `fungi` and `bad`, as paths, and a root with the data of all but `birds`."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    for name in ("bad", "birds", "fungi"):
        (folder / f"{name}.py").write_text(RECIPE.replace("NAME", name))
    load = suite_module.load_recipe
    monkeypatch.setattr(suite_module, "builtin_recipes", lambda kind: ["bad", "birds", "fungi"])
    monkeypatch.setattr(suite_module, "load_recipe", lambda kind, name: load(kind, folder / f"{name}.py"))
    for name in ("bad", "fungi", "other"):
        (tmp_path / "data" / name).mkdir(parents=True)
    return tmp_path / "data"


def datasets(suite):
    return {benchmark.name: benchmark.dataset for benchmark in suite.benchmarks}


def test_all_takes_what_is_there_and_says_what_is_not_and_where_to_get_it(recipes):
    said = []
    suite = open_suite(["all"], str(recipes), said.append)
    assert datasets(suite) == {"fungi": str(recipes / "fungi")}
    (line,) = said
    assert line.startswith(f"left out: there is no folder {recipes / 'birds'}: birds: no data in None")
    assert "example.org/birds" in line
    assert {name: str(error) for name, error in suite.failed.items()} == {
        "bad": f"bad: no data in {recipes / 'bad'}; they come from example.org/bad"
    }


def test_the_root_is_one_benchmarks_own_and_holds_a_folder_for_each_of_several(recipes):
    assert datasets(open_suite(["fungi"], str(recipes))) == {"fungi": str(recipes)}
    several = open_suite(["fungi", "birds", "fungi"], str(recipes))
    assert datasets(several) == {"fungi": str(recipes / "fungi"), "birds": str(recipes)}


def test_a_single_benchmark_that_cannot_be_opened_is_its_own_error(recipes):
    with pytest.raises(UsageError, match=r"example\.org/bad"):
        open_suite(["bad"], str(recipes / "bad"))


def test_data_that_the_system_refuses_fail_alone(recipes, monkeypatch):
    (recipes.parent / "recipes" / "bad.py").write_text(
        "import os\ndef benchmark(root=None):\n    raise PermissionError(13, 'Permission denied', root)\n"
    )
    suite = open_suite(["bad", "fungi"], str(recipes))
    assert datasets(suite) == {"fungi": str(recipes / "fungi")}
    assert str(suite.failed["bad"]) == f"{recipes / 'bad'}: Permission denied"


def test_a_root_that_the_system_refuses_has_no_folder(recipes):
    with pytest.raises(UsageError, match="has no folder that is called as a benchmark"):
        open_suite(["all"], "x" * 300)


@pytest.mark.parametrize(
    ("names", "root", "message"),
    [
        ([], "x", "name at least one benchmark"),
        (["all"], None, "say in which with --root"),
        (["all"], "nowhere", "nowhere has no folder that is called as a benchmark: .*photo_table"),
        (["organisms", "no_such_benchmark"], "x", "no benchmark is called 'no_such_benchmark'"),
    ],
)
def test_what_cannot_be_meant_is_one_clear_line(names, root, message):
    with pytest.raises(UsageError, match=message) as error:
        open_suite(names, root)
    assert "\n" not in str(error.value)


def test_every_built_in_benchmark_says_in_one_line_what_it_needs():
    said = []
    with pytest.raises(UsageError):
        open_suite(["all"], "nowhere", said.append)
    named = [line.split(":")[1].rsplit("/", 1)[-1] for line in said]
    assert set(named) == set(builtin_recipes("evals")) - {"synthetic"}, "the synthetic tree needs no data"
    assert not [line for line in said if "\n" in line]
