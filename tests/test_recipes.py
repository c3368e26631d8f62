import pickle
import subprocess
import sys

import cloudpickle
import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.recipes import builtin_recipes, call_recipe, load_recipe, recipe_arguments

pytestmark = pytest.mark.core

RECIPE = """
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path

@dataclass(frozen=True)
class Numbers:
    count: int

def source(*, count: int = 3, table: Path | None = None) -> dict[str, Numbers]:
    '''Counts.

    Args:
      count: how many numbers there are.
    '''
    return {"train": Numbers(count)}
"""


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and returns its path."""

    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


def test_built_in_recipes_are_found_by_bare_name():
    assert "photo_table" in builtin_recipes("data")
    assert load_recipe("data", "photo_table").source.__doc__


def test_a_users_file_is_a_recipe_and_dataclasses_in_it_work(recipe):
    module = load_recipe("data", recipe(RECIPE))
    assert module.source(count=4)["train"] == module.Numbers(4)


def test_an_unchanged_file_is_executed_once_and_a_changed_one_again(recipe):
    first = load_recipe("data", recipe(RECIPE))
    assert load_recipe("data", recipe(RECIPE)) is first
    assert load_recipe("data", recipe(RECIPE.replace("= 3", "= 4"))).source()["train"].count == 4
    assert first.source()["train"].count == 3


def test_no_bytecode_is_left_beside_a_users_file(recipe, tmp_path):
    load_recipe("data", recipe(RECIPE))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_what_a_recipe_makes_is_pickled_by_value(recipe, tmp_path):
    path = recipe(RECIPE)
    pickled = tmp_path / "pickled"
    pickled.write_bytes(cloudpickle.dumps(load_recipe("data", path).source(count=5)))
    path.unlink()
    program = f"import pickle; print(pickle.load(open({str(pickled)!r}, 'rb'))['train'].count)"
    worker = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert worker.stdout == "5\n"
    assert pickle.loads(pickled.read_bytes())["train"].count == 5  # noqa: S301


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = 1 / 0\n", r"mine\.py, line 2: ZeroDivisionError: division by zero"),
        ("x = 1\ndef source(:\n", r"mine\.py, line 2: SyntaxError"),
        ("import nothing_of_this_name\n", r"line 1: ModuleNotFoundError: No module named"),
        ("import json\n\njson.loads('{')\n", r"line 3: JSONDecodeError"),
        ("raise SystemExit('a\\nb')\n", r"line 1: SystemExit: a$"),
        ("x = 1\n", r"defines no `source`"),
        ("\0", r"mine\.py: SyntaxError"),
    ],
)
def test_a_recipe_that_does_not_run_is_one_line_with_file_and_place(recipe, text, message):
    path = recipe(text)
    for _ in range(2):
        with pytest.raises(UsageError, match=message) as caught:
            load_recipe("data", path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing_like_it", "no data recipe is called 'nothing_like_it'; the built-in ones are: .*photo_table"),
        ("./nothing.py", "no such file"),
        ("folder/", "is a directory"),
        ("mine", r"for the file here, write \./mine\.py"),
    ],
)
def test_a_recipe_that_is_not_there_says_what_is(recipe, tmp_path, monkeypatch, name, message):
    recipe(RECIPE)
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        load_recipe("data", name)


def test_configs_may_define_one_or_a_grid(recipe):
    assert load_recipe("configs", recipe("config = 1\n", "one.py")).config == 1
    assert load_recipe("configs", recipe("configs = {}\n", "grid.py")).configs == {}
    with pytest.raises(UsageError, match="`config` or `configs`"):
        load_recipe("configs", recipe(RECIPE))
    with pytest.raises(UsageError, match="`benchmark`"):
        load_recipe("evals", recipe(RECIPE))


def test_flags_are_those_of_the_signature(recipe, tmp_path):
    source = load_recipe("data", recipe(RECIPE)).source
    arguments = recipe_arguments(source, ["--count", "7", "--table", "a.csv"], "program")
    assert arguments == {"count": 7, "table": tmp_path.__class__("a.csv")}
    assert call_recipe(source, ["--count", "7"], "program")["train"].count == 7


def test_wrong_flags_exit_2_and_help_exits_0(recipe, capsys):
    source = load_recipe("data", recipe(RECIPE)).source
    for flags in (["--count", "many"], ["--colour", "red"], ["stray"]):
        with pytest.raises(SystemExit) as caught:
            recipe_arguments(source, flags, "program")
        assert caught.value.code == 2
    assert "--colour" in capsys.readouterr().err
    with pytest.raises(SystemExit) as caught:
        recipe_arguments(source, ["--help"], "bioclip-jax data build mine")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "bioclip-jax data build mine" in shown
    assert "how many numbers there are" in shown


def test_an_error_inside_the_recipe_is_not_mistaken_for_a_wrong_flag(recipe):
    source = load_recipe("data", recipe("def source(*, count: int = 1): raise ValueError('inside')")).source
    with pytest.raises(ValueError, match="inside"):
        call_recipe(source, [], "program")


def test_an_annotation_that_names_nothing_is_a_usage_error(recipe):
    text = "from __future__ import annotations\ndef source(*, count: Nothing = 1): ...\n"
    with pytest.raises(UsageError, match=r"`source` in .*mine\.py.*Nothing"):
        recipe_arguments(load_recipe("data", recipe(text)).source, [], "program")
