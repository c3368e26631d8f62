"""Plans for several topologies at once: what is asked, in which order, and what came out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.planning.answer import Answer
from bioclip_jax.planning.compilers import Compilers
from bioclip_jax.planning.inputs import Stream
from bioclip_jax.planning.machine import Machine
from bioclip_jax.planning.plan import Assumptions, Plan, lengths, make_plan
from bioclip_jax.planning.question import Reply, ask_about
from bioclip_jax.planning.search import Tried, search_batch, search_settings

Search = Literal["settings", "batch"]
Left = Callable[[str, int], None]
"""Is told a topology and how many questions about it may still come."""


@dataclasses.dataclass(frozen=True)
class Study:
    """What was found out about a topology."""

    plan: Plan
    """With the settings that were found, where there was a search."""
    tried: Mapping[Search, tuple[Plan, ...]]
    """What a search asked, in its order."""

    def to_json(self) -> dict[str, Any]:
        """Everything, bytes exact."""
        tried = {name: [one.to_json() for one in plans] for name, plans in self.tried.items()}
        return self.plan.to_json() | ({"tried": tried} if tried else {})


@dataclasses.dataclass(frozen=True)
class Failure:
    """A topology about which nothing was found out."""

    topology: str
    error: UserError


def study_all(
    config: TrainConfig,
    machines: Sequence[Machine],
    streams: Mapping[str, Stream],
    compilers: Compilers,
    assumed: Assumptions,
    searches: Sequence[Search] = (),
    left: Left = lambda topology, questions: None,
) -> list[Study | Failure]:
    """A plan for each topology, in their order; as many at a time as the compilers have jobs.

    Args:
        config: of the run.
        machines: of the topologies.
        streams: what is known of the data.
        compilers: to ask.
        assumed: what no compiler says.
        searches: what is looked for, one after the other: settings for the batch, then the largest batch with them.
        left: is told how many questions may still come.
    """
    at_a_time = max(compilers.jobs // max(len(machines), 1), 1)

    def study(machine: Machine) -> Study | Failure:
        asking = _Asking(config, machine, streams, compilers, assumed, at_a_time, left)
        try:
            return asking.study(searches)
        except UserError as error:
            return Failure(machine.topology, error)

    with ThreadPoolExecutor(max_workers=compilers.jobs) as threads:
        try:
            return list(threads.map(study, machines))
        except BaseException:
            compilers.close()  # or the threads would be waited for
            threads.shutdown(cancel_futures=True)
            raise


@dataclasses.dataclass(frozen=True)
class _Asking:
    config: TrainConfig
    machine: Machine
    streams: Mapping[str, Stream]
    compilers: Compilers
    assumed: Assumptions
    at_a_time: int
    left: Left

    def study(self, searches: Sequence[Search]) -> Study:
        if "settings" not in searches:
            check_mesh(self.config, self.machine)
        if "batch" not in searches or "settings" in searches:
            check_divides(self.config, self.machine)
        if self.assumed.prices is not None:
            self.assumed.prices.of(self.machine.chip)  # before minutes are spent
        tokens, config = lengths(self.streams), self.config
        tried: dict[Search, tuple[Plan, ...]] = {}
        if "settings" in searches:
            found, asked = search_settings(config, self.machine, tokens, self._answers, self.at_a_time, self._left)
            tried["settings"], config = self._plans(asked), found or config
        if "batch" in searches:
            largest, asked = search_batch(config, self.machine, self._answers, self._left)
            tried["batch"], config = self._plans(asked), largest or asked[-1].config
        return Study(self._plan(config), tried)

    def _plans(self, asked: Sequence[Tried]) -> tuple[Plan, ...]:
        return tuple(self._plan(one.config) for one in asked)

    def _plan(self, config: TrainConfig) -> Plan:
        return make_plan(config, self.machine, self.streams, self._reply(config), self.assumed)

    def _reply(self, config: TrainConfig) -> Reply:
        return self.compilers.ask(ask_about(config, self.machine.topology, lengths(self.streams)))

    def _answers(self, configs: Sequence[TrainConfig]) -> list[Answer]:
        if len(configs) == 1:
            return [self._reply(configs[0]).answer]
        with ThreadPoolExecutor(max_workers=len(configs)) as threads:
            return [reply.answer for reply in threads.map(self._reply, configs)]

    def _left(self, questions: int) -> None:
        self.left(self.machine.topology, questions)


def check_mesh(config: TrainConfig, machine: Machine) -> None:
    """Raises UsageError where a mesh is not that of a topology's devices, before a compiler is asked."""
    data, fsdp = config.mesh.data, config.mesh.fsdp
    devices, where = machine.devices, f"the {machine.devices} devices of {machine.topology}"
    if fsdp < 1 or devices % fsdp:
        raise UsageError(f"mesh.fsdp is {fsdp}, which does not divide {where}")
    if data not in (-1, devices // fsdp):
        raise UsageError(f"mesh.data {data} x mesh.fsdp {fsdp} is not {where}; -1 takes what is left")


def check_divides(config: TrainConfig, machine: Machine) -> None:
    """Raises UsageError where a batch does not divide over a topology, before a compiler is asked."""
    parts = machine.devices * config.micro_batches
    for name in ("global_batch_size", "replay_batch_size"):
        size = getattr(config, name)
        if size % parts:
            each = f" in {config.micro_batches} micro_batches each" if config.micro_batches > 1 else ""
            near = sorted({size // parts * parts, (size // parts + 1) * parts} - {0})
            raise UsageError(
                f"{name} {size} does not divide over the {machine.devices} devices of {machine.topology}{each}; "
                f"{' or '.join(map(str, near))} would"
            )
