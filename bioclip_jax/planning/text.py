"""Plans for people: a block for each topology, a table of several, a table of what a search tried."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bioclip_jax.planning.answer import Answer, Exchange
from bioclip_jax.planning.plan import Plan, Run
from bioclip_jax.planning.study import Study
from bioclip_jax.planning.work import exchange_seconds

_BAR = 24  # columns of a bar that stands for all memory of a chip
_GIB = 2**30
_LARGEST_EXCHANGES = 4
_DURATIONS = ((86_400.0, "days"), (3_600.0, "hours"), (1.0, "s"), (1e-3, "ms"))
_ADVICE = "--search settings, or batch: what would fit"
_NOTHING = {
    "settings": "more devices, or a smaller batch (--search batch finds one)",
    "batch": "other settings (--search settings batch), more devices, or those with more memory",
}
_SOUGHT = {"settings": "the quickest settings that fit", "batch": "the largest batch that fits"}


def report(studies: Sequence[Study]) -> RenderableType:
    """All that was found out."""
    parts: list[RenderableType] = []
    for study in studies:
        for name, plans in study.tried.items():
            parts.append(tried_table(f"{study.plan.machine.topology}: search for {_SOUGHT[name]}", plans))
            if not any(plan.answer.fits for plan in plans):
                parts += [f"nothing fits: {_NOTHING[name]}", ""]
        parts += [block(study.plan, advice="" if study.tried else _ADVICE), ""]
    if len(studies) > 1:
        parts.append(comparison(studies))
    return Group(*parts)


def block(plan: Plan, advice: str = _ADVICE) -> RenderableType:
    """All about one topology, and where nothing fits the advice what to try."""
    machine, answer = plan.machine, plan.answer
    verdict = "fits" if answer.fits else "does not fit"
    each = "host" if machine.hosts == 1 else "hosts"
    head = Text.assemble(
        (machine.topology, "bold"),
        ": ",
        (verdict, "bold green" if answer.fits else "bold red"),
        f"; {machine.chips:,} chips {machine.chip}, {machine.hosts:,} {each}",
    )
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True)
    rows.add_column(overflow="fold")
    for name, content in [*_asked(plan), *_memory(answer), *(_of_run(plan, plan.run) if plan.run else [])]:
        rows.add_row(name, content)
    if advice and not answer.fits:
        rows.add_row("try", Text(advice))
    return Group(head, Padding(rows, (0, 0, 0, 2)))


def _asked(plan: Plan) -> list[tuple[str, RenderableType]]:
    c, devices = plan.config, plan.machine.devices
    pairs, each = f"{c.global_batch_size:,}", f"{c.global_batch_size // devices:,}"
    if c.replay_batch_size:
        pairs += f" + {c.replay_batch_size:,}"
        each += f" + {c.replay_batch_size // devices:,}"
    captions = "; ".join(f"{name} {stream.tokens} ({stream.why})" for name, stream in plan.streams.items())
    return [
        ("batch", Text(f"{pairs} pairs a step, {each} on each device; tokens: {captions}")),
        ("settings", Text(settings(plan))),
        ("compiled", Text(f"{plan.answer.compiled_for}; in {plan.answer.seconds:.0f} s")),
    ]


def settings(plan: Plan) -> str:
    """What decides memory and speed, in a line."""
    c = plan.config
    parts = [f"mesh {plan.mesh[0]} x {plan.mesh[1]}", f"remat {c.remat_policy}", f"micro_batches {c.micro_batches}"]
    return ", ".join([*parts, "optimizer sharded" if c.mesh.shard_optimizer else "optimizer on every replica"])


def _memory(answer: Answer) -> list[tuple[str, RenderableType]]:
    if answer.memory is None:
        words = f"{gib(answer.needed)} GiB needed of {gib(answer.available)} on each device, by the compiler"
        return [("memory", Text(words))]
    m = answer.memory
    kinds = {
        "parameters": m.parameters,
        "optimizer": m.optimizer,
        "batch": m.batch,
        "activations": m.activations,
        "temporaries": m.temporaries,
        "program": m.code,
    }
    total = f"{gib(m.total)} of {gib(answer.available)} GiB on each device, by the compiler"
    peak = f"; at the same time at most {gib(m.peak)}" if gib(m.peak) < gib(m.total) else ""
    rows: list[tuple[str, RenderableType]] = [("memory", Text(total + peak))]
    for name, size in kinds.items():
        rows.append((f"  {name}", _bar(size, answer.available)))
    rows.append(("  free", _bar(answer.available - m.total, answer.available, mark="-")))
    return rows


def _bar(size: int, whole: int, mark: str = "#") -> Text:
    return Text(f"{gib(size):>8}  {mark * round(_BAR * max(size, 0) / whole)}")


def _of_run(plan: Plan, run: Run) -> list[tuple[str, RenderableType]]:
    answer, machine = plan.answer, plan.machine
    again = run.executed_flops / run.model_flops - 1
    flops = f"{in_units(run.model_flops, 'FLOP')} a step by the mathematics; {100 * again:.0f} % more is computed again"
    seconds = f"{duration(run.step_seconds)}: from {run.step_is[0]} to {run.step_is[1]}"
    rate = f"{spread(run.images_per_second, 'images/s')}, MFU {percent_spread(run.utilization)}"
    days = (86_400 * run.days[0], 86_400 * run.days[1])
    whole = f"{duration(days)} for {plan.config.total_steps:,} steps, {spread(run.chip_hours, 'chip-hours')}"
    rows: list[tuple[str, RenderableType]] = [
        ("exchanges", _exchanges(plan)),
        ("gradients", Text(f"added up in {answer.gradient_dtype}" if answer.gradient_dtype else "not added up")),
        ("FLOPs", Text(flops)),
    ]
    if answer.parts:
        rows.append(("estimate", _parts(answer)))
    if answer.lacks:
        rows.append(("lacks", Text(answer.lacks)))
    rows += [("step", Text(seconds)), ("speed", Text(rate)), ("run", Text(whole))]
    if run.price is not None:
        rows.append(("price", Text(f"{spread(run.price, run.currency)} by the list given")))
    return [*rows, *_inputs(run), ("arithmetic", Text(_arithmetic(answer, machine.chip)))]


def _arithmetic(answer: Answer, chip: str) -> str:
    compiled = "fits, memory, exchanges and gradients" + (", and the estimate by part" if answer.parts else "")
    return (
        f"the compiler says {compiled}; all else is arithmetic with public figures of {chip} (docs/plan.md). Nothing "
        "was run"
    )


def _exchanges(plan: Plan) -> RenderableType:
    """The largest, by kind and network."""
    if not plan.answer.exchanges:
        return Text("none")
    largest = sorted(plan.answer.exchanges, key=lambda each: -exchange_seconds(each, plan.machine))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    for each in largest[:_LARGEST_EXCHANGES]:
        grid.add_row(*_exchange(each, exchange_seconds(each, plan.machine)))
    if rest := largest[_LARGEST_EXCHANGES:]:
        size, time = sum(each.bytes for each in rest), sum(exchange_seconds(each, plan.machine) for each in rest)
        grid.add_row(f"{len(rest)} kinds more", in_units(size, "B"), _milliseconds(time))
    return grid


def _exchange(each: Exchange, seconds: float) -> tuple[str, str, str]:
    what = f"{each.kind} {each.dtype}, {each.network} network, {each.times} times among {each.group}"
    return what, in_units(each.bytes, "B"), _milliseconds(seconds)


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms at best"


def _parts(answer: Answer) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, justify="right")
    for name, (low, high) in sorted(answer.parts.items(), key=lambda part: -part[1][1]):
        grid.add_row(name, spread((1e3 * low, 1e3 * high), "ms"))
    total = [sum(reading[place] for reading in answer.parts.values()) for place in (0, 1)]
    grid.add_row("together, the compiler's estimate", spread((1e3 * total[0], 1e3 * total[1]), "ms"))
    return grid


def _inputs(run: Run) -> list[tuple[str, RenderableType]]:
    i = run.inputs
    decode = (
        f"{i.images_per_second:,.0f} images/s on each host at the shortest step: {i.cores_needed:,} of {i.cores} cores "
        f"at {i.decode_rate:,.0f} each"
    )
    if not i.is_enough:
        decode += "; too few, the devices would wait"
    elif i.threads < i.cores_needed:
        decode += f"; the config decodes with {i.threads}, give data.threads and data.processes"
    how = "measured or given" if i.is_record_size_known else "assumed"
    read = f"{in_units(i.bytes_per_second, 'B/s')} on each host, of records of {i.record_bytes:,.0f} bytes ({how})"
    save = (
        f"{i.checkpoint_bytes:,} bytes, {i.checkpoint_seconds:,.1f} s to write; a grace period of {i.grace_seconds} s "
        "holds one save after another"
    )
    return [("decoding", Text(decode)), ("reading", Text(read)), ("checkpoint", Text(save))]


def comparison(studies: Sequence[Study]) -> Table:
    """Several topologies beside each other."""
    runs = [study.plan.run for study in studies]
    currency = next((run.currency for run in runs if run is not None and run.price is not None), "")
    heads = ["topology", "fits", "GiB of memory", "step, s", "MFU", "days", "chip-hours"]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title="side by side", title_justify="left")
    for head in [*heads, *[f"price, {currency}"] * bool(currency)]:
        _add_column(table, head, is_word=head in ("topology", "fits"))
    for study in studies:
        answer, run = study.plan.answer, study.plan.run
        row = [study.plan.machine.topology, "yes" if answer.fits else "no", _of_available(answer)]
        if run is None:
            table.add_row(*row, *["-"] * (4 + bool(currency)))
            continue
        row += [spread(run.step_seconds), percent_spread(run.utilization), spread(run.days), spread(run.chip_hours)]
        table.add_row(*row, *[spread(run.price) if run.price else "-"] * bool(currency))
    return table


def _add_column(table: Table, head: str, *, is_word: bool) -> None:
    """Narrow terminals break between words, and leave none out."""
    width = max(len(word) for word in head.split())
    table.add_column(head, justify="left" if is_word else "right", no_wrap=is_word, min_width=width)


def tried_table(title: str, plans: Sequence[Plan]) -> Table:
    """What a search asked, in its order."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title, title_justify="left")
    for head in ("pairs", "mesh", "optimizer", "remat", "micro_batches", "fits", "GiB of memory", "step, s"):
        _add_column(table, head, is_word=head in ("optimizer", "remat", "fits"))
    for plan in plans:
        c, answer = plan.config, plan.answer
        pairs = f"{c.global_batch_size:,}" + (f" + {c.replay_batch_size:,}" if c.replay_batch_size else "")
        table.add_row(
            pairs,
            f"{plan.mesh[0]} x {plan.mesh[1]}",
            "sharded" if c.mesh.shard_optimizer else "whole",
            c.remat_policy,
            str(c.micro_batches),
            "yes" if answer.fits else "no",
            _of_available(answer),
            spread(plan.run.step_seconds) if plan.run else "-",
        )
    return table


def _of_available(answer: Answer) -> str:
    needed = answer.needed if answer.memory is None else answer.memory.total
    return f"{gib(needed)} of {gib(answer.available)}"


def gib(size: float) -> str:
    """Bytes in GiB, as 15.75."""
    return f"{size / _GIB:.2f}"


def spread(pair: tuple[float, float], unit: str = "") -> str:
    """From the lower to the higher, as `1.2 to 1.4 s`."""
    low, high = (_digits(value) for value in sorted(pair))
    return (low if low == high else f"{low} to {high}") + (f" {unit}" if unit else "")


def duration(seconds: tuple[float, float]) -> str:
    """In milliseconds, seconds, hours or days, by the longer of the two."""
    longest = max(seconds)
    size, unit = next(one for one in _DURATIONS if longest >= one[0] or one is _DURATIONS[-1])
    return spread((seconds[0] / size, seconds[1] / size), unit)


def percent_spread(pair: tuple[float, float]) -> str:
    """Shares in per cent, as `38 to 45 %`."""
    low, high = (f"{100 * value:.0f}" for value in sorted(pair))
    return f"{low if low == high else f'{low} to {high}'} %"


def _digits(value: float) -> str:
    """Three significant digits, or all before the point."""
    if abs(value) < 1e-3:
        return f"{value:.3g}"
    return f"{value:,.{max(2 - math.floor(math.log10(abs(value))), 0)}f}"


def in_units(number: float, unit: str) -> str:
    """As `52.8 PFLOP`."""
    prefixes = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
    place = min(int(math.log10(max(number, 1)) // 3), len(prefixes) - 1)
    return f"{number / 1000**place:.3g} {prefixes[place]}{unit}"
