"""What a user gets from `pip install`, and what the project promises about its own files."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import bioclip_jax

pytestmark = pytest.mark.core

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bioclip_jax"
RECIPES = ("configs", "data", "evals", "launch")
COMMAND = Path(sys.executable).parent / "bioclip-jax"


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    finished = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def modules_after(statement: str) -> set[str]:
    return set(run(sys.executable, "-c", f"import sys; {statement}; print(*sys.modules)").split())


def test_help_answers_and_names_every_command():
    text = run(COMMAND, "--help")
    for command in ("data", "train", "eval", "report", "convert"):
        assert re.search(rf"\b{command}\b", text)


def test_import_of_the_package_imports_no_jax():
    assert not {"jax", "jaxlib", "flax"} & modules_after("import bioclip_jax")


def test_conversion_between_formats_of_others_imports_no_jax(tmp_path):
    golden = ROOT / "tests" / "goldens" / "tiny_clip"
    statement = (
        f"from bioclip_jax.cli import main; main(['convert', {str(golden)!r}, {str(tmp_path / 'out')!r}, "
        "'--to', 'hugging_face'])"
    )
    assert not {"jax", "jaxlib", "flax", "torch"} & modules_after(statement)


def test_every_module_imports_where_tensorflow_cannot_be_imported_and_none_needs_pytorch():
    statement = (
        "sys.modules['tensorflow'] = None; import importlib, pkgutil, bioclip_jax; "
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(bioclip_jax.__path__, 'bioclip_jax.')]"
    )
    modules = modules_after(statement)
    assert "bioclip_jax.training.run" in modules
    assert not {"torch", "sklearn"} & modules  # where they are installed


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """The names of the files in the sdist, and in the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    build = "from setuptools import build_meta; import sys; print(getattr(build_meta, sys.argv[1])(sys.argv[2]))"
    # egg_info would otherwise be written into the checkout
    settings = folder / "setup.cfg"
    settings.write_text(f"[egg_info]\negg_base = {folder}\n")
    run("env", f"DIST_EXTRA_CONFIG={settings}", sys.executable, "-c", build, "build_sdist", folder)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        sdist = {name.partition("/")[2] for name in archive.getnames()}
        archive.extractall(folder, filter="data")
    source = next(path for path in folder.glob("bioclip_jax-*") if path.is_dir())
    run(sys.executable, "-c", build, "build_wheel", folder, cwd=source)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        wheel = set(archive.namelist())
    return sdist, wheel


def files_of(folder: Path) -> set[str]:
    """Paths relative to the checkout, caches and hidden files left out."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }


def test_wheel_holds_the_whole_package_and_every_recipe(distributions):
    _, wheel = distributions
    assert files_of(PACKAGE) <= wheel
    recipes = {name for folder in RECIPES for name in files_of(ROOT / folder)}
    assert {"data/synthetic.py", "configs/demo.py"} <= recipes
    assert {f"bioclip_jax/_recipes/{name}" for name in recipes} <= wheel


def test_wheel_installs_nothing_beside_the_package(distributions):
    _, wheel = distributions
    assert {name.partition("/")[0].partition("-")[0] for name in wheel} == {"bioclip_jax"}


def test_sdist_can_be_built_and_tested_elsewhere(distributions):
    sdist, _ = distributions
    assert {
        "LICENSE",
        "CITATION.cff",
        "README.md",
        "Makefile",
        "pyproject.toml",
        "setup.py",
        "constraints.txt",
    } <= sdist
    assert files_of(ROOT / "tests") <= sdist


def test_citation_agrees_with_the_licence_and_the_version():
    assert (ROOT / "LICENSE").read_text().startswith("MIT License")
    citation = (ROOT / "CITATION.cff").read_text()
    assert "license: MIT" in citation
    assert f"version: {bioclip_jax.__version__}\n" in citation


def test_every_package_that_is_imported_is_a_dependency_and_the_other_way_round():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    required, extra = names_in(project["dependencies"]), names_in(extras["torch"] + extras["onnx"] + extras["beam"])
    distributions_of = importlib.metadata.packages_distributions()
    used = {
        name.lower().replace("_", "-")
        for module in imported_modules() - {"bioclip_jax", *sys.stdlib_module_names}
        for name in distributions_of.get(module, [module])  # an extra need not be installed
    }
    tool_of_a_dependency = {"importlib-resources"}
    assert used <= required | extra
    assert extra <= used
    assert required - tool_of_a_dependency <= used


def names_in(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}


def imported_modules() -> set[str]:
    """Top-level names of all that the library and the recipes import."""
    names = set()
    for path in python_files():
        if path.is_relative_to(ROOT / "tests") or path.name == "setup.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module.partition(".")[0])
    return names


def python_files() -> list[Path]:
    folders = (PACKAGE, ROOT / "tests", *(ROOT / folder for folder in RECIPES))
    return [ROOT / "setup.py", *(path for folder in folders for path in sorted(folder.rglob("*.py")))]


def test_no_file_is_longer_than_500_lines_and_no_function_than_80():
    too_long = []
    for path in python_files():
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 500:
            too_long.append(path.name)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 80:
                too_long.append(f"{path.name}: {node.name}")
    assert not too_long


def test_project_speaks_of_no_machine():
    texts = [*python_files(), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.*"), ROOT / "Makefile"]
    machine_path = re.compile(r"(?<![\w.*])/(work|root|tmp)/|\.\.[/]shared")
    found = []
    for path in texts:
        if path.suffix in {".py", ".md", ".toml", ".cff", ".txt", ".in"} or path.name == "Makefile":
            found += [f"{path.name}: {match[0]}" for match in machine_path.finditer(path.read_text(encoding="utf-8"))]
    assert not found


def test_editable_install_reads_the_recipes_of_the_checkout():
    shown = run(
        sys.executable,
        "-c",
        "from bioclip_jax.recipes import load_recipe; print(load_recipe('data', 'synthetic').__file__)",
        cwd=Path(os.sep),
    )
    assert Path(shown.strip()).parent == ROOT / "data"
