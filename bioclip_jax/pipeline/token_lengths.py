"""Lengths that captions are cut to; apart from the loader, so that plans need not import what loads images."""

from __future__ import annotations

TOKEN_BUCKETS = (16, 32, 48, 64, 77)
"""Attention is causal and captions end at EOT, so a cut after it is exact."""


def token_bucket(longest: int, context_length: int = 77) -> int:
    """The shortest bucket that holds `longest` tokens, at most the context."""
    return min(next((size for size in TOKEN_BUCKETS if size >= longest), context_length), context_length)
