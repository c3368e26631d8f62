"""Trees of arrays on disk, by Orbax, and the hash that names a set of weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from bioclip_jax.errors import UserError


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


def weights_hash(parameters: Any) -> str:
    """SHA-256 over names, types, shapes and bytes of a tree of arrays: the same weights have the same hash anywhere."""
    digest = hashlib.sha256()
    for path, leaf in sorted(jax.tree.leaves_with_path(parameters), key=lambda item: jax.tree_util.keystr(item[0])):
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(json.dumps([jax.tree_util.keystr(path), str(array.dtype), array.shape]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a one-line report."""
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:300]
