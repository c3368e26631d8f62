"""A `map` by threads that keeps the order and a bounded number of results in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")


def ordered_map(
    pool: ThreadPoolExecutor, function: Callable[[int], Item], indices: Iterable[int], window: int
) -> Iterator[Item]:
    """`map(function, indices)` by the threads of the pool, in order, with at most `window` results waiting."""
    waiting: deque[Future[Item]] = deque()
    try:
        for index in indices:
            waiting.append(pool.submit(function, index))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
