"""A map of features in two dimensions."""

from __future__ import annotations

import numpy as np

from bioclip_jax.evaluation.report.tsne import principal_components, tsne

FEWEST_FOR_TSNE = 30
MOST_FOR_TSNE = 2000
"""Its time grows with the square: about six seconds at so many on two cores."""


def project(features: np.ndarray) -> tuple[np.ndarray, str]:
    """Places features `[n, d]` in the unit square: float64 `[n, 2]`, and the method's name.

    t-SNE (perplexity 30 or a third of the points); principal components where there are fewer than 30 points, for
    which t-SNE says nothing, or more than 2,000.
    """
    if FEWEST_FOR_TSNE <= len(features) <= MOST_FOR_TSNE and np.ptp(features, axis=0).any():
        perplexity = min(30.0, (len(features) - 1) / 3)
        placed = tsne(features, perplexity).astype(np.float64)
        method = f"t-SNE, perplexity {perplexity:.0f}"
    else:
        placed = principal_components(features)
        method = "principal components"
    low, high = placed.min(axis=0), placed.max(axis=0)
    return (placed - low) / np.where(high > low, high - low, 1), method
