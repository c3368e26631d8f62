"""Trees of arrays on disk, by Orbax, and the hash that names a set of weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bioclip_jax.errors import UserError

CHUNK_BYTES = 2**22


def load_tree(path: Path, abstract: Any) -> Any:
    """The part of an Orbax checkpoint that `abstract` (a tree of `jax.ShapeDtypeStruct`) names.

    Arrays lie where their struct's sharding says, on the first local device where it says nothing.

    Raises:
        UserError: there is no finished checkpoint at `path`, or it does not hold those arrays.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), abstract
    )
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    try:
        with context:
            return ocp.load(path, placed)
    except (OSError, ValueError, KeyError, TypeError, ocp.errors.InvalidLayoutError) as error:
        raise UserError(f"{path}: not a readable checkpoint of this model ({first_line(error)})") from None


def save_tree(path: Path, tree: Any) -> None:
    """Writes a tree of NumPy arrays as an Orbax checkpoint, with little memory beyond the arrays themselves.

    Raises:
        OSError: it cannot be written.
    """
    context = ocp.Context()
    # The arrays stay as they are until this returns, and weights do not compress: either would hold another copy.
    context.memory.deepcopy_host_arrays = False
    context.array.saving.use_compression = False
    # In parts, so that a process that needs some of an array reads little more than that.
    context.array.saving.storage_options.chunk_byte_size = CHUNK_BYTES
    with context:
        ocp.save(path.absolute(), tree)


def describe_tree(path: Path) -> Any:
    """The tree of a checkpoint with a `jax.ShapeDtypeStruct` for each array.

    Raises:
        UserError: there is no finished checkpoint at `path`.
    """
    try:
        tree = ocp.metadata(path.absolute()).metadata
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ocp.errors.InvalidLayoutError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({first_line(error)})") from None


def weights_hash(leaves: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 over paths, types, shapes and bytes of arrays, in any order: the same weights have one hash anywhere."""
    digests = []
    for path, leaf in leaves:
        array = np.ascontiguousarray(np.asarray(leaf))
        digest = hashlib.sha256(json.dumps([path, str(array.dtype), np.shape(leaf)]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
        digests.append(digest.hexdigest())
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a one-line report."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
