"""The points of a grid of configs: what each is called, how it is trained, and where."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from bioclip_jax.config import TrainConfig
from bioclip_jax.errors import UsageError

LONGEST = 63
"""Letters of a name in Kubernetes (RFC 1123), of which there are a-z, 0-9 and hyphens between them."""
_SAFE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_DIGITS = 8  # of the hash that tells names apart which look alike once they are safe


@dataclass(frozen=True)
class Point:
    """One run of a sweep, or the only one."""

    config: TrainConfig
    argument: str
    """What `bioclip-jax train` calls it: NAME:VARIANT, or NAME."""
    work_dir: str
    variant: str = ""
    """Its key in the grid; empty for the only one."""
    name: str = ""
    """The variant as a name that is safe for folders and Kubernetes objects; empty for the only one."""


def points(name: str, configs: Mapping[str, TrainConfig], work_dir: str) -> list[Point]:
    """The points of a grid, in its order; each has a folder of its own in `work_dir`, called as the point.

    Args:
        name: of the config, as a user gives it.
        configs: by variant, as `bioclip_jax.cli.configs.load_configs` returns them; {'': config} is no grid.
        work_dir: of the sweep, or of the only run; local or of an object store.

    Raises:
        UsageError: two variants have one name, or there are none.
    """
    if list(configs) == [""]:
        return [Point(configs[""], name, work_dir)]
    if not configs:
        raise UsageError(f"config {name} is a grid without variants")
    found: dict[str, Point] = {}
    for variant, config in configs.items():
        safe = safe_name(variant)
        if safe in found:
            raise UsageError(f"config {name} has variants {found[safe].variant!r} and {variant!r}, both called {safe}")
        found[safe] = Point(config, f"{name}:{variant}", f"{work_dir.rstrip('/')}/{safe}", variant, safe)
    return list(found.values())


def safe_name(text: str, longest: int = LONGEST) -> str:
    """`text` where it is a safe name; otherwise what is safe of it, and eight digits of its SHA-256."""
    if len(text) <= longest and _SAFE.fullmatch(text):
        return text
    kept = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[: longest - _DIGITS - 1].strip("-")
    digits = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_DIGITS]
    return f"{kept}-{digits}" if kept else digits
