"""What fits: the full training step compiled for TPU slices and GPUs that are not here, at full size.

Writes docs/fits.md from the points listed here, and into docs/plan.md the plan of the published run on three of them.
Needs the compiler for TPUs (pip install 'bioclip-jax[tpu]', x86 Linux)
and the one for GPUs, no such device; for each point that is not known yet one to five minutes and 2 GB of memory. `make
fits` runs all; names of points run those and print them only. Answers are kept where `bioclip-jax plan` keeps its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import io
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from bioclip_jax.config import CLIPConfig, MeshConfig, RematPolicy, TrainConfig
from bioclip_jax.planning.cache import AnswerCache, versions
from bioclip_jax.planning.compilers import Compilers
from bioclip_jax.planning.inputs import Stream
from bioclip_jax.planning.machine import machine_of
from bioclip_jax.planning.plan import Assumptions, Plan, lengths, make_plan
from bioclip_jax.planning.progress import CompileProgress
from bioclip_jax.planning.question import ask_about
from bioclip_jax.planning.study import Study
from bioclip_jax.planning.text import gib, percent_spread, report, spread
from bioclip_jax.planning.topology import parse
from bioclip_jax.recipes import load_recipe

FITS = Path(__file__).parents[2] / "docs" / "fits.md"
PLAN = FITS.with_name("plan.md")
STREAMS = {"bio": Stream(32, "--tokens bio=32"), "replay": Stream(77, "--tokens replay=77")}
PUBLISHED = (90_112, 10_240)
HEAD = (
    "model", "pairs in a step", "devices", "mesh data x fsdp", "remat_policy", "micro_batches", "fits",
    "parameters, moments, batch", "activations", "other temporaries", "together", "at once", "gradients", "step, s",
    "MFU", "compiled in s",
)  # fmt: skip
PRINTED = "```text\n"
TEXT = """\
# What fits

The full training step (bfloat16 towers, float32 weights, AdamW) by the compilers, for devices that were not there:
memory on each device in GiB, as `bioclip-jax plan` answers. [plan.md](plan.md) explains the columns, and what is
compiled and what is arithmetic. *Together* is what has to be there; *at once* what lives at the same time, which can be
less. *Step* and MFU are estimates: on TPUs from the compiler's cycles, on GPUs from an assumed share of the peak.
Captions of organisms have 32 tokens, replay's 77. The optimiser's state is split over all replicas
(`mesh.shard_optimizer`).
"""


@dataclasses.dataclass(frozen=True)
class Point:
    """A question: does this step fit these devices?"""

    topology: str
    model: str
    pairs: tuple[int, int]
    """Of organisms and of replay."""
    remat_policy: RematPolicy
    micro_batches: int = 1
    fsdp: int = 1

    @property
    def name(self) -> str:
        """As on the command line."""
        return f"{self.model}-{sum(self.pairs)}-{self.topology}-{self.remat_policy}"

    @property
    def config(self) -> TrainConfig:
        """The run in question."""
        model = dataclasses.replace(getattr(CLIPConfig, self.model)(), replay_projector=self.pairs[1] > 0)
        return dataclasses.replace(
            load_recipe("configs", "bioclip2").config,
            model=model,
            global_batch_size=self.pairs[0],
            replay_batch_size=self.pairs[1],
            micro_batches=self.micro_batches,
            remat_policy=self.remat_policy,
            mesh=MeshConfig(fsdp=self.fsdp, shard_optimizer=True),
        )

    @property
    def cells(self) -> tuple[str, ...]:
        """The first columns of its row, which say what was asked."""
        chips = parse(self.topology).chips
        pairs = f"{self.pairs[0]:,}" + (f" + {self.pairs[1]:,}" if self.pairs[1] else "")
        where, mesh = f"{self.topology} ({chips} chips)", f"{chips // self.fsdp} x {self.fsdp}"
        return self.model, pairs, where, mesh, self.remat_policy, str(self.micro_batches)


POINTS = (
    Point("v5e-256", "vit_l14", PUBLISHED, "full"),
    Point("v6e-256", "vit_l14", PUBLISHED, "context"),
    Point("v5p-128", "vit_l14", PUBLISHED, "full"),
    Point("v6e-64", "vit_l14", PUBLISHED, "context", micro_batches=8),
    Point("v5e-128", "vit_l14", PUBLISHED, "full", micro_batches=4),
    Point("v5e-256", "vit_l14", (32_768, 0), "mlp"),
    Point("v5e-16", "vit_l14", (32_768, 0), "full", micro_batches=8),
    Point("v5e-256", "vit_h14", (32_768, 0), "context", fsdp=16),
    Point("h100x32", "vit_l14", PUBLISHED, "full", micro_batches=4),
    Point("h200x32", "vit_l14", PUBLISHED, "full"),
)
WORKED = ("v5e-256", "h100x32", "h200x32")
"""Topologies of the plan in docs/plan.md: the published run's points there."""


def answered(point: Point, compilers: Compilers) -> Plan:
    """The compiler's answer and what follows from it."""
    machine = machine_of(parse(point.topology))
    streams = {name: stream for (name, stream), pairs in zip(STREAMS.items(), point.pairs, strict=True) if pairs}
    reply = compilers.ask(ask_about(point.config, machine.topology, lengths(streams)))
    return make_plan(point.config, machine, streams, reply, Assumptions())


def row(point: Point, plan: Plan) -> str:
    """A line of the table."""
    answer, memory, run = plan.answer, plan.answer.memory, plan.run
    cells = [*point.cells, "yes" if answer.fits else f"no: {gib(answer.needed)} of {gib(answer.available)}"]
    sizes = [""] * 5
    if memory is not None:
        state = memory.parameters + memory.optimizer + memory.batch
        sizes = [gib(size) for size in (state, memory.activations, memory.temporaries, memory.total, memory.peak)]
    times = [spread(run.step_seconds), percent_spread(run.utilization)] if run else [""] * 2
    return "| " + " | ".join([*cells, *sizes, answer.gradient_dtype, *times, f"{answer.seconds:.0f}"]) + " |"


def page(rows: list[str]) -> str:
    """The whole of docs/fits.md."""
    return "\n".join([TEXT, written(), "", "| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD), *rows, ""])


def with_plan(text: str, plans: Sequence[Plan]) -> str:
    """docs/plan.md with another printed plan of the published run."""
    console = Console(file=io.StringIO(), width=100)
    console.print(report([Study(plan, {}) for plan in plans]), highlight=False)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    start = text.index(PRINTED) + len(PRINTED)
    end = text.index("```\n", start)
    return text[:start] + f"{written()}\n\n" + "\n".join(lines).strip() + "\n" + text[end:]


def written() -> str:
    """When, where and by what."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    kinds = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"Written by `make fits` on {day}, {platform.machine()}, {os.cpu_count()} cores; {kinds}."


def main() -> None:
    """Answers the points that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(point.name for point in POINTS))
    parser.add_argument("--jobs", type=int, default=max((os.cpu_count() or 1) // 2, 1), help="compilers at a time")
    parser.add_argument("--again", action="store_true", help="compile even what is known")
    flags = parser.parse_args()
    points = [point for point in POINTS if not flags.names or point.name in flags.names]
    progress = CompileProgress(Console(stderr=True))
    compilers = Compilers(AnswerCache(), flags.jobs, progress, again=flags.again)
    with progress, ThreadPoolExecutor(flags.jobs) as threads, compilers:
        plans = list(threads.map(lambda point: answered(point, compilers), points))
    rows = [row(point, plan) for point, plan in zip(points, plans, strict=True)]
    print("\n".join(rows))
    if not flags.names:
        FITS.write_text(page(rows), encoding="utf-8")
        published = {
            point.topology: plan for point, plan in zip(points, plans, strict=True) if point.pairs == PUBLISHED
        }
        text = with_plan(PLAN.read_text(encoding="utf-8"), [published[name] for name in WORKED])
        PLAN.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
