"""How the processes of a run agree: flags that travel with a batch, and the step's maximum over all of them.

Each process puts its own flags into the rows of its devices; the step reduces the rows by their maximum (one column, a
count, by its sum), which costs a few bytes in a program that reduces gradients anyway. So every process reads the same
flags at the same step, and what all of them do (save, stop) starts at the same step without a further exchange.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Int32

from bioclip_jax.parallel.sharding import batch_sharding

STOP, SAVE, PROFILE, ABORT, WAITED, REPLACED = range(6)
"""Columns: save and end the run; save and go on; profile the next steps; this step's rows are not to be trained on;
milliseconds that the step's data were waited for; bad samples among them."""
SIGNALS = 6
"""How many columns there are."""
SUMMED = REPLACED
"""The column that is added up over the processes; of the others the largest counts."""


def place_signals(flags: Mapping[int, int], mesh: Mesh) -> jax.Array:
    """int32 [mesh.size, SIGNALS], a row for each device; this process's rows hold the values of `flags` by column.

    What is added up stands in the first of them only.
    """
    row = np.zeros((1, SIGNALS), np.int32)
    for column, value in flags.items():
        row[0, column] = value
    others = row.copy()
    others[0, SUMMED] = 0
    sharding = batch_sharding(mesh)
    # An explicit transfer, as the loop allows no others.
    rows = [
        jax.device_put(others if number else row, device) for number, device in enumerate(sharding.addressable_devices)
    ]
    return jax.make_array_from_single_device_arrays((mesh.size, SIGNALS), sharding, rows)


def reduced(signals: Int32[Array, "devices columns"]) -> Int32[Array, " columns"]:
    """What all processes say together, within the step."""
    return jnp.max(signals, axis=0).at[SUMMED].set(jnp.sum(signals[:, SUMMED], dtype=jnp.int32))
