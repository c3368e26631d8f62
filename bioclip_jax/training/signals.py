"""How the processes of a run agree: flags that travel with a batch, and the step's maximum over all of them.

Each process puts its own flags into the rows of its devices; the step reduces the rows by their maximum, which costs a
few bytes in a program that reduces gradients anyway. So every process reads the same flags at the same step, and what
all of them do (save, stop) starts at the same step without a further exchange.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import Mesh

from bioclip_jax.parallel.sharding import batch_sharding

STOP, SAVE, PROFILE, ABORT = range(4)
"""Columns: save and end the run; save and go on; profile the next steps; this step's rows are not to be trained on."""
SIGNALS = 4
"""How many columns there are."""


def place_signals(flags: Mapping[int, int], mesh: Mesh) -> jax.Array:
    """int32 [mesh.size, SIGNALS], a row for each device; this process's rows hold the values of `flags` by column."""
    row = np.zeros((1, SIGNALS), np.int32)
    for column, value in flags.items():
        row[0, column] = value
    sharding = batch_sharding(mesh)
    # An explicit transfer, as the loop allows no others.
    rows = [jax.device_put(row, device) for device in sharding.addressable_devices]
    return jax.make_array_from_single_device_arrays((mesh.size, SIGNALS), sharding, rows)
