import cv2
import numpy as np
import pytest

from bioclip_jax.pipeline.pdq import pdq_hash

pytestmark = pytest.mark.core


def drawn(seed, height, width, cells=12):
    """A smooth picture of coloured blots: random cells, enlarged in double precision without OpenCV or Pillow."""
    grid = np.random.default_rng(seed).integers(0, 256, (cells, cells, 3)).astype(np.float64)
    for axis, length in ((0, height), (1, width)):
        place = np.linspace(0, cells - 1, length)
        low = np.minimum(place.astype(int), cells - 2)
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        grid = np.take(grid, low, axis) * (1 - share) + np.take(grid, low + 1, axis) * share
    return np.rint(grid).astype(np.uint8)


# By `np.packbits(pdqhash.compute(drawn(...))[0].astype(bool)).tobytes().hex()` of pdqhash 0.2.8, Meta's C++.
GOLDEN = {
    (0, 224, 224): "bf210e382387eee55e5a5b554e7aeee52087ae38b72564de71d0a4a4c4685a58",
    (1, 64, 64): "0e141f545b423585f165ca67f1a501055b425f451f153bbfafb664c99f2bd550",
    (2, 480, 720): "208e8a3f1b14e0fee4ef8a3be4efe0fc1f148a3f60c65542f1fcaeb064c060d3",
    (3, 721, 500): "172b4142dbf07be40011a0ac1111ffe4fbf051469f3b153fdf625f59249bd163",
    (4, 90, 33): "05525a9a131be07fd161bba4d161e0771b9b7afa955331dfe4654e5a0f8e0a88",
    (5, 1200, 1601): "20c5a4bd9b385b764e467bc84e46db769f38a4bd64c74e51802ed56e040ece7c",
}


@pytest.mark.parametrize(("picture", "expected"), GOLDEN.items(), ids=str)
def test_the_hash_is_that_of_the_reference(picture, expected):
    assert pdq_hash(drawn(*picture)).hex() == expected


def distance(one, other):
    return (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).bit_count()


def test_a_smaller_brighter_recompressed_copy_differs_in_few_bits_another_picture_in_many():
    picture = drawn(7, 480, 640)
    small = cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)
    brighter = np.clip(small * 1.1 + 8, 0, 255).astype(np.uint8)
    copy = cv2.imdecode(cv2.imencode(".jpg", brighter, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_COLOR)
    assert distance(pdq_hash(picture), pdq_hash(copy)) < 10
    assert distance(pdq_hash(picture), pdq_hash(drawn(8, 480, 640))) > 80
    assert distance(pdq_hash(picture), pdq_hash(picture[:, ::-1])) > 80


def test_half_of_the_bits_are_set_and_a_tiny_picture_has_none():
    assert int.from_bytes(pdq_hash(drawn(1, 97, 61)), "big").bit_count() == 128
    assert pdq_hash(drawn(1, 4, 200)) == bytes(32)
