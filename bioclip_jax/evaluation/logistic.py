"""Multinomial logistic regression: the convex problem that scikit-learn's `LogisticRegression` solves, on the device.

It minimises  sum_i -log p(y_i | x_i) + |W|^2 / (2 C)  with an unpenalised intercept, by L-BFGS. With few iterations it
stops short of the optimum, which is early stopping.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.optimize import minimize


@jax.jit
@jax.value_and_grad
def _objective(
    parameters: Float[Array, "d_plus_1 classes"],
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    inverse_strength: float,
) -> Float[Array, ""]:
    """Divided by the number of samples, so that the optimiser's tolerances mean the same at any size."""
    weights, intercept = parameters[:-1], parameters[-1]
    log_probabilities = jax.nn.log_softmax(features @ weights + intercept)
    likelihood = jnp.take_along_axis(log_probabilities, labels[:, None], axis=1).sum()
    return ((weights**2).sum() / (2 * inverse_strength) - likelihood) / len(labels)


@dataclass(frozen=True)
class LogisticRegression:
    """A fitted classifier: `weights` float32 `[d, classes]`, `intercept` float32 `[classes]`."""

    weights: np.ndarray
    intercept: np.ndarray

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        labels: np.ndarray,
        *,
        classes: int,
        inverse_strength: float = 1.0,
        iterations: int = 100,
        start: LogisticRegression | None = None,
    ) -> LogisticRegression:
        """Fits `labels` int `[n]` in 0 .. classes - 1 to `features` float32 `[n, d]`.

        Args:
            features: standardised, best.
            labels: class numbers.
            classes: number of classes.
            inverse_strength: C; smaller regularises more.
            iterations: of L-BFGS at most.
            start: where L-BFGS begins, which saves iterations if it lies near; by default, at zeros.
        """
        shape = (features.shape[1] + 1, classes)
        data = jax.device_put((features.astype(np.float32), labels.astype(np.int32)))

        def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = _objective(jnp.asarray(flat.reshape(shape), jnp.float32), *data, inverse_strength)
            return float(value), np.asarray(gradient, np.float64).ravel()

        options = {"maxiter": iterations, "maxcor": 6, "ftol": 1e-7, "gtol": 1e-5}
        first = np.zeros(shape) if start is None else np.concatenate([start.weights, start.intercept[None]])
        flat = first.astype(np.float64).ravel()
        solution = minimize(objective, flat, jac=True, method="L-BFGS-B", options=options)
        found = solution.x.reshape(shape).astype(np.float32)
        return cls(found[:-1], found[-1])

    def logits(self, features: np.ndarray) -> np.ndarray:
        """float32 `[n, classes]`."""
        return features @ self.weights + self.intercept
