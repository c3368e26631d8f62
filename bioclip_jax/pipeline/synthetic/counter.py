"""Counter-based random numbers: the value at (seed, stream, index) needs no state and no earlier value.

Philox's raw 64-bit words are part of its definition (Salmon et al. 2011) and do not change between numpy versions;
uniforms and normals are made from them here, because numpy may change its own transforms.
"""

from __future__ import annotations

import numpy as np

STREAMS = {"tree": 1, "names": 2, "traits": 3, "textures": 4, "train": 5, "test": 6, "test_unseen": 7, "order": 8}
"""One independent stream per purpose."""


def uniforms(count: int, *, seed: int, stream: str, index: int = 0) -> np.ndarray:
    """`count` uniforms in [0, 1), float64 [count], a pure function of (seed, stream, index)."""
    key = np.array([seed, STREAMS[stream]], np.uint64)
    words = np.random.Philox(key=key, counter=np.array([0, index, 0, 0], np.uint64)).random_raw(count)
    return (words >> np.uint64(11)) * 2.0**-53


class Draws:
    """Successive uniforms and normals from one stream, for building the tree once."""

    def __init__(self, seed: int, stream: str):
        self._bits = np.random.Philox(key=np.array([seed, STREAMS[stream]], np.uint64))

    def uniform(self, *shape: int) -> np.ndarray:
        """Uniforms in [0, 1), float64 of `shape`."""
        words = self._bits.random_raw(int(np.prod(shape)))
        return ((words >> np.uint64(11)) * 2.0**-53).reshape(shape)

    def normal(self, *shape: int) -> np.ndarray:
        """Standard normals by Box and Muller (1958), float64 of `shape`."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(*shape)))
        return radius * np.cos(2.0 * np.pi * self.uniform(*shape))

    def pick(self, count: int) -> int:
        """One integer in [0, count)."""
        return int(self.uniform(1)[0] * count)
