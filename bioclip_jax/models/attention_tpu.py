"""Attention of short sequences as one TPU kernel: a program has a whole sequence in fast memory, all heads of it.

Queries, keys and values are read where the matrix product left them, and the gradients of all three are written
there, so that nothing is transposed in main memory. The softmax is in float32. The backward pass has no residual
but its input: it computes the weights again, keys along the rows, where sums over keys are cheap.

Heads are narrower than the 128 lanes of a vector. Instead of being cut out, a head's part of the lanes is kept and the
others are set to zero in one factor of each product: the same number of matrix operations as padding it to 128 lanes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

LANES = 128
SUBLANES = 8


def group_lanes(head_width: int) -> int:
    """Lanes of the smallest group of whole heads that fills whole vectors."""
    return math.lcm(head_width, LANES)


def supports(width: int, heads: int) -> bool:
    """Whether the heads of a block of this width fill whole vectors."""
    return width % group_lanes(width // heads) == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def attention(
    qkv: Float[Array, "batch tokens three_widths"], heads: int, is_causal: bool, interpret: bool = False
) -> Float[Array, "batch tokens width"]:
    """As `models.attention.attention`; `interpret` runs it step by step on any device, for tests."""
    batch, tokens, three_widths = qkv.shape
    packed, length = _pack(qkv)
    out = _call(_attention_forward_kernel, 2, heads, is_causal, length, interpret, three_widths // 3)(packed)
    return out.reshape(batch, tokens, three_widths // 3)


def _attention_forward(qkv: Array, heads: int, is_causal: bool, interpret: bool) -> tuple[Array, Array]:
    return attention(qkv, heads, is_causal, interpret), qkv


def _attention_backward(heads: int, is_causal: bool, interpret: bool, qkv: Array, gradient: Array) -> tuple[Array]:
    packed, length = _pack(qkv)
    gradients, _ = _pack(gradient)
    call = _call(_attention_backward_kernel, 5, heads, is_causal, length, interpret, qkv.shape[-1])
    return (call(packed, gradients).reshape(qkv.shape),)


attention.defvjp(_attention_forward, _attention_backward)


def programs(batch: int, tokens: int) -> int:
    """How many programs a call has: one for each sequence, or for as many short ones as fill 128 rows."""
    count = max(1, LANES // tokens) if tokens % SUBLANES == 0 else 1
    while batch % count:
        count -= 1
    return batch // count


def _pack(x: Array) -> tuple[Array, int]:
    """Several short sequences as one, and their length (0 if each row is one sequence)."""
    batch, tokens, width = x.shape
    rows = programs(batch, tokens)
    return (x.reshape(rows, -1, width), tokens) if rows < batch else (x, 0)


def _call(
    kernel: Callable[..., None],
    products: int,
    heads: int,
    is_causal: bool,
    length: int,
    interpret: bool,
    width_out: int,
) -> Callable[..., Array]:
    """The kernel on a grid of sequences: each program reads one row of every operand and writes one of the result.

    `products`: its matrix products for each head.
    """

    def row(tokens: int, width: int) -> pl.BlockSpec:
        return pl.BlockSpec((1, tokens, width), lambda index: (index, 0, 0))

    def call(*operands: Array) -> Array:
        batch, tokens, _ = operands[0].shape
        out = jax.ShapeDtypeStruct((batch, tokens, width_out), operands[0].dtype)
        return pl.pallas_call(
            functools.partial(kernel, heads=heads, is_causal=is_causal, length=length),
            grid=(batch,),
            in_specs=[row(tokens, operand.shape[-1]) for operand in operands],
            out_specs=row(tokens, width_out),
            out_shape=out,
            compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
            cost_estimate=_cost((*operands, out), heads, products),
            name=kernel.__name__.strip("_"),
            interpret=interpret,
        )(*operands)

    return call


def _cost(arrays: tuple[Any, ...], heads: int, products: int) -> pl.CostEstimate:
    """What the matrix units are busy with, padding included, and what is read and written."""
    batch, tokens, three_widths = arrays[0].shape
    rows, lanes = (-(-tokens // multiple) * multiple for multiple in (2 * SUBLANES, LANES))
    group = _heads_of_group(three_widths // (3 * heads))
    depth = heads * sum(head.high - head.low for head in group) // len(group)
    return pl.CostEstimate(
        flops=2 * products * batch * rows * lanes * depth,
        transcendentals=batch * heads * rows * lanes,
        bytes_accessed=sum(math.prod(array.shape) * array.dtype.itemsize for array in arrays),
    )


def _attention_forward_kernel(qkv_ref: Any, out_ref: Any, *, heads: int, is_causal: bool, length: int) -> None:
    """softmax(query key^T) value of each head, queries along the rows."""
    tokens, width = out_ref.shape[1:]
    scale = (width // heads) ** -0.5
    hidden = _hidden(tokens, is_causal, length, keys_axis=1)

    def group(start: Any) -> None:
        out = _Lanes(width // heads)
        for head in _heads_of_group(width // heads):
            query, key, value = (head.read(qkv_ref, part * width + start) for part in range(3))
            logits = _dot(query, head.only(key), (1, 1))  # [queries, keys]
            if hidden is not None:
                logits = jnp.where(hidden, -jnp.inf, logits)
            weights = jnp.exp(scale * (logits - jnp.max(logits, axis=1, keepdims=True)))
            total = jnp.sum(weights, axis=1, keepdims=True)
            out.add(head, _dot(weights.astype(value.dtype), head.only(value), (1, 0)) / total)
        out.write(out_ref, start)

    _for_each_group(width, width // heads, group)


def _attention_backward_kernel(
    qkv_ref: Any, gradient_ref: Any, out_ref: Any, *, heads: int, is_causal: bool, length: int
) -> None:
    """Gradients of queries, keys and values, keys along the rows."""
    tokens, width = gradient_ref.shape[1:]
    scale = (width // heads) ** -0.5
    hidden = _hidden(tokens, is_causal, length, keys_axis=0)

    def group(start: Any) -> None:
        of_query, of_key, of_value = (_Lanes(width // heads) for _ in range(3))
        for head in _heads_of_group(width // heads):
            query, key, value = (head.read(qkv_ref, part * width + start) for part in range(3))
            gradient, own_key = head.read(gradient_ref, start), head.only(key)
            logits = _dot(own_key, query, (1, 1))  # [keys, queries]
            if hidden is not None:
                logits = jnp.where(hidden, -jnp.inf, logits)
            weights = jnp.exp(scale * (logits - jnp.max(logits, axis=0, keepdims=True)))
            weights = weights * (1 / jnp.sum(weights, axis=0, keepdims=True))
            of_weights = _dot(head.only(value), gradient, (1, 1))  # [keys, queries]
            mean = jnp.sum(weights * of_weights, axis=0, keepdims=True)
            of_logits = (weights * (of_weights - mean)).astype(query.dtype)
            of_value.add(head, _dot(weights.astype(query.dtype), head.only(gradient), (1, 0)))
            of_key.add(head, scale * _dot(of_logits, head.only(query), (1, 0)))
            of_query.add(head, scale * _dot(of_logits, own_key, (0, 0)))
        for part, lanes in enumerate((of_query, of_key, of_value)):
            lanes.write(out_ref, part * width + start)

    _for_each_group(width, width // heads, group)


def _hidden(tokens: int, is_causal: bool, length: int, keys_axis: int) -> Array | None:
    """True where a query must not see a key: a later one, or one of another packed sequence. None: all see all."""
    query, key = (jax.lax.broadcasted_iota(jnp.int32, (tokens, tokens), axis) for axis in (1 - keys_axis, keys_axis))
    hidden = query < key if is_causal else None
    if length:
        # Not //, whose rule for negative numbers asks which TPU this process has.
        other = jax.lax.div(query, length) != jax.lax.div(key, length)
        hidden = other if hidden is None else hidden | other
    return hidden


def _dot(a: Array, b: Array, contracted: tuple[int, int]) -> Array:
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((contracted[0],), (contracted[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _for_each_group(width: int, head_width: int, body: Callable[[Any], None]) -> None:
    """Calls `body` with the first lane of each group of heads."""
    lanes = group_lanes(head_width)
    if width == lanes:
        body(0)
        return

    def step(index: Any, carry: None) -> None:
        body(pl.multiple_of(index * lanes, LANES))

    jax.lax.fori_loop(0, width // lanes, step, None)


@dataclasses.dataclass(frozen=True)
class _Head:
    """One head of a group: lanes `first` to `last` of it, in the whole vectors `low` to `high`."""

    first: int
    last: int

    @property
    def low(self) -> int:
        return self.first // LANES * LANES

    @property
    def high(self) -> int:
        return -(-self.last // LANES) * LANES

    def read(self, ref: Any, start: Any) -> Array:
        """The vectors that hold the head, of a group that starts at lane `start`."""
        return ref[0, :, pl.ds(start + self.low, self.high - self.low)]

    def only(self, x: Array) -> Array:
        """Those with zeros in the lanes of other heads."""
        lane = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) + self.low
        return jnp.where((lane >= self.first) & (lane < self.last), x, jnp.zeros_like(x))


def _heads_of_group(head_width: int) -> list[_Head]:
    return [_Head(first, first + head_width) for first in range(0, group_lanes(head_width), head_width)]


class _Lanes:
    """Sums of a group's heads, each zero outside its own lanes, a whole vector of lanes at a time."""

    def __init__(self, head_width: int):
        self.parts: list[Any] = [None] * (group_lanes(head_width) // LANES)

    def add(self, head: _Head, x: Array) -> None:
        for index in range(head.low // LANES, head.high // LANES):
            part = x[:, index * LANES - head.low : (index + 1) * LANES - head.low]
            known = self.parts[index]
            self.parts[index] = part if known is None else known + part

    def write(self, ref: Any, start: Any) -> None:
        for index, part in enumerate(self.parts):
            ref[0, :, pl.ds(start + index * LANES, LANES)] = part.astype(ref.dtype)
