"""`train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bioclip_jax.cli.parsing import PROGRAM, parse
from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError


def train(arguments: Sequence[str]) -> None:
    """Train a model from a config, or continue the run in the work directory."""
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: {PROGRAM} train CONFIG --work-dir PATH [--dry-run] [fields of the config]\n")
        print("CONFIG: built-in name (demo, organisms) or path of a Python file; NAME:VARIANT for one of a grid.")
        print(f"`{PROGRAM} train CONFIG --help` lists the config's fields with their values.")
        if not set(arguments) & {"-h", "--help"}:
            raise UsageError("name a config first")
        return
    base = _config(arguments[0])

    def train(
        work_dir: Path,
        dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = base,
    ) -> None:
        """Train, or continue the run that the work directory holds.

        Args:
            work_dir: where checkpoints, metrics and the config are kept.
            dry_run: print what would be trained, and stop.
            config: fields of the config.
        """
        from bioclip_jax.training.describe import describe
        from bioclip_jax.training.loop import train as run_training

        if dry_run:
            print(describe(config))
            return
        run_training(config, work_dir)

    parse(train, arguments[1:], f"train {arguments[0]}")


def _config(name: str) -> TrainConfig:
    from bioclip_jax.recipes import load_recipe

    recipe, _, variant = name.partition(":")
    module = load_recipe("configs", recipe)
    if variant:
        grid = getattr(module, "configs", {})
        if variant not in grid:
            raise UsageError(f"config {recipe} has no variant {variant!r}; it has {', '.join(grid) or 'none'}")
        config = grid[variant]
    elif hasattr(module, "config"):
        config = module.config
    else:
        raise UsageError(f"config {recipe} is a grid; name a variant, as {recipe}:{next(iter(module.configs), 'NAME')}")
    if not isinstance(config, TrainConfig):
        raise UsageError(f"config {name} is a {type(config).__name__}, not a bioclip_jax.config.TrainConfig")
    return config
