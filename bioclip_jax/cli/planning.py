"""`plan`."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bioclip_jax.cli.configs import load_config
from bioclip_jax.cli.parsing import CONFIG, PROGRAM, parse
from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError

if TYPE_CHECKING:
    from bioclip_jax.planning.plan import Assumptions
    from bioclip_jax.planning.study import Failure, Study

_FILE_WIDTH = 100  # columns where output is no terminal
_MOST_DIGITS = 9  # Python refuses to read numbers of thousands


def plan(arguments: Sequence[str]) -> None:
    """Say whether a config fits TPU slices or GPUs that are not here, how long it takes there, what it costs."""
    if not arguments or arguments[0].startswith("-"):
        print(f"usage: {PROGRAM} plan CONFIG --topology NAME... [--search settings batch] [fields of the config]\n")
        print(CONFIG)
        print("Topologies: v5e-256 or v5e:16x16, v5p-128, v6e-64, h100x32; 2xv5e-256 for two slices.")
        print(f"`{PROGRAM} plan CONFIG --help` lists all flags, with the config's fields and their values.")
        if not set(arguments) & {"-h", "--help"}:
            raise UsageError("name a config first")
        return
    base = load_config(arguments[0])

    def plan(
        topology: tuple[str, ...],
        tokens: tuple[str, ...] = (),
        search: tuple[Literal["settings", "batch"], ...] = (),
        prices: Path | None = None,
        decode_rate: float | None = None,
        record_bytes: float | None = None,
        storage_rate: float | None = None,
        utilization: tuple[float, float] | None = None,
        json_file: Annotated[str | None, tyro.conf.arg(name="json", metavar="FILE|-")] = None,
        jobs: int | None = None,
        again: tyro.conf.FlagCreatePairsOff[bool] = False,
        config: Annotated[TrainConfig, tyro.conf.arg(name="")] = base,
    ) -> None:
        """Compile the config's step for devices that are not here, and say what that means for the whole run.

        A minute or more for each topology, once: answers are kept in the user's cache folder. docs/plan.md explains
        what is printed.

        Args:
            topology: where to run, as v5e-256, v5p-128, 2xv6e-64 (two slices) or h100x32; several are compared.
            tokens: longest captions of the streams, as bio=32 replay=77, where the data are not here to say it.
            search: settings: the quickest remat policy, sharding and micro-batches with which the batch fits. batch:
                the largest batch that fits with the config's settings, or with those that were found.
            prices: YAML file of yours: `currency: USD` and lines as `v5e: 1.5`, per chip and hour.
            decode_rate: images/s that one core of a host decodes.
            record_bytes: mean size of a record on disk, where no manifest is here to say it.
            storage_rate: bytes/s at which a checkpoint is written.
            utilization: share of the peak, lowest and highest, that GPUs are assumed to reach.
            json_file: also write everything there, bytes exact; - writes it to standard output, and nothing else.
            jobs: compilers at a time, each with two or three GB of memory; half of the cores if not given.
            again: compile even what is known.
            config: fields of the config.
        """
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # a plan takes no device, even where there is one
        request = _Request(topology, search, json_file, jobs, again)
        _plan(
            config,
            request,
            _lengths(tokens),
            _assumptions(decode_rate, record_bytes, storage_rate, utilization, prices),
        )

    parse(plan, arguments[1:], f"plan {arguments[0]}")


@dataclass(frozen=True)
class _Request:
    topologies: tuple[str, ...]
    search: tuple[Literal["settings", "batch"], ...]
    json_file: str | None
    jobs: int | None
    again: bool


def _plan(config: TrainConfig, request: _Request, tokens: Mapping[str, int], assumed: Assumptions) -> None:
    from rich.console import Console

    from bioclip_jax.planning.cache import AnswerCache
    from bioclip_jax.planning.compilers import Compilers
    from bioclip_jax.planning.inputs import streams_of
    from bioclip_jax.planning.machine import machine_of
    from bioclip_jax.planning.progress import CompileProgress
    from bioclip_jax.planning.study import study_all
    from bioclip_jax.planning.topology import parse as parse_topology

    if not request.topologies:
        raise UsageError("--topology is empty; name one, as v5e-256 or h100x32")
    machines = [machine_of(parse_topology(name)) for name in dict.fromkeys(request.topologies)]
    _check_json_file(request.json_file)
    streams = streams_of(config, tokens)
    jobs = max((os.cpu_count() or 1) // 2, 1) if request.jobs is None else request.jobs
    progress = CompileProgress(Console(stderr=True))
    with progress, Compilers(AnswerCache(), jobs, progress, again=request.again) as compilers:
        found = study_all(config, machines, streams, compilers, assumed, request.search, progress.left)
    _show(found, request.json_file)


def _check_json_file(name: str | None) -> None:
    """Before minutes are spent."""
    if name is None or name == "-":
        return
    if not name or Path(name).is_dir():
        raise UsageError(f"--json {name or repr(name)} is a folder; give a file's name, or - for standard output")
    if not Path(name).absolute().parent.is_dir():
        raise UsageError(f"--json {name}: there is no such folder")


def _show(found: Sequence[Study | Failure], json_file: str | None) -> None:
    from bioclip_jax.planning.study import Failure, Study

    studies = [one for one in found if isinstance(one, Study)]
    failures = [one for one in found if isinstance(one, Failure)]
    content = json.dumps([study.to_json() for study in studies], indent=1)
    if json_file == "-":
        print(content)
    elif studies:
        _print(studies)
    if json_file not in (None, "-"):
        Path(str(json_file)).write_text(content + "\n", encoding="utf-8")
    for failure in failures[:-1]:
        print(f"error: {failure.error}", file=sys.stderr)
    if failures:
        raise failures[-1].error


def _print(studies: Sequence[Study]) -> None:
    from rich.console import Console

    from bioclip_jax.planning.text import report

    if sys.stdout.isatty():
        Console().print(report(studies), highlight=False)
        return
    console = Console(file=io.StringIO(), width=_FILE_WIDTH)
    console.print(report(studies), highlight=False)
    for line in console.file.getvalue().splitlines():  # type: ignore[attr-defined]
        print(line.rstrip())


def _assumptions(
    decode_rate: float | None,
    record_bytes: float | None,
    storage_rate: float | None,
    utilization: tuple[float, float] | None,
    prices: Path | None,
) -> Assumptions:
    """What is given, and defaults for the rest; they are not in the signature, so that help need not import them."""
    from bioclip_jax.planning import inputs, work
    from bioclip_jax.planning.machine import chip_names
    from bioclip_jax.planning.plan import Assumptions
    from bioclip_jax.planning.price import read_prices

    if utilization is not None and not 0 < utilization[0] <= utilization[1] <= 1:
        low, high = utilization
        raise UsageError(f"--utilization is {low:g} {high:g}; give two rising shares above 0, at most 1, as 0.35 0.6")
    rates = inputs.Rates(
        inputs.DECODE_RATE if decode_rate is None else decode_rate,
        record_bytes,
        inputs.STORAGE_RATE if storage_rate is None else storage_rate,
    )
    list_ = None if prices is None else read_prices(prices, chip_names())
    return Assumptions(rates, utilization or work.UTILIZATION, list_)


def _lengths(tokens: Sequence[str]) -> dict[str, int]:
    lengths = {}
    for one in tokens:
        name, _, length = one.partition("=")
        if not length.isascii() or not length.isdigit() or not name or len(length) > _MOST_DIGITS:
            raise UsageError(f"--tokens {one}: expected a stream and a number, as bio=32 or replay=77")
        if name in lengths:
            raise UsageError(f"--tokens {one}: {name} stands there twice")
        lengths[name] = int(length)
    return lengths
