"""`train`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from bioclip_jax.cli.configs import load_config
from bioclip_jax.cli.parsing import CONFIG, PROGRAM, parse
from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError


def train(arguments: Sequence[str]) -> None:
    """Train a model from a config, or continue the run in the work directory."""
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: {PROGRAM} train CONFIG --work-dir PATH [--dry-run] [fields of the config]\n")
        print(CONFIG)
        print(f"`{PROGRAM} train CONFIG --help` lists the config's fields with their values.")
        if not set(arguments) & {"-h", "--help"}:
            raise UsageError("name a config first")
        return
    base = load_config(arguments[0])

    def train(
        work_dir: Path | None = None,
        dry_run: tyro.conf.FlagCreatePairsOff[bool] = False,
        profile_steps: str | None = None,
        coordinator: str | None = None,
        num_processes: int | None = None,
        process_id: int | None = None,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = base,
    ) -> None:
        """Train, or continue the run that the work directory holds.

        Args:
            work_dir: where checkpoints, metrics and the config are kept; only a dry run needs none.
            dry_run: print what would be trained, and stop.
            profile_steps: FIRST:COUNT of steps (from 0) whose profile is written to profile/ in the work directory.
            coordinator: HOST:PORT at which process 0 of several listens; SLURM and TPU slices need no such flags.
            num_processes: how many processes train together.
            process_id: which of them this is, from 0.
            config: fields of the config.
        """
        from bioclip_jax.pipeline.local_paths import require_local

        require_local(work_dir, "--work-dir")  # before what takes seconds to import
        from bioclip_jax.parallel import distributed
        from bioclip_jax.training.describe import describe
        from bioclip_jax.training.profiling import parse_steps
        from bioclip_jax.training.run import train as run_training

        if dry_run:
            print(describe(config))
            return
        if work_dir is None:
            raise UsageError("name a folder for the run with --work-dir, or ask for its plan with --dry-run")
        profiled = parse_steps(profile_steps)
        place = distributed.place_of(coordinator, num_processes, process_id)
        distributed.start(place, None if place else distributed.cluster_of())
        try:
            run_training(config, work_dir, profile_steps=profiled)
        finally:
            distributed.stop()

    parse(train, arguments[1:], f"train {arguments[0]}")
