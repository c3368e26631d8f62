"""A device's memory by kind: what the state and the batch take by their shardings, what is kept of each block by the
program's loops, and the rest of what the compiler says, so that the sum is the compiler's to the byte.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from bioclip_jax.config import TrainConfig
from bioclip_jax.planning.answer import Memory
from bioclip_jax.planning.compiled import Sizes
from bioclip_jax.planning.hlo import Module, Shape
from bioclip_jax.training.step import Program


@dataclasses.dataclass(frozen=True)
class Pass:
    """One way through a tower, which a loop over its blocks makes."""

    tower: str
    """vision or text: the scope in the names of its operations."""
    layers: int
    rows: int
    """On each device, in a micro-batch."""
    tokens: int


def by_kind(sizes: Sizes, module: Module, program: Program, config: TrainConfig, tokens: Mapping[str, int]) -> Memory:
    """The compiler's `sizes` of a step, by kind.

    Parameters, optimizer and batch count without the padding that the compiler gives some of them; padding, the figures
    of a step and its counters are with the temporaries.
    """
    state, devices = program.abstract_state, program.abstract_signals.sharding.mesh.size
    parameters = bytes_of(state.parameters)
    optimizer = bytes_of((state.optimizer_state, state.ema))
    batch = bytes_of((program.abstract_batch(tokens), program.abstract_signals))
    known = {leaf.shape for leaf in jax.tree.leaves(state.parameters)}
    kept = min(kept_bytes(module, passes(config, tokens, devices), known), sizes.temporaries)
    rest = sizes.state + sizes.temporaries - parameters - optimizer - batch - kept
    return Memory(parameters, optimizer, batch, kept, rest, sizes.code, sizes.peak)


def bytes_of(tree: Any) -> int:
    """What one device has of abstract arrays that have shardings."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def passes(config: TrainConfig, tokens: Mapping[str, int], devices: int) -> list[Pass]:
    """All ways through the towers: the photos of all streams together, the captions of each by themselves."""
    sizes = {"bio": config.global_batch_size, "replay": config.replay_batch_size}
    rows = {name: sizes[name] // devices // config.micro_batches for name in tokens}
    vision, text = config.model.vision, config.model.text
    patches = (vision.image_size // vision.patch_size) ** 2
    with_text = [name for name in tokens if name != "bio" or config.loss.kind != "species"]
    return [
        Pass("vision", vision.layers, sum(rows.values()), patches + 1),
        *(Pass("text", text.layers, rows[name], tokens[name]) for name in with_text),
    ]


def kept_bytes(module: Module, through: Sequence[Pass], parameters: Iterable[tuple[int, ...]]) -> int:
    """What the loops over the blocks hand to those of the backward pass: stacks of all layers' arrays, as large as the
    rows and tokens of a pass, that are no `parameters` (which are stacks, too).

    The loops of both directions carry the same stacks, so the largest sum of a loop counts, once for each pass.
    """
    known = set(parameters)
    most: dict[Pass, int] = dict.fromkeys(through, 0)
    for loop, _ in module.runs():
        if loop.opcode != "while":
            continue
        for one in most:
            if re.search(rf"\b{one.tower}\b", loop.op_name):
                stacks = [shape for shape in loop.shapes if shape.dimensions not in known and _is_kept(shape, one)]
                most[one] = max(most[one], sum(shape.bytes for shape in stacks))
    return sum(most[one] for one in through)


def _is_kept(shape: Shape, one: Pass) -> bool:
    sizes = shape.dimensions
    if len(sizes) < 2 or sizes[0] != one.layers:
        return False
    return sizes[1] == one.rows * one.tokens or (sizes[1] == one.rows and one.tokens in sizes[2:])
