"""The grace period of a job whose steps and storage nobody has measured."""

from __future__ import annotations

from bioclip_jax.config import TrainConfig
from bioclip_jax.training import grace

STEP_SECONDS = 22.5
"""Longer than steps of the published recipes are on machines that one would choose for them."""
BYTES_PER_SECOND = 100e6
"""A slow shared disk or a mounted bucket. Measured nowhere: an assumption on the safe side."""


def grace_seconds(config: TrainConfig) -> int:
    """As `bioclip-jax plan` counts, which knows the step and is told the storage."""
    return grace.grace_seconds(STEP_SECONDS, grace.checkpoint_bytes(config) / BYTES_PER_SECOND)
