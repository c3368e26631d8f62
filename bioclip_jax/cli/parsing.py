"""How the commands read their arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tyro

PROGRAM = "bioclip-jax"
CONFIG = "CONFIG: built-in name (bioclip2, organisms) or path of a Python file; NAME:VARIANT for one of a grid."


def parse(target: Callable[..., Any], arguments: Sequence[str], command: str) -> Any:
    """Calls `target` with what the flags say; help and wrong flags end the program."""
    return tyro.cli(target, args=list(arguments), prog=f"{PROGRAM} {command}")


def parse_known(target: Callable[..., Any], arguments: Sequence[str], command: str) -> tuple[Any, list[str]]:
    """Parses what `target` knows and returns the rest, which belongs to a recipe or config."""
    return tyro.cli(target, args=list(arguments), prog=f"{PROGRAM} {command}", return_unknown_args=True)


def split_at_dashes(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """What stands before `--`, and what behind it."""
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:place]), list(arguments[place + 1 :])


def help_of_recipe(arguments: Sequence[str], target: Callable[..., Any], command: str) -> None:
    """Prints a data recipe's own flags where its help is asked for; without a recipe, the command's help."""
    if not arguments or arguments[0] in ("-h", "--help"):
        parse(target, arguments, command)
    if set(arguments) & {"-h", "--help"}:
        from bioclip_jax.pipeline.names import is_recipe
        from bioclip_jax.pipeline.readers import recipe_file
        from bioclip_jax.recipes import load_recipe, recipe_arguments

        if not is_recipe(arguments[0]):
            parse(target, ["--help"], command)
        recipe_arguments(
            load_recipe("data", recipe_file(arguments[0])).source, ["--help"], f"{PROGRAM} {command} {arguments[0]} ..."
        )
