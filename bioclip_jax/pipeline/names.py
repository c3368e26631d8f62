"""What the name of a dataset stands for: a recipe, or a directory of shards. Nothing is opened."""

from __future__ import annotations

from pathlib import Path

from bioclip_jax.pipeline.storage import is_remote
from bioclip_jax.recipes import builtin_recipes, is_bare_name

TFDS_PREFIX = "tfds:"


def is_recipe(path_or_recipe: str) -> bool:
    """Whether this is a data recipe (a built-in name, tfds:NAME or a Python file) rather than a dataset directory."""
    if path_or_recipe.startswith(TFDS_PREFIX):
        return True
    if is_bare_name(path_or_recipe):
        return path_or_recipe in builtin_recipes("data")
    return path_or_recipe.endswith(".py")


def is_missing(path_or_recipe: str) -> bool:
    """Whether this is a local dataset directory that is not here."""
    local = not is_recipe(path_or_recipe) and not is_remote(path_or_recipe)
    return local and not Path(path_or_recipe).expanduser().exists()
