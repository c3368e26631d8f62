"""Which benchmarks a command means: names and paths of recipes, `all`, and where the data of each lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.benchmark import Benchmark
from bioclip_jax.evaluation.task_benchmark import TaskBenchmark
from bioclip_jax.recipes import builtin_recipes, is_bare_name, load_recipe

ALL = "all"
TFDS = "tfds:"
"""Begins the name of what TensorFlow Datasets prepared, which the recipe `tfds` measures."""


@dataclass(frozen=True)
class Suite:
    """Benchmarks, opened."""

    benchmarks: list[Benchmark | TaskBenchmark] = field(default_factory=list)
    failed: dict[str, UserError] = field(default_factory=dict)
    """Those that could not be opened, by name, and why."""


def open_benchmark(recipe: str, root: str | None) -> Benchmark | TaskBenchmark:
    """What the recipe of a name or path returns for the data in `root`.

    Raises:
        UsageError: there is no such recipe, or it returns something else.
        UserError: its data are not as they should be.
    """
    if recipe.startswith(TFDS):
        recipe, root = "tfds", recipe
    try:
        found = load_recipe("evals", recipe).benchmark(root)
    except OSError as error:
        raise refused(error) from error
    if not isinstance(found, Benchmark | TaskBenchmark):
        raise UsageError(
            f"`benchmark` of {recipe} returns a {type(found).__name__}, not a Benchmark or a TaskBenchmark"
        )
    return found


def open_suite(recipes: Sequence[str], root: str | None, say: Callable[[str], None] = lambda line: None) -> Suite:
    """Opens benchmarks; one that cannot be opened does not stop the others.

    Args:
        recipes: names and paths. `all` is every built-in one whose data lie in the folder of its name in `root`.
        root: where the data lie. For several benchmarks, the folder in it that is called as one is that one's.
        say: is given a line for each that `all` leaves out, with where its data come from.

    Raises:
        UsageError: none is named, there is no such recipe, or `all` finds no data.
    """
    if not recipes:
        raise UsageError("name at least one benchmark, such as synthetic, or all")
    suite = Suite()
    several = len(recipes) > 1 or ALL in recipes
    for recipe in dict.fromkeys(name for given in recipes for name in _expanded(given, root, say)):
        name = recipe if is_bare_name(recipe) else Path(recipe).stem
        own = Path(root) / name if root and several else None
        if not recipe.startswith(TFDS):
            load_recipe("evals", recipe)  # one that is not there stops all: it was misspelt
        try:
            suite.benchmarks.append(open_benchmark(recipe, str(own) if own and _is_folder(own) else root))
        except UserError as error:
            if not several:
                raise
            suite.failed[name] = error
    return suite


def refused(error: OSError) -> UserError:
    """What the system refused, such as a folder that nobody may look into, in a line."""
    return UserError(f"{error.filename or 'its data'}: {error.strerror or error}")


def _is_folder(path: Path) -> bool:
    """Not where the system refuses to look."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _expanded(recipe: str, root: str | None, say: Callable[[str], None]) -> list[str]:
    if recipe != ALL:
        return [recipe]
    if root is None:
        raise UsageError("all is every benchmark whose data lie in a folder of its name: say in which with --root")
    there = []
    for name in builtin_recipes("evals"):
        if _is_folder(Path(root) / name):
            there.append(name)
            continue
        try:
            load_recipe("evals", name).benchmark(None)
        except UserError as error:
            say(f"left out: there is no folder {Path(root) / name}: {error}")
    if not there:
        raise UsageError(f"{root} has no folder that is called as a benchmark: {', '.join(builtin_recipes('evals'))}")
    return there
