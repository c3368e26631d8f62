"""How many files may stay open."""

from __future__ import annotations

import resource

_LEAST = 8


def file_limit(most: int, share: int) -> int:
    """At most `most`, and one in `share` of the file descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, max(_LEAST, soft // share))
