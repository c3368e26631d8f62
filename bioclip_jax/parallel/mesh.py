"""The mesh of a run: replicas times shares of the parameters; the batch is split over both.

One function for a CPU, a GPU, several nodes of GPUs, a TPU slice and several slices. Where devices lie in several
slices or nodes, replicas go over the slow network between them and shares stay within the fast one.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from bioclip_jax.errors import UsageError

BATCH_AXES = ("data", "fsdp")


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of all devices of all processes: `data` replicas (-1: all that are left) times `fsdp` shares.

    Args:
        data: replicas of the parameters.
        fsdp: devices over which parameters are split.
        devices: to use instead, as those of a topology that is only compiled for.

    Raises:
        UsageError: the two sizes do not multiply to the number of devices, or a share would lie in another slice.
    """
    devices = list(jax.devices() if devices is None else devices)
    count, slices = len(devices), _slices(devices)
    where = "devices of this machine" if jax.process_count() == 1 else "devices"
    if fsdp < 1 or count % fsdp:
        raise UsageError(f"mesh.fsdp is {fsdp}, which does not divide the {count} {where}")
    data = count // fsdp if data == -1 else data
    if data * fsdp != count:
        raise UsageError(f"mesh.data {data} x mesh.fsdp {fsdp} is not the {count} {where}")
    if count // slices % fsdp:
        raise UsageError(
            f"mesh.fsdp is {fsdp}, which does not divide the {count // slices} devices of each of the {slices} slices "
            "or nodes; shares of the parameters stay within one"
        )
    # Auto on purpose: the default (Explicit) raises at trace time where the compiler can decide.
    return Mesh(_arranged(devices, data, fsdp, slices), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def _arranged(devices: Sequence[jax.Device], data: int, fsdp: int, slices: int) -> np.ndarray:
    """[data, fsdp] of devices, neighbours in the mesh being neighbours in the network."""
    if slices > 1:  # jax.make_mesh refuses these
        return mesh_utils.create_hybrid_device_mesh(
            (data // slices, fsdp), (slices, 1), devices, allow_split_physical_axes=True
        )
    return mesh_utils.create_device_mesh((data, fsdp), devices, allow_split_physical_axes=True)


def _slices(devices: Sequence[jax.Device]) -> int:
    """TPU slices, or nodes whose GPUs are linked among themselves: JAX numbers both so."""
    return len({getattr(device, "slice_index", 0) for device in devices})
