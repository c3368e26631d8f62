"""Which record stands at (step, row): a pure function of the seed, whatever the hosts, workers and restarts.

Rows of steps are places 0, 1, 2, ... of one endless sequence. A mixture gives each place to a dataset, whose own places
run through one permutation of its records after the other: every record once an epoch, and none of it needs memory.

With `block_size`, records that lie together stay together: whole blocks are permuted, and the records within each. The
batch is then split into lanes, each of which works through a block of its own over several steps, so that the hosts
that own a lane fetch its blocks once, in pieces that object storage serves well, and a batch holds many blocks.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from grain.experimental import index_shuffle

from bioclip_jax.errors import UsageError

MOST_RECORDS = 2**32 - 2
"""Of one dataset: Grain's index shuffle has 32-bit indices."""
_LANES = 256  # at most; hosts up to this number own whole lanes
_SLOTS = 4096  # of a mixture's period, so weights are kept to 1 in 4096
_ROUNDS = 4
_HELD = 2**14  # of fewer numbers a table is quicker: Grain's shuffle takes up to 100 us for them


@dataclass(frozen=True)
class Order:
    """The endless sequence of one dataset's records.

    Attributes:
      records: how many there are.
      seed: another one is another order.
      block_size: records that stay together.
      replacement: draws each place at random instead, as the reference draws its shards: after an epoch's worth of
        places about 37 % of the records have not been seen.
    """

    records: int
    seed: int
    block_size: int = 1
    replacement: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.records <= MOST_RECORDS:
            raise UsageError(f"a dataset of {self.records:,} records: from 1 to {MOST_RECORDS:,} can be put in order")
        if self.block_size < 1:
            raise UsageError(f"block_size is {self.block_size}; it has to be above 0")

    def __getitem__(self, place: int) -> int:
        """The record at `place`, any number from 0."""
        if self.block_size > 1:
            return self._in_blocks(place)
        if self.replacement:
            return _drawn(self.seed, place, self.records)
        epoch, place = divmod(place, self.records)
        return _shuffled(place, self.records, _epoch_seed(self.seed, epoch))

    def _in_blocks(self, place: int) -> int:
        """Whole blocks in random order, then what remains at the end of the dataset."""
        size = min(self.block_size, self.records)
        blocks = self.records // size
        epoch, place = divmod(place, self.records)
        seed = _epoch_seed(self.seed, epoch)
        turn, within = divmod(place, size)
        if turn == blocks:
            return blocks * size + _shuffled(within, self.records - blocks * size, seed)
        drawn = self.replacement
        block = _drawn(self.seed, epoch * blocks + turn, blocks) if drawn else _shuffled(turn, blocks, seed)
        return block * size + _shuffled(within, size, (seed + turn + 1) % 2**32)


@dataclass(frozen=True)
class Mixture:
    """Datasets mixed by weight: which dataset's which record stands at each place of the endless sequence.

    Attributes:
      orders: of the datasets.
      weights: share of each, up to a common factor.
    """

    orders: Sequence[Order]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.orders) != len(self.weights) or not self.orders:
            raise ValueError(f"{len(self.orders)} orders and {len(self.weights)} weights")
        if any(not (0 < weight < math.inf) for weight in self.weights):
            raise UsageError(f"weights of datasets are {tuple(self.weights)}; each has to be above 0")

    def __getitem__(self, place: int) -> tuple[int, int]:
        """(dataset, record) at `place`."""
        if len(self.orders) == 1:
            return 0, self.orders[0][place]
        datasets, turns, counts = _period(tuple(self.weights))
        period, slot = divmod(place, _SLOTS)
        dataset = int(datasets[slot])
        return dataset, self.orders[dataset][period * int(counts[dataset]) + int(turns[slot])]


def place_of(step: int, row: int, batch_size: int, block_size: int = 1) -> int:
    """The place that row `row` of step `step` holds. Every place is held once.

    A lane is a run of `batch_size / lanes` neighbouring rows. Over as many steps as a block lasts it works through
    `block_size` (or a little fewer) neighbouring places.
    """
    lane_rows = batch_size // math.gcd(batch_size, _LANES)
    steps = max(1, block_size // lane_rows) if block_size > 1 else 1
    window, step = divmod(step, steps)
    lane, row = divmod(row, lane_rows)
    return window * steps * batch_size + (lane * steps + step) * lane_rows + row


def neighbours(record: int, records: int) -> list[int]:
    """The records that take the place of one that cannot be used, in this order: 1, 2, 4, 8, ... behind it."""
    return [(record + 2**i) % records for i in range(24) if 2**i < records]


def uniforms(seed: int, places: np.ndarray, count: int) -> np.ndarray:
    """Random numbers of each place, float64 [len(places), count] in [0, 1), from a stream that can be entered anywhere.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): output i of the stream is a hash of seed + i * gamma; a place owns
    the next 64 outputs.

    Args:
      seed: of the stream.
      places: int [n], from 0.
      count: at most 64.
    """
    counter = places.astype(np.uint64)[:, None] * np.uint64(64) + np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        start = _mix(np.array([seed % 2**64], np.uint64))
        hashed = _mix(start + counter * np.uint64(0x9E3779B97F4A7C15))
    return (hashed >> np.uint64(11)) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _drawn(seed: int, place: int, count: int) -> int:
    # Another stream than that of the crops, which would depend on the record.
    return int(uniforms(_epoch_seed(seed, 2**31), np.array([place]), 1)[0, 0] * count)


def _shuffled(index: int, count: int, seed: int) -> int:
    """Where a permutation of `count` numbers takes `index`; one of many numbers is not held in memory."""
    if count <= _HELD:
        return int(_permutation(count, seed)[index])
    return int(index_shuffle(index, max_index=count - 1, seed=seed, rounds=_ROUNDS))


@functools.lru_cache(maxsize=1024)
def _permutation(count: int, seed: int) -> np.ndarray:
    return np.argsort(uniforms(seed, np.arange(count), 1)[:, 0], kind="stable").astype(np.uint16)


@functools.lru_cache(maxsize=256)
def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(1)[0])


@functools.lru_cache(maxsize=16)
def _period(weights: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(dataset of each slot, which of the dataset's slots it is, slots of each dataset): evenly interleaved."""
    exact = np.array(weights) / sum(weights) * _SLOTS
    counts = np.maximum(1, np.floor(exact).astype(int))
    while counts.sum() < _SLOTS:  # by largest remainder
        counts[np.argmax(exact - counts)] += 1
    while counts.sum() > _SLOTS:  # what the smallest took beyond their share
        counts[np.argmax(counts)] -= 1
    dataset = np.repeat(np.arange(len(counts)), counts)
    turn = np.concatenate([np.arange(count) for count in counts])
    slots = np.argsort((turn + 0.5) / counts[dataset], kind="stable")
    return dataset[slots], turn[slots], counts
