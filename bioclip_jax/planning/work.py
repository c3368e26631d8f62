"""How long a step may take: by the compiler's estimate where there is one, else by arithmetic (docs/plan.md).

The low end is what cannot be undercut: all arithmetic at peak, or all exchanges at full bandwidth, whichever is longer,
and no waiting. The high end has the compiler's high reading (or the lower of the assumed shares of the peak), and every
exchange on top of it, as if none overlapped with arithmetic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from bioclip_jax.config import CLIPConfig, RematPolicy, TrainConfig
from bioclip_jax.models.flops import image_flops, step_flops, text_flops
from bioclip_jax.models.sizes import block_parameters
from bioclip_jax.planning.answer import Answer, Exchange
from bioclip_jax.planning.machine import Machine

UTILIZATION = (0.35, 0.6)
"""Share of the peak that is assumed of a GPU, whose compiler estimates no time: lowest and highest."""
# What the backward pass of a block computes again, of its matrix products (models.transformer says what is kept).
_AGAIN: Mapping[RematPolicy, tuple[str, ...]] = {
    "none": (),
    "dots": (),
    "mlp": ("qkv", "out"),
    "attention": ("out", "fc"),
    "context": ("qkv", "out", "fc"),
    "full": ("qkv", "attention", "out", "fc"),
}
REMAT_POLICIES: tuple[RematPolicy, ...] = tuple(_AGAIN)
"""From the one that keeps most to the one that keeps least."""


def _again_in_tower(policy: RematPolicy, tokens: int, width: int, layers: int, mlp_ratio: float) -> float:
    hidden = int(width * mlp_ratio)
    parts = {
        "qkv": 2 * tokens * width * 3 * width,
        "attention": 2 * 2 * tokens * tokens * width,
        "out": 2 * tokens * width * width,
        "fc": 2 * tokens * width * hidden,
    }
    return layers * sum(parts[name] for name in _AGAIN[policy])


def again_flops(config: TrainConfig, tokens: Mapping[str, int]) -> float:
    """FLOPs of a step's recomputation: what remat leaves out, and with micro-batches one more forward pass."""
    rows = {"bio": config.global_batch_size, "replay": config.replay_batch_size}
    total = 0.0
    for name, length in tokens.items():
        has_text = name != "bio" or config.loss.kind != "species"
        total += rows[name] * _again_for_pair(config, length, has_text=has_text)
    return total


def _again_for_pair(config: TrainConfig, length: int, *, has_text: bool) -> float:
    model: CLIPConfig = config.model
    vision, text = model.vision, model.text
    patches = (vision.image_size // vision.patch_size) ** 2 + 1
    policy = config.remat_policy
    towers = {
        "visual": (_again_in_tower(policy, patches, vision.width, vision.layers, vision.mlp_ratio), image_flops(model)),
        "text": (_again_in_tower(policy, length, text.width, text.layers, text.mlp_ratio), text_flops(model, length)),
    }
    total = 0.0
    for name, (block, forward) in towers.items():
        if name == "text" and not has_text:
            continue
        total += 0 if name in config.locked else block
        total += forward if config.micro_batches > 1 else 0
    return total


def executed_flops(config: TrainConfig, tokens: Mapping[str, int]) -> float:
    """Model FLOPs of a step and what is computed again."""
    return step_flops(config, tokens) + again_flops(config, tokens)


def exchange_seconds(exchange: Exchange, machine: Machine) -> float:
    """At full bandwidth, without latency: rings within a network; between networks each has the bandwidth of its hosts.

    An all-reduce of S bytes over n moves 2 S (n - 1) / n through each member, an all-gather that leaves S there half of
    that (Patarasuk and Yuan 2009). Between networks that holds for networks as members, each of which sends through all
    of its hosts, for as many groups at a time as there are.
    """
    size = exchange.bytes
    if exchange.kind == "reduce-scatter":  # each holds one share afterwards
        size *= exchange.group
    turns = 2 if exchange.kind == "all-reduce" else 1
    around = exchange.kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all")
    each_fast = machine.fast * machine.chips / machine.devices
    if exchange.network == "fast":
        share = 1 - 1 / exchange.group if around and exchange.group else 1.0
        return turns * size * share / each_fast
    members = min(machine.networks, exchange.group) if around and exchange.group else 0
    share = 1 - 1 / members if members else 1.0
    inside = max(exchange.group // members, 1) if members else 1
    groups = machine.devices / exchange.group if members else machine.devices / machine.networks
    between = turns * size * share * groups / (machine.slow * machine.hosts / machine.networks)
    return between + turns * size * (1 - 1 / inside) / each_fast


def exchanges_seconds(answer: Answer, machine: Machine) -> float:
    """Of all exchanges of a step, one after the other."""
    return sum(exchange_seconds(each, machine) for each in answer.exchanges)


@dataclasses.dataclass(frozen=True)
class StepTime:
    """What is to be expected of a step, and what that rests on, in words."""

    low: float
    """Seconds."""
    high: float
    low_is: str
    high_is: str


def step_time(
    config: TrainConfig,
    tokens: Mapping[str, int],
    answer: Answer,
    machine: Machine,
    utilization: tuple[float, float] = UTILIZATION,
) -> StepTime:
    """Shortest and longest step that is to be expected, for a step that fits."""
    at_peak = executed_flops(config, tokens) / (machine.chips * machine.flops)
    exchanged = exchanges_seconds(answer, machine)
    if answer.parts:
        low, high = (sum(reading[place] for reading in answer.parts.values()) for place in (0, 1))
        low_name, high_name = "the compiler's low estimate", "the compiler's high estimate"
    else:
        low, high = at_peak / utilization[1], at_peak / utilization[0]
        low_name, high_name = (
            f"all FLOPs at an assumed {100 * share:.0f} % of the peak" for share in reversed(utilization)
        )
    lows = [(low, low_name), (at_peak, "all FLOPs at peak"), (exchanged, "all exchanges at full bandwidth")]
    shortest = max(lows, key=lambda one: one[0])
    longest = max((high, high_name), (at_peak, "all FLOPs at peak"), key=lambda one: one[0])
    return StepTime(shortest[0], longest[0] + exchanged, shortest[1], f"{longest[1]}, plus all exchanges")


def expected_seconds(config: TrainConfig, tokens: Mapping[str, int], machine: Machine) -> float:
    """Arithmetic at peak, and the exchanges of parameters that `mesh.fsdp` adds: what settings are put in order by,
    before anything is compiled.

    Parameters are gathered in bfloat16, layer by layer, in each forward and each backward pass.
    """
    seconds = executed_flops(config, tokens) / (machine.chips * machine.flops)
    if config.mesh.fsdp > 1:
        blocks = block_parameters(config.model.vision) + block_parameters(config.model.text)
        passes = 2 if config.micro_batches == 1 else 3 * config.micro_batches
        seconds += passes * 2 * blocks / (machine.fast * machine.chips / machine.devices)
    return seconds
