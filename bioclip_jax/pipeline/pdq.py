"""PDQ, a perceptual hash of 256 bits: pictures that look the same, whatever their size or format, differ in few bits.

After Meta's description ("The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm", 2019) and its
reference implementation (facebook/ThreatExchange, `pdq/cpp`): luma; two passes of a box filter along rows and columns
that leave 64 x 64 samples; 16 x 16 coefficients of their cosine transform, the constant left out; one bit for each
coefficient above the median. Everything before the median is linear and separable, so it is one small matrix on each
side of the luma.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np

PDQ_BYTES = 32

_LUMA = np.array([[0.299, 0.587, 0.114]], np.float32)
_SAMPLES, _COEFFICIENTS, _PASSES = 64, 16, 2
_SMALLEST = 5  # pixels; below it the reference gives 0
_ROWS_AT_ONCE = 256


def pdq_hash(pixels: np.ndarray) -> bytes:
    """The PDQ hash of a picture, 32 bytes; its hexadecimal form is the one that PDQ hashes are exchanged in.

    Coefficients are summed in double precision, by the reference in single, so one that all but equals the median may
    fall to the other side. Where many are zero (a picture of one colour, or of some ten pixels in width) their bits
    are rounding error, the reference's as well as ours. With less than 5 pixels on a side the hash is 0.

    Args:
      pixels: uint8 [height, width, 3], RGB.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < _SMALLEST:
        return bytes(PDQ_BYTES)
    down, across = _projection(height), _projection(width).T
    coefficients = np.zeros((_COEFFICIENTS, _COEFFICIENTS))
    for top in range(0, height, _ROWS_AT_ONCE):
        rows = slice(top, top + _ROWS_AT_ONCE)
        luma = cv2.transform(pixels[rows].astype(np.float32), _LUMA).reshape(-1, width)
        coefficients += down[:, rows] @ (luma @ across)
    # The reference's median is the lower of the two in the middle. Its last bit is the first of the hash.
    median = np.partition(coefficients, coefficients.size // 2 - 1, axis=None)[coefficients.size // 2 - 1]
    return np.packbits(coefficients.ravel()[::-1] > median).tobytes()


@functools.lru_cache(maxsize=1024)
def _projection(length: int) -> np.ndarray:
    """float64 [16, length]: box filter, choice of 64 samples, and coefficients 1 to 16 of their cosine transform."""
    frequencies, samples = np.arange(1, _COEFFICIENTS + 1)[:, None], np.arange(_SAMPLES)
    cosines = np.sqrt(2 / _SAMPLES) * np.cos(np.pi / (2 * _SAMPLES) * frequencies * (2 * samples + 1))
    matrix = np.zeros((_COEFFICIENTS, length))
    np.add.at(matrix.T, ((samples + 0.5) * length / _SAMPLES).astype(int), cosines.T)
    window = -(-length // (2 * _SAMPLES))
    ahead = window // 2  # an even window reaches one further ahead than back
    places = np.arange(length)
    first, end = np.maximum(places + ahead - window + 1, 0), np.minimum(places + ahead + 1, length)
    for _ in range(_PASSES):
        weights = np.zeros((length + 1, _COEFFICIENTS))  # what begins at a place, and ends before it
        shares = (matrix / (end - first)).T
        np.add.at(weights, first, shares)
        np.subtract.at(weights, end, shares)
        matrix = np.cumsum(weights, axis=0)[:length].T
    return np.ascontiguousarray(matrix)
