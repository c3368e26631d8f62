"""Exact t-SNE (van der Maaten and Hinton 2008) for up to a few thousand points.

Points are started from principal components and moved by gradient descent with momentum (0.5, then 0.8) and gains,
as in the authors' code; affinities are exaggerated 12 times for the first 250 steps (van der Maaten 2014). The
learning rate is points / 48, at least 50 (Belkina et al. 2019). Nothing is drawn at random.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

EXAGGERATION, EXAGGERATED_STEPS, STEPS = 12.0, 250, 1000
SMALLEST = 1e-12


def principal_components(features: np.ndarray, count: int = 2) -> np.ndarray:
    """The first `count` principal components of `[n, d]`: float64 `[n, count]`; zeros beyond the rank.

    Of each, the entry of largest size is positive, so that no library chooses the sign.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    found = np.zeros((len(features), count))
    kept = min(count, len(scale))
    found[:, :kept] = (left * scale)[:, :kept]
    largest = found[np.abs(found).argmax(axis=0), np.arange(count)]
    return found * np.where(largest < 0, -1, 1)


def tsne(features: np.ndarray, perplexity: float) -> np.ndarray:
    """Places points in the plane: float32 `[n, 2]`.

    Args:
        features: `[n, d]`, not all equal.
        perplexity: about how many neighbours count for each point; below n.
    """
    start = principal_components(features)
    start = start / max(start[:, 0].std(), SMALLEST) * 1e-4
    centred = (features - features.mean(axis=0)).astype(np.float32)
    joint = _affinities(centred / max(float(np.abs(centred).max()), SMALLEST), perplexity)
    return np.asarray(_descend(joint, start.astype(np.float32), max(len(features) / EXAGGERATION / 4, 50.0)))


def _squared_distances(points: Float[Array, "n d"]) -> Float[Array, "n n"]:
    norms = (points**2).sum(axis=1)
    products = jnp.matmul(points, points.T, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(norms[:, None] + norms[None] - 2 * products, 0)


@jax.jit
def _affinities(features: Float[Array, "n d"], perplexity: float) -> Float[Array, "n n"]:
    """Joint probabilities of pairs; the width of each point's Gaussian is bisected until it has the perplexity."""
    count = len(features)
    itself = jnp.eye(count, dtype=bool)
    squared = _squared_distances(features)
    nearest = jnp.where(itself, jnp.inf, squared).min(axis=1, keepdims=True)
    squared = jnp.where(itself, jnp.inf, squared - nearest)

    def conditional(log_precision: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = jnp.where(itself, -jnp.inf, -squared * jnp.exp(log_precision)[:, None])
        log_p = jax.nn.log_softmax(logits, axis=1)
        p = jnp.exp(log_p)
        return p, -(p * jnp.where(p > 0, log_p, 0)).sum(axis=1)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        too_wide = conditional(middle)[1] > jnp.log(perplexity)
        return jnp.where(too_wide, middle, low), jnp.where(too_wide, high, middle)

    # exp(60) and exp(-20) are beyond any width that distances up to 4 d can ask for.
    low, high = jax.lax.fori_loop(0, 40, halve, (jnp.full(count, -20.0), jnp.full(count, 60.0)))
    p, _ = conditional((low + high) / 2)
    return jnp.maximum((p + p.T) / (2 * count), SMALLEST)


@jax.jit
def _descend(
    joint: Float[Array, "n n"], start: Float[Array, "n 2"], learning_rate: float | Float[Array, ""]
) -> Float[Array, "n 2"]:
    itself = jnp.eye(len(joint), dtype=bool)

    def step(number: int, state: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        placed, velocity, gains = state
        early = number < EXAGGERATED_STEPS
        # Directly: in the plane it costs little, and norms less products would lose the small distances.
        across, down = (placed[:, None, axis] - placed[None, :, axis] for axis in (0, 1))
        nearness = jnp.where(itself, 0, 1 / (1 + across**2 + down**2))
        model = jnp.maximum(nearness / nearness.sum(), SMALLEST)
        pull = (jnp.where(early, EXAGGERATION, 1.0) * joint - model) * nearness
        gradient = 4 * (pull.sum(axis=1, keepdims=True) * placed - pull @ placed)
        gains = jnp.maximum(jnp.where(velocity * gradient < 0, gains + 0.2, gains * 0.8), 0.01)
        velocity = jnp.where(early, 0.5, 0.8) * velocity - learning_rate * gains * gradient
        placed = placed + velocity
        return placed - placed.mean(axis=0), velocity, gains

    # Both phases start at rest: velocities and gains of the exaggerated one would throw few points far apart.
    placed = start
    for first, last in ((0, EXAGGERATED_STEPS), (EXAGGERATED_STEPS, STEPS)):
        state = (placed, jnp.zeros_like(start), jnp.ones_like(start))
        placed = jax.lax.fori_loop(first, last, step, state)[0]
    return placed
