"""Recipes: one Python file that says what to train (`configs`), what to train on (`data`) or what to measure (`evals`).

A bare name means a built-in recipe, a path means the user's own file; both are loaded the same way. A recipe is code
that the user chose to run; nothing that a run leaves behind (weights, dataset, results) is ever executed.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal, TypeVar

import cloudpickle

from bioclip_jax.errors import UsageError, UserError

Kind = Literal["configs", "data", "evals"]
Result = TypeVar("Result")

REQUIRED_NAMES: Mapping[Kind, tuple[str, ...]] = {
    "configs": ("config", "configs"),
    "data": ("source",),
    "evals": ("benchmark",),
}
"""What a recipe of each kind has to define: one of these names."""

_SINGULAR = {"configs": "config", "data": "data recipe", "evals": "benchmark"}


def load_recipe(kind: Kind, name_or_path: str | os.PathLike[str]) -> ModuleType:
    """Loads a recipe and returns its module; a file that did not change is executed once per process.

    The module stands in `sys.modules` before it is executed, which dataclasses with postponed annotations need, and is
    pickled by value, so that a worker process has it without importing it.

    Args:
      kind: 'configs', 'data' or 'evals'.
      name_or_path: the bare name of a built-in recipe, or the path of a file (anything with a path separator or that
        ends in '.py').

    Raises:
      UsageError: no such recipe, the file does not run, or it does not define what its kind requires.
    """
    path = _recipe_path(kind, os.fspath(name_or_path))
    module = _execute(path, kind)
    if not any(hasattr(module, name) for name in REQUIRED_NAMES[kind]):
        wanted = " or ".join(f"`{name}`" for name in REQUIRED_NAMES[kind])
        raise UsageError(f"{_SINGULAR[kind]} {path} defines no {wanted}; see the built-in ones for the form")
    return module


def is_bare_name(name_or_path: str) -> bool:
    """Whether this names a built-in recipe rather than a file of the user's."""
    separators = [os.sep, "/"] + ([os.altsep] if os.altsep else [])
    return not name_or_path.endswith(".py") and not any(separator in name_or_path for separator in separators)


def builtin_recipes(kind: Kind) -> list[str]:
    """The names of the built-in recipes of a kind, sorted."""
    folder = _builtin_folder(kind)
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def recipe_arguments(function: Callable[..., Any], arguments: Sequence[str], program: str) -> dict[str, Any]:
    """Turns command line flags into the keyword arguments of a recipe's function, by its signature.

    The help text is the function's docstring; its `Args:` section documents each flag. `--help` prints and exits 0, a
    wrong flag exits 2 with a message, both as `SystemExit`.

    Args:
      function: with typed, keyword-only parameters, such as the `source` of a data recipe.
      arguments: the flags, as in `sys.argv`.
      program: what the usage line calls the command, such as 'bioclip-jax data build photo_table'.

    Raises:
      UsageError: the function's signature names a type that does not exist.
    """
    import tyro

    @functools.wraps(function)
    def collect(**values: Any) -> dict[str, Any]:
        return values

    try:
        return tyro.cli(collect, args=list(arguments), prog=program)
    except NameError as error:  # an annotation that names nothing
        where = f"`{function.__name__}` in {inspect.getsourcefile(function)}"
        raise UsageError(f"the parameters of {where} cannot be turned into flags: {_first_line(error)}") from error


def call_recipe(function: Callable[..., Result], arguments: Sequence[str], program: str) -> Result:
    """Calls a recipe's function with command line flags; see `recipe_arguments`."""
    return function(**recipe_arguments(function, arguments, program))


def check_arguments(function: Callable[..., Any], arguments: Mapping[str, Any], recipe: str) -> None:
    """Raises `UsageError` if a recipe's function does not take these keyword arguments, or lacks one it needs."""
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(function).parameters) or "none"
        raise UsageError(
            f"recipe {recipe}: {error}; `{function.__name__}` takes {known}, which a config gives as `arguments`"
        ) from error


def _builtin_folder(kind: Kind) -> Path:
    """The wheel carries the recipes inside the package; a checkout has them beside it."""
    package = Path(__file__).resolve().parent
    installed = package / "_recipes" / kind
    return installed if installed.is_dir() else package.parent / kind


def _recipe_path(kind: Kind, name: str) -> Path:
    if is_bare_name(name):
        if name in builtin_recipes(kind):
            return _builtin_folder(kind) / f"{name}.py"
        names = ", ".join(builtin_recipes(kind)) or "none"
        own = f"; for the file here, write ./{name}.py" if Path(f"{name}.py").is_file() else ""
        raise UsageError(f"no {_SINGULAR[kind]} is called {name!r}; the built-in ones are: {names}{own}")
    path = Path(name).expanduser()
    if path.is_dir():
        raise UsageError(f"{_SINGULAR[kind]} {path} is a directory; give a Python file")
    if not path.is_file():
        raise UsageError(f"{_SINGULAR[kind]} {path}: no such file")
    return path.resolve()


class _UncachedLoader(SourceFileLoader):
    """Compiles the file as it is now, and leaves no `__pycache__` beside a user's file."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _execute(path: Path, kind: Kind) -> ModuleType:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{_SINGULAR[kind]} {path} cannot be read: {error.strerror or error}") from error
    digest = hashlib.sha256(str(path).encode() + b"\0" + content).hexdigest()[:12]
    name = f"bioclip_jax_recipe_{''.join(c if c.isalnum() else '_' for c in path.stem)}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=_UncachedLoader(name, str(path)))
    if spec is None or spec.loader is None:
        raise UsageError(f"{_SINGULAR[kind]} {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if isinstance(error, UserError):
            raise
        line = _line_of(error, path)
        where = f"{path}, line {line}" if line else str(path)
        raise UsageError(f"{_SINGULAR[kind]} {where}: {type(error).__name__}: {_first_line(error)}") from error
    cloudpickle.register_pickle_by_value(module)
    return module


def _line_of(error: BaseException, path: Path) -> int | None:
    """The line of the recipe at which it failed, also when the error was raised deeper down."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno
    line, traceback = None, error.__traceback__
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == str(path):
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line


def _first_line(error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return error.msg
    return next(iter(str(error).splitlines()), "")
