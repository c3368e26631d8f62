"""The device mesh: two axes, `data` (replicas) and `fsdp` (split parameters); the batch is split over both."""

from __future__ import annotations

import jax
from jax.sharding import AxisType, Mesh

from bioclip_jax.errors import UsageError

BATCH_AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1) -> Mesh:
    """A mesh of all local devices: `data` replicas (-1: all that are left) times `fsdp` shares of the parameters.

    Raises:
        UsageError: the two sizes do not multiply to the number of devices.
    """
    count = jax.local_device_count()
    if fsdp < 1 or count % fsdp:
        raise UsageError(f"mesh.fsdp is {fsdp}, which does not divide the {count} devices of this machine")
    data = count // fsdp if data == -1 else data
    if data * fsdp != count:
        raise UsageError(f"mesh.data {data} x mesh.fsdp {fsdp} is not the {count} devices of this machine")
    # Auto on purpose: the default (Explicit) raises at trace time where the compiler can decide.
    return jax.make_mesh((data, fsdp), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))
