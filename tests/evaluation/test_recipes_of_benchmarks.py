"""The built-in benchmarks load and say whose data they are."""

import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.recipes import builtin_recipes, load_recipe

pytestmark = pytest.mark.core


@pytest.mark.parametrize("name", builtin_recipes("evals"))
def test_a_benchmark_names_data_licence_and_citation(name):
    benchmark = load_recipe("evals", name).benchmark("somewhere")
    assert benchmark.name == name
    assert benchmark.dataset == "somewhere"
    assert benchmark.license
    assert benchmark.citation
    assert set(benchmark.splits) == {"seen", "unseen"}


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
