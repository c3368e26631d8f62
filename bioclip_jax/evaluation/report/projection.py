"""A map of features in two dimensions."""

from __future__ import annotations

import numpy as np
from sklearn.manifold import TSNE

FEWEST_FOR_TSNE = 30
MOST_FOR_EXACT = 150


def project(features: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Places features `[n, d]` in the unit square: float64 `[n, 2]`, and the method's name.

    t-SNE (started from principal components, perplexity 30 or a third of the points); principal components where
    there are fewer than 30 points, for which t-SNE says nothing.
    """
    centred = features - features.mean(axis=0)
    if len(features) >= FEWEST_FOR_TSNE and np.ptp(centred) > 0:
        perplexity = min(30.0, (len(features) - 1) / 3)
        # The approximation pays with many points only; with few its threads mostly wait for each other.
        method = "exact" if len(features) <= MOST_FOR_EXACT else "barnes_hut"
        tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed, method=method)
        placed = tsne.fit_transform(centred.astype(np.float64))
        method = f"t-SNE, perplexity {perplexity:.0f}"
    else:
        left, scale, _ = np.linalg.svd(centred, full_matrices=False)
        placed = np.zeros((len(features), 2))
        placed[:, : min(2, len(scale))] = (left * scale)[:, :2]
        method = "principal components"
    low, high = placed.min(axis=0), placed.max(axis=0)
    return (placed - low) / np.where(high > low, high - low, 1), method
