"""Batches on their way to the devices: a thread takes them from the loaders and sends them while a step computes."""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Generator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from bioclip_jax.parallel.sharding import rows_here
from bioclip_jax.pipeline.bad_samples import Replaced
from bioclip_jax.pipeline.loader import Batch


class Placed(NamedTuple):
    """The rows of a step, on the devices."""

    streams: dict[str, dict[str, jax.Array]]
    samples: dict[str, int]
    """Rows of each stream that this process made."""
    replaced: dict[str, tuple[Replaced, ...]]
    """Records of them that could not be used."""


class DeviceFeed:
    """An iterator of placed batches, one or two steps ahead; `close` ends its thread and the loaders behind it.

    Args:
        batches: of each stream, step by step.
        sharding: of a global batch.
    """

    def __init__(self, batches: Generator[Mapping[str, Batch]], sharding: jax.sharding.NamedSharding):
        self._batches, self._sharding = batches, sharding
        self._ready: queue.Queue[Placed | BaseException | None] = queue.Queue(maxsize=1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> DeviceFeed:
        return self

    def __next__(self) -> Placed:
        """The next step's batch; raises what the loaders raised."""
        item = self._ready.get()
        if isinstance(item, Placed):
            return item
        self._ready.put(item)  # for whoever asks again
        raise StopIteration if item is None else item

    @property
    def is_ready(self) -> bool:
        """Whether the next batch is there."""
        return not self._ready.empty()

    def close(self) -> None:
        """Ends the thread, and what works ahead behind it."""
        self._closed.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get(timeout=0.1)
        self._thread.join()

    def _run(self) -> None:
        end: BaseException | None = None
        try:
            for batch in self._batches:
                placed = _place(batch, self._sharding)
                if not self._put(placed):
                    break
        except BaseException as error:  # it belongs to the thread that asks for batches
            end = error
        finally:
            self._batches.close()
            self._put(end)

    def _put(self, item: Placed | BaseException | None) -> bool:
        while not self._closed.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=0.1)
                return True
        return False


def _place(batch: Mapping[str, Batch], sharding: jax.sharding.NamedSharding) -> Placed:
    return Placed(
        {name: {field: place(rows, sharding) for field, rows in _arrays(one)} for name, one in batch.items()},
        {name: len(one.image) for name, one in batch.items()},
        {name: one.replaced for name, one in batch.items()},
    )


def _arrays(batch: Batch) -> list[tuple[str, np.ndarray]]:
    return [(name, rows) for name, rows in batch._asdict().items() if isinstance(rows, np.ndarray)]


def place(rows: np.ndarray, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """This process's rows, ascending, as an array of the global batch: on whichever of its devices each belongs."""
    processes = sharding.num_devices // len(sharding.addressable_devices)
    shape = (len(rows) * processes, *rows.shape[1:])
    position = _positions(sharding, shape[0])

    def of_device(index: tuple[slice, ...] | None) -> np.ndarray:
        start, stop, _ = (index or (slice(None),))[0].indices(shape[0])
        return rows[position[start] : position[start] + stop - start]

    return jax.make_array_from_callback(shape, sharding, of_device)


@functools.lru_cache(maxsize=16)
def _positions(sharding: jax.sharding.NamedSharding, rows: int) -> Mapping[int, int]:
    """Where each row that this process holds stands among them."""
    return {row: position for position, row in enumerate(rows_here(sharding, rows))}


def place_nothing(abstract_batch: Any) -> dict[str, dict[str, jax.Array]]:
    """Zeros in the place of a batch, for a step that is not to be trained on."""

    def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return place(
            np.zeros((len(rows_here(leaf.sharding, leaf.shape[0])), *leaf.shape[1:]), leaf.dtype), leaf.sharding
        )

    with jax.transfer_guard("allow"):
        nothing: dict[str, dict[str, jax.Array]] = jax.tree.map(zeros, abstract_batch)
    return nothing
