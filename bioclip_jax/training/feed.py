"""Batches on their way to the devices: a thread takes them from the loaders and sends them while a step computes."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Mapping
from typing import NamedTuple

import jax
import numpy as np

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

    def __init__(self, batches: Generator[Mapping[str, Batch]], sharding: jax.sharding.Sharding):
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


def _place(batch: Mapping[str, Batch], sharding: jax.sharding.Sharding) -> Placed:
    streams = {
        name: {"image": place(one.image, sharding), "tokens": place(one.tokens, sharding)}
        for name, one in batch.items()
    }
    return Placed(
        streams,
        {name: len(one.image) for name, one in batch.items()},
        {name: one.replaced for name, one in batch.items()},
    )


def place(rows: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """This process's rows as an array of the global batch, on the devices."""
    return jax.make_array_from_process_local_data(sharding, rows)
