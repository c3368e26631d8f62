"""Support vector machines for two classes (C-SVC), many on the same rows: what libsvm's solver finds, in float64.

The dual problem in signed multipliers b_i = y_i alpha_i with kernel matrix K is

    minimise  1/2 b'K b - y'b   where  sum b = 0,  0 <= y_i b_i <= C.

Sequential minimal optimisation (Platt 1998) changes two multipliers at a time; which two, when to stop and how the bias
is found follow libsvm (Chang and Lin 2011; Fan, Chen and Lin 2005, "WSS 2"), which scikit-learn's `SVC` runs. Order and
ties are libsvm's too, so that also a solution that its tolerance leaves open, or one of several of a kernel that is not
positive (sigmoid), comes out as there.

A step is a few passes over one row, which a processor's cache holds, and problems need very different numbers of steps:
on a CPU problems that advance together take twice the time of one after the other. So threads take problems in turn.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

KERNELS = ("rbf", "linear", "sigmoid", "poly")
LINEAR = KERNELS.index("linear")
DEGREE = 3
"""Of the polynomial kernel."""
NO_CURVATURE = 1e-12
"""Stands for a curvature that is not positive (libsvm's TAU)."""
PORTION = 32
"""Problems that a thread takes at a time."""


class Machines(NamedTuple):
    """What to fit: the arrays are `[p]`."""

    kernel: np.ndarray
    """int, places in `KERNELS`."""
    cost: np.ndarray
    """C, the bound of the multipliers; 0 is fitted to nothing."""
    gamma: np.ndarray
    rows: np.ndarray
    """int, places in the `signs` given to `fit`: which rows, and their inner products."""


class Solution(NamedTuple):
    """Fitted machines."""

    multipliers: np.ndarray
    """float64 `[p, n]`: y_i alpha_i, 0 for rows that take no part."""
    bias: np.ndarray
    """float64 `[p]`."""
    decision: np.ndarray
    """float64 `[p, n]`, of every row, also those that take no part; positive for the sign +1."""
    largest: np.ndarray
    """float64 `[p]`: the largest multiplier on the way."""
    steps: np.ndarray
    """int32 `[p]`."""
    solved: np.ndarray
    """bool `[p]`: false where `max_steps` was not enough."""


def kernel_values(
    kernel: Int[Array, ""],
    products: Float[Array, "n m"],
    norms: Float[Array, " n"],
    other_norms: Float[Array, " m"],
    gamma: Float[Array, ""],
) -> Float[Array, "n m"]:
    """The kernel of two sets of rows, from their inner products and squared norms; scikit-learn's `coef0` is 0."""
    kinds = {
        "rbf": lambda: jnp.exp(-gamma * (norms[:, None] + other_norms - 2 * products)),
        "linear": lambda: products,
        "sigmoid": lambda: jnp.tanh(gamma * products),
        "poly": lambda: (gamma * products) ** DEGREE,
    }
    return jax.lax.switch(kernel, [kinds[name] for name in KERNELS])


def fit(
    products: Float[Array, "sets n n"],
    signs: np.ndarray,
    machines: Machines,
    *,
    tolerance: float = 1e-3,
    max_steps: int = 1_000_000,
) -> Solution:
    """Fits machines. Call it under `jax.enable_x64(True)`.

    Args:
        products: float64, the rows' inner products.
        signs: `[sets, n]`, +1 and -1 for the two classes (both must occur), 0 for rows that take no part. libsvm's +1
            is the class that sorts first, and it takes the last of equal rows: for its order put the last row first.
        machines: what to fit.
        tolerance: largest violation of optimality, in units of the margin; libsvm's default.
        max_steps: of each.
    """
    # A linear kernel is one matrix for all C. With the largest C the solver may never come near the bound: then any
    # other C above the largest multiplier on the way leads the same way to the same solution.
    source = np.arange(len(machines.kernel))
    linear = np.flatnonzero(machines.kernel == LINEAR)
    order = linear[np.lexsort((-machines.cost[linear], machines.rows[linear]))]
    _, first, group = np.unique(machines.rows[order], return_index=True, return_inverse=True)
    source[order] = order[first][group]
    own = source == np.arange(len(source))
    leaders = np.flatnonzero(own)
    solved = _fit(products, signs, _some(machines, leaders), tolerance, max_steps)
    result = Solution(*(array[np.searchsorted(leaders, source)] for array in solved))
    again = np.flatnonzero(~own & (machines.cost <= result.largest))
    if again.size:
        for array, new in zip(result, _fit(products, signs, _some(machines, again), tolerance, max_steps), strict=True):
            array[again] = new
    return result


def _some(machines: Machines, places: np.ndarray) -> Machines:
    return Machines(*(array[places] for array in machines))


def _fit(
    products: Float[Array, "sets n n"], signs: np.ndarray, machines: Machines, tolerance: float, max_steps: int
) -> Solution:
    """Fits machines in portions of one size, so that one program is compiled."""
    count = len(machines.kernel)
    missing = -count % PORTION
    padded = Machines(*(np.pad(array, (0, missing)) for array in machines))
    signs = np.asarray(signs, np.float64)

    def portion(start: int) -> Solution:
        with jax.enable_x64(True):  # the setting of the calling thread does not hold in this one
            part = _some(padded, np.arange(start, start + PORTION))
            return Solution(*map(np.asarray, _fit_portion(products, signs, tuple(part), tolerance, max_steps)))

    with ThreadPoolExecutor(os.cpu_count() or 1) as threads:
        parts = list(threads.map(portion, range(0, count, PORTION)))
    return Solution(*(np.concatenate(arrays)[:count] for arrays in zip(*parts, strict=True)))


@jax.jit
def _fit_portion(
    products: Float[Array, "sets n n"],
    signs: Float[Array, "sets n"],
    machines: tuple[Array, ...],
    tolerance: float,
    max_steps: int,
) -> tuple[Array, ...]:
    """The fields of `Solution`, from those of `Machines`."""

    def one(machine: tuple[Array, ...]) -> tuple[Array, ...]:
        kernel, cost, gamma, rows = machine
        inner = products[rows]
        norms = jnp.diagonal(inner)
        return _fit_one(kernel_values(kernel, inner, norms, norms, gamma), signs[rows], cost, tolerance, max_steps)

    return jax.lax.map(one, machines)


class _State(NamedTuple):
    multipliers: Float[Array, " n"]
    residual: Float[Array, " n"]
    """y - K b: y times the negative gradient of the dual."""
    largest: Float[Array, ""]
    steps: Int[Array, ""]
    solved: Bool[Array, ""]


def _fit_one(
    values: Float[Array, "n n"],
    signs: Float[Array, " n"],
    cost: Float[Array, ""],
    tolerance: float,
    max_steps: int,
) -> tuple[Array, ...]:
    """The fields of `Solution`."""
    lower, upper = jnp.where(signs < 0, -cost, 0.0), jnp.where(signs > 0, cost, 0.0)
    diagonal = jnp.diagonal(values)
    places = jnp.arange(len(signs), dtype=jnp.int32)

    def first_largest(array: Float[Array, " n"]) -> tuple[Float[Array, ""], Int[Array, ""]]:
        # Two plain reductions are faster on a CPU than `argmax`.
        largest = array.max()
        return largest, jnp.where(array == largest, places, len(places) - 1).min()

    def step(state: _State) -> _State:
        multipliers, residual, largest, steps, _ = state
        # The row to raise violates optimality most; the row to lower promises the largest gain with it.
        top, up = first_largest(jnp.where(multipliers < upper, residual, -jnp.inf))
        up_row = jax.lax.dynamic_index_in_dim(values, up, keepdims=False)
        violation = jnp.where(multipliers > lower, top - residual, -jnp.inf)
        curvature = diagonal[up] + diagonal - 2 * up_row
        curvature = jnp.where(curvature > 0, curvature, NO_CURVATURE)
        _, down = first_largest(jnp.where(violation > 0, violation**2 / curvature, -jnp.inf))
        down_row = jax.lax.dynamic_index_in_dim(values, down, keepdims=False)
        solved = ~(violation.max() >= tolerance)
        length = jnp.minimum(upper[up] - multipliers[up], multipliers[down] - lower[down])
        length = jnp.where(solved, 0.0, jnp.minimum(length, violation[down] / curvature[down]))
        # Bounds are met exactly, for they are compared with.
        raised = jnp.where(length >= upper - multipliers, upper, multipliers + length)
        lowered = jnp.where(length >= multipliers - lower, lower, multipliers - length)
        moved = jnp.where(places == up, raised, jnp.where(places == down, lowered, multipliers))
        largest = jnp.maximum(largest, jnp.maximum(jnp.abs(moved[up]), jnp.abs(moved[down])))
        return _State(
            jnp.where(solved, multipliers, moved),
            residual - length * (up_row - down_row),
            jnp.where(solved, state.largest, largest),
            steps + ~solved,
            solved,
        )

    start = _State(jnp.zeros_like(signs), signs, jnp.zeros(()), jnp.int32(0), jnp.bool_(False))
    multipliers, residual, largest, steps, solved = jax.lax.while_loop(
        lambda state: ~state.solved & (state.steps < max_steps), step, start
    )
    # The bias: the mean residual of the rows between their bounds, or the middle of what the others allow.
    free = (multipliers > lower) & (multipliers < upper)
    least = jnp.where(multipliers < upper, residual, -jnp.inf).max()
    most = jnp.where(multipliers > lower, residual, jnp.inf).min()
    mean = jnp.where(free, residual, 0.0).sum() / jnp.maximum(free.sum(), 1)
    bias = jnp.where(free.any(), mean, (least + most) / 2)
    return multipliers, bias, signs - residual + bias, largest, steps, solved
