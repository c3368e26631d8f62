"""The synthetic tree of life is the same on every Python and with every version of the packages that draw it.

`python tests/pipeline/synthetic/test_synthetic_golden.py` writes the file anew after a change that is meant.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from bioclip_jax.pipeline.synthetic import synthetic_splits

pytestmark = pytest.mark.core
GOLDEN = Path(__file__).parents[2] / "goldens" / "synthetic" / "records.json"
ARGUMENTS = {
    "num_images": 10**9,
    "num_species": 120,
    "image_size": 64,
    "seed": 0,
    "missing_ranks": 0.11,
    "missing_common_names": 0.3,
    "tail": 1.0,
    "unseen_share": 0.1,
    "test_images_per_species": 10,
    "variation": 1.0,
}
PLACES = (("train", 0), ("train", 999_999_999), ("train", 314_159_265), ("test", 77), ("test_unseen", 5))
GREY_LEVELS = 3.0
"""Largest difference of a mean over 8 x 8 pixels: another rounding of OpenCV or JPEG stays far below."""


def described(split, index):
    """A record with its truth parsed and its picture as the mean colours of 8 x 8 squares."""
    record = synthetic_splits(**ARGUMENTS)[split][index]
    pixels = simplejpeg.decode_jpeg(record.pop("image"))
    means = pixels.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3)).round().astype(int)
    return {"truth": json.loads(record.pop("attributes")), "means": means.tolist(), "record": record}


def assert_equal(found, expected, where=""):
    """Equal in every key, text and whole number, and to 1e-9 in every other number."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key, value in expected.items():
            assert_equal(found[key], value, f"{where}/{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, value in enumerate(expected):
            assert_equal(found[i], value, f"{where}/{i}")
    elif isinstance(expected, float):
        assert abs(found - expected) <= 1e-9, where
    else:
        assert found == expected, where


@pytest.mark.parametrize("place", range(len(PLACES)), ids=[f"{split}-{index}" for split, index in PLACES])
def test_records_are_the_same_everywhere(place):
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[place]
    found = described(*PLACES[place])
    assert_equal(found["record"], expected["record"])
    assert_equal(found["truth"], expected["truth"])
    assert np.abs(np.array(found["means"]) - np.array(expected["means"])).max() <= GREY_LEVELS


if __name__ == "__main__":
    rows = ",\n".join(json.dumps(described(*place), ensure_ascii=False) for place in PLACES)
    GOLDEN.write_text(f"[\n{rows}\n]\n", encoding="utf-8")
