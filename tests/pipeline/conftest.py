"""Small photos and sources for the tests of the pipeline."""

import io

import numpy as np
import pytest
from PIL import Image


class ListSource:
    """A source whose entries are records, or errors to raise; counts how often each is read."""

    def __init__(self, entries):
        self.entries, self.reads = list(entries), [0] * len(entries)

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        self.reads[index] += 1
        entry = self.entries[index]
        if isinstance(entry, BaseException):
            raise entry
        return entry


def encoded_photo(seed=0, size=(24, 20), mode="RGB", file_format="JPEG", **options):
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), np.uint8)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    (image.convert(mode) if mode != "RGB" else image).save(buffer, file_format, **options)
    return buffer.getvalue()


def photo_record(index, **fields):
    species = ("alba", "nigra", "minor")[index % 3]
    return {
        "key": f"photo {index}",
        "image": encoded_photo(index),
        "kingdom": "Animalia",
        "class": "Aves",
        "genus": "Motacilla",
        "species": species,
        "scientific_name": f"Motacilla {species}",
        "common_name": f"wagtail {index % 3}",
        "source": "test",
    } | fields


@pytest.fixture
def list_source():
    """A class: `list_source(entries)`."""
    return ListSource


@pytest.fixture
def photo():
    """A function: the bytes of an encoded image."""
    return encoded_photo


@pytest.fixture
def record():
    """A function: record number `index`, with fields replaced by keyword."""
    return photo_record
