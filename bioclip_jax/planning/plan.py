"""A plan: the compiler's answer about a step, and what follows from it for a whole run by arithmetic."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from bioclip_jax.config import TrainConfig
from bioclip_jax.config_json import to_json
from bioclip_jax.models.flops import step_flops
from bioclip_jax.planning.answer import Answer
from bioclip_jax.planning.inputs import Inputs, Rates, Stream, inputs_of
from bioclip_jax.planning.machine import Machine
from bioclip_jax.planning.price import Prices
from bioclip_jax.planning.question import Reply
from bioclip_jax.planning.work import UTILIZATION, exchanges_seconds, executed_flops, step_time

_DAY = 86_400.0
_HOUR = 3_600.0


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What no compiler says."""

    rates: Rates = dataclasses.field(default_factory=Rates)
    utilization: tuple[float, float] = UTILIZATION
    """Share of the peak, lowest and highest, where the compiler estimates no time."""
    prices: Prices | None = None


@dataclasses.dataclass(frozen=True)
class Run:
    """What a step that fits means for the whole run; pairs are from the shortest to the longest step."""

    model_flops: float
    """Of a step."""
    executed_flops: float
    """And what is computed again."""
    exchange_seconds: float
    """Of a step's exchanges at full bandwidth."""
    step_seconds: tuple[float, float]
    step_is: tuple[str, str]
    """What its ends rest on."""
    images_per_second: tuple[float, float]
    """Of all chips; falling."""
    utilization: tuple[float, float]
    """Model FLOPs over time and peak (MFU); falling."""
    days: tuple[float, float]
    """Of the config's steps, nothing else counted: no start, evaluation, restart or waiting for data."""
    chip_hours: tuple[float, float]
    price: tuple[float, float] | None
    currency: str
    """'' without a price."""
    inputs: Inputs


@dataclasses.dataclass(frozen=True)
class Plan:
    """One config on one topology."""

    config: TrainConfig
    machine: Machine
    streams: Mapping[str, Stream]
    answer: Answer
    run: Run | None
    """None where the step does not fit."""

    @property
    def mesh(self) -> tuple[int, int]:
        """Replicas, and devices that share the parameters of each."""
        fsdp = self.config.mesh.fsdp
        return self.machine.devices // fsdp, fsdp

    def to_json(self) -> dict[str, Any]:
        """Everything, bytes exact."""
        streams = {name: dataclasses.asdict(stream) for name, stream in self.streams.items()}
        answer = dataclasses.asdict(self.answer)
        if self.answer.memory is not None:
            answer["memory"]["total"] = self.answer.memory.total
        return {
            "topology": self.machine.topology,
            "fits": self.answer.fits,
            "machine": dataclasses.asdict(self.machine),
            "mesh": dict(zip(("data", "fsdp"), self.mesh, strict=True)),
            "streams": streams,
            "answer": answer,
            "run": None if self.run is None else dataclasses.asdict(self.run),
            "config": json.loads(to_json(self.config)),
        }


def make_plan(
    config: TrainConfig, machine: Machine, streams: Mapping[str, Stream], reply: Reply, assumed: Assumptions
) -> Plan:
    """What follows from a compiler's reply.

    Raises:
        UsageError: the price list does not have the chip.
    """
    run = _run(config, machine, streams, reply, assumed) if reply.answer.fits else None
    return Plan(config, machine, streams, reply.answer, run)


def _run(
    config: TrainConfig, machine: Machine, streams: Mapping[str, Stream], reply: Reply, assumed: Assumptions
) -> Run:
    tokens = lengths(streams)
    flops, pairs = step_flops(config, tokens), config.global_batch_size + config.replay_batch_size
    step = step_time(config, tokens, reply.answer, machine, assumed.utilization)
    low, high = step.low, step.high
    hours = tuple(seconds * config.total_steps * machine.chips / _HOUR for seconds in (low, high))
    price = None
    if assumed.prices is not None:
        each = assumed.prices.of(machine.chip)
        price = (hours[0] * each, hours[1] * each)
    sizes = {name: stream.record_bytes for name, stream in streams.items() if stream.record_bytes is not None}
    return Run(
        model_flops=flops,
        executed_flops=executed_flops(config, tokens),
        exchange_seconds=exchanges_seconds(reply.answer, machine),
        step_seconds=(low, high),
        step_is=(step.low_is, step.high_is),
        images_per_second=(pairs / low, pairs / high),
        utilization=(flops / (low * machine.chips * machine.flops), flops / (high * machine.chips * machine.flops)),
        days=(low * config.total_steps / _DAY, high * config.total_steps / _DAY),
        chip_hours=(hours[0], hours[1]),
        price=price,
        currency=assumed.prices.currency if assumed.prices else "",
        inputs=inputs_of(config, machine, (low, high), reply.checkpoint_bytes, assumed.rates, sizes),
    )


def lengths(streams: Mapping[str, Stream]) -> dict[str, int]:
    """Of each stream's captions, as the step takes them."""
    return {name: stream.tokens for name, stream in streams.items()}
