"""The CONFIG argument: a built-in name or a file, with NAME:VARIANT for one of a grid."""

from __future__ import annotations

from collections.abc import Mapping

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError


def load_config(name: str) -> TrainConfig:
    """The config that NAME or NAME:VARIANT means.

    Raises:
        UsageError: no such recipe or variant, or a grid without a variant.
    """
    configs = load_configs(name)
    if len(configs) > 1 or "" not in configs:
        raise UsageError(f"config {name} is a grid; name a variant, as {name}:{next(iter(configs), 'NAME')}")
    return configs[""]


def load_configs(name: str) -> dict[str, TrainConfig]:
    """All configs that a name means, by variant: {'': config} for a single one or a named variant, else the grid.

    Raises:
        UsageError: no such recipe or variant, or something else than configs in it.
    """
    from bioclip_jax.recipes import load_recipe  # `--help` is quick

    recipe, _, variant = name.partition(":")
    module = load_recipe("configs", recipe)
    grid = getattr(module, "configs", {})
    if not isinstance(grid, Mapping) or not all(isinstance(key, str) and key for key in grid):
        raise UsageError(f"config {recipe}: `configs` has to be a dictionary of configs by the names of the variants")
    if variant:
        if variant not in grid:
            raise UsageError(f"config {recipe} has no variant {variant!r}; it has {', '.join(grid) or 'none'}")
        found = {"": grid[variant]}
    else:
        found = {"": module.config} if hasattr(module, "config") else dict(grid)
    for key, config in found.items():
        if not isinstance(config, TrainConfig):
            which = f"{name}:{key}" if key else name
            raise UsageError(f"config {which} is a {type(config).__name__}, not a bioclip_jax.config.TrainConfig")
    return found
