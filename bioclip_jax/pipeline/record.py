"""The record: one organism photo and its place in the tree of life, the same whatever source it comes from.

Captions are derived from a record when it is loaded, never stored, so that a new caption type needs no new shards.
"""

from __future__ import annotations

from typing import Any, Protocol

from bioclip_jax.errors import UserError

Record = dict[str, Any]
"""`key: str`, `image`, and the text fields below as `str` ('' where unknown).

`image` is the bytes of a file (JPEG, PNG or WebP), or uint8 [height, width, 3], RGB, where a source has only pixels.
"""

REQUIRED_TEXT_FIELDS = (
    "key",
    "kingdom",
    "phylum",
    "class",
    "order",
    "family",
    "genus",
    "species",
    "scientific_name",
    "common_name",
    "source",
)
OPTIONAL_TEXT_FIELDS = ("source_id", "license", "image_type", "caption", "attributes")
"""`attributes` is a JSON object as text: traits, or the truth of the synthetic tree."""
OPTIONAL_NUMBER_FIELDS = ("latitude", "longitude")
"""Degrees, float; NaN where unknown."""


class BadRecord(UserError):
    """One record cannot be used; a build counts it by `reason`, writes it to a table and goes on."""

    def __init__(self, key: str, reason: str):
        super().__init__(f"record {key!r}: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadRecord], tuple[str, str]]:
        return type(self), (self.key, self.reason)  # `args` holds the message, which would not make one again


class RecordSource(Protocol):
    """Random access to the records of one split. `source[i]` may raise `BadRecord`."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...
