"""`launch local`: a run, or a sweep, rehearsed on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bioclip_jax.cli.configs import load_configs
from bioclip_jax.cli.parsing import PROGRAM, parse, parse_known
from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError, UserError

COMMAND = "launch local"


@dataclass(frozen=True)
class Flags:
    """Those of the rehearsal itself."""

    work_dir: Path
    """Of the run; of a grid, the folder of its points' work directories."""
    processes: int = 2
    """That train together."""
    devices_per_process: int = 1
    """CPU devices of each."""
    max_restarts: int = 3
    """How often all processes are started again after exit code 42, or a signal, has ended one of them."""
    grace_seconds: float = 120.0
    """Between SIGTERM and SIGKILL."""


def launch_local(arguments: Sequence[str]) -> None:
    """Rehearse a run, or a sweep, on this machine: many processes, restarts as a scheduler makes them."""
    wants_help = bool(set(arguments) & {"-h", "--help"})
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: {PROGRAM} {COMMAND} CONFIG --work-dir PATH [--processes N] [--devices-per-process N]")
        print("           [--max-restarts N] [--grace-seconds S] [fields of the config]\n")
        print("CONFIG: as for `train`; of a grid, all variants are trained, one after the other.")
        print(f"`{PROGRAM} {COMMAND} CONFIG --help` explains the flags, and lists the config's fields.")
        if not wants_help:
            raise UsageError("name a config first")
        raise SystemExit(0)
    name, rest = arguments[0], list(arguments[1:])
    configs = load_configs(name)
    if wants_help:
        _help(name, next(iter(configs.values()), TrainConfig()))
    flags, fields = parse_known(Flags, rest, f"{COMMAND} {name}")

    from bioclip_jax.launching.local import Rehearsal, rehearse
    from bioclip_jax.launching.supervise import Policy
    from bioclip_jax.launching.sweep import points
    from bioclip_jax.pipeline.local_paths import require_local

    require_local(flags.work_dir, "--work-dir")
    configs = with_fields(name, configs, fields)
    code = rehearse(
        points(name, configs, str(flags.work_dir)),
        fields,
        Rehearsal(flags.processes, flags.devices_per_process),
        Policy(flags.max_restarts, flags.grace_seconds),
    )
    if code:
        raise SystemExit(code)


def _help(name: str, base: TrainConfig) -> None:
    def launch_local(
        flags: Annotated[Flags, tyro.conf.arg(name="")],
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = base,
    ) -> None:
        """Train on this machine as a cluster would: many processes, started again when one of them is lost.

        The processes start as in a cluster and exchange by Gloo. They compute on CPU devices, whatever else the machine
        has. Kill one (their process ids are printed), or send SIGTERM to this command, and see that the run goes on.
        It may be continued with other numbers of processes and devices, as long as its batch divides over them.
        """

    parse(launch_local, ["--help"], f"{COMMAND} {name}")


def with_fields(
    name: str, configs: Mapping[str, TrainConfig], fields: Sequence[str], command: str = COMMAND
) -> dict[str, TrainConfig]:
    """The same configs with fields given as flags of a command.

    Raises:
        UserError: a point's fields do not go together; the message names the point.
    """

    def changed(variant: str, base: TrainConfig) -> TrainConfig:
        def fields_of(config: Annotated[TrainConfig, tyro.conf.arg(name="")] = base) -> TrainConfig:
            return config

        try:
            config: TrainConfig = parse(fields_of, fields, f"{command} {name}")
        except UserError as error:
            raise type(error)(f"{name}:{variant}: {error}" if variant else str(error)) from None
        return config

    return {variant: changed(variant, base) for variant, base in configs.items()}
