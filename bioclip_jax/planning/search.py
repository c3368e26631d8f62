"""Finds settings that fit with few compilations: what a step that does not fit needs is known in seconds, a step that
fits takes minutes.

`settings` keeps the batch and looks for the quickest remat policy, sharding and number of micro-batches; `batch` keeps
those and looks for the largest batch. Both assume that memory falls from one remat policy to the next, with sharding
and with micro-batches, and rises with the batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from bioclip_jax.config import MeshConfig, TrainConfig
from bioclip_jax.models.sizes import parameter_count
from bioclip_jax.planning.answer import Answer
from bioclip_jax.planning.machine import Machine
from bioclip_jax.planning.work import REMAT_POLICIES, expected_seconds

Ask = Callable[[Sequence[TrainConfig]], Sequence[Answer]]
"""Answers about several configs that may be compiled at the same time."""
Left = Callable[[int], None]
"""Is told how many questions may still come."""

_MOST_MICRO_BATCHES = 64
_MOST_SHARES = 64
_BYTES_OF_A_PARAMETER = 32  # more than weight, moments, average, gradient and working copies take together
_RESOLUTION = 0.02
_ROWS = 8  # a batch is looked for in steps of so many rows of a device, where it has several times as many


@dataclasses.dataclass(frozen=True)
class Tried:
    """A config that was asked about."""

    config: TrainConfig
    answer: Answer


def settings_of(config: TrainConfig) -> tuple[int, bool, int, int]:
    """What the search turns, each rising as memory falls: remat policy, split moments, shares, micro-batches."""
    mesh = config.mesh
    return REMAT_POLICIES.index(config.remat_policy), mesh.shard_optimizer, mesh.fsdp, config.micro_batches


def candidates(config: TrainConfig, machine: Machine) -> list[TrainConfig]:
    """All settings for the config's batch that divide, its own sharding among them."""
    meshes, within = [config.mesh], machine.devices // machine.networks
    if machine.devices > 1:
        meshes.append(dataclasses.replace(config.mesh, shard_optimizer=True))
        shares = [shares for shares in _powers(_MOST_SHARES) if not within % shares]
        meshes += [MeshConfig(fsdp=count, shard_optimizer=True) for count in shares]
    batches = (config.global_batch_size, config.replay_batch_size)
    parts = [
        parts
        for parts in sorted({*_powers(_MOST_MICRO_BATCHES), config.micro_batches})
        if not any(size % (machine.devices * parts) for size in batches)
    ]
    return [
        dataclasses.replace(config, mesh=mesh, micro_batches=count, remat_policy=policy)
        for mesh in dict.fromkeys(meshes)
        for count in parts
        for policy in REMAT_POLICIES
    ]


def _powers(most: int) -> Iterator[int]:
    power = 1
    while power <= most:
        yield power
        power *= 2


class _Settings:
    """Candidates that may still be the quickest that fits."""

    def __init__(self, config: TrainConfig, machine: Machine, tokens: Mapping[str, int]):
        self._own_mesh, self._machine, self._tokens = config.mesh, machine, tokens
        self._parameters = parameter_count(config.model)
        self.left = sorted(candidates(config, machine), key=self._cost)

    def _cost(self, one: TrainConfig) -> tuple[float, ...]:
        """What is arithmetically equal differs in what it keeps, and in its distance from the config's own."""
        return (
            expected_seconds(one, self._tokens, self._machine),
            one.mesh != self._own_mesh,
            *map(float, settings_of(one)),
        )

    def next(self, at_a_time: int, *, is_first: bool) -> list[TrainConfig]:
        """From the group of the quickest: evenly spaced; of a later group first the one that needs least memory."""
        quickest = self.left[0]
        group = [one for one in self.left if _same_group(one, quickest)]
        if not is_first and at_a_time == 1 and len(group) == len(REMAT_POLICIES):
            return [group[-1]]
        count = min(at_a_time, len(group))
        return [group[(2 * place + 1) * len(group) // (2 * count)] for place in range(count)]

    def learn(self, config: TrainConfig, answer: Answer) -> None:
        """Leaves out what an answer decides."""
        if answer.fits:
            cost = self._cost(config)
            self.left = [one for one in self.left if self._cost(one) < cost]
            return
        hopeless = [config, *(one for one in self.left if self._cannot_fit(one, config, answer))]
        self.left = [one for one in self.left if not any(_needs_more(one, other) for other in hopeless)]

    def _cannot_fit(self, one: TrainConfig, refused: TrainConfig, answer: Answer) -> bool:
        """Whether even what sharding and micro-batches can save at most is not enough."""
        if one.remat_policy != refused.remat_policy or not _needs_more(refused, one):
            return False
        saved = self._parameters * _BYTES_OF_A_PARAMETER * (1 / refused.mesh.fsdp - 1 / one.mesh.fsdp)
        if one.mesh.shard_optimizer != refused.mesh.shard_optimizer:
            saved += self._parameters * _BYTES_OF_A_PARAMETER
        return (answer.needed - saved) * refused.micro_batches / one.micro_batches > answer.available

    def best(self, tried: Sequence[Tried]) -> TrainConfig | None:
        """The quickest of those that fit."""
        return min((one.config for one in tried if one.answer.fits), key=self._cost, default=None)


def _same_group(one: TrainConfig, other: TrainConfig) -> bool:
    return (one.mesh, one.micro_batches) == (other.mesh, other.micro_batches)


def _needs_more(one: TrainConfig, other: TrainConfig) -> bool:
    """Whether `one` needs at least as much memory as `other`, in every respect."""
    return all(a <= b for a, b in zip(settings_of(one), settings_of(other), strict=True))


def search_settings(
    config: TrainConfig, machine: Machine, tokens: Mapping[str, int], ask: Ask, at_a_time: int, left: Left
) -> tuple[TrainConfig | None, list[Tried]]:
    """The quickest settings with which the config's batch fits (None: there are none), and all that was asked.

    Quick is what takes least arithmetic and fewest exchanges of parameters; of equals, the config's own sharding.
    """
    open_, tried = _Settings(config, machine, tokens), list[Tried]()
    while open_.left:
        left(min(len(open_.left), math.ceil(math.log2(len(open_.left) + 1)) + 1))
        asked = open_.next(at_a_time, is_first=not tried)
        for one, answer in zip(asked, ask(asked), strict=True):
            tried.append(Tried(one, answer))
            open_.learn(one, answer)
    left(0)
    return open_.best(tried), tried


def search_batch(config: TrainConfig, machine: Machine, ask: Ask, left: Left) -> tuple[TrainConfig | None, list[Tried]]:
    """The largest batch that fits with the config's settings, and all that was asked; None where not one row fits.

    It is found to 2 % or to 8 rows of a device, whichever is more; where a device has few rows, exactly.

    Memory is nearly a straight line over the batch, so that two points tell where the next one has to be. Replay keeps
    its share of the batch.
    """
    search, tried = _Batch(config, machine), list[Tried]()
    while (rows := search.next()) is not None:
        left(search.left)
        one = search.config(rows)
        answer = ask([one])[0]
        tried.append(Tried(one, answer))
        search.learn(rows, answer)
    left(0)
    return search.config(search.low) if search.low else None, tried


class _Batch:
    """Rows of organisms on each device and in each micro-batch: `low` fits, `high` does not."""

    def __init__(self, config: TrainConfig, machine: Machine):
        self._config, self._base = config, machine.devices * config.micro_batches
        self.low, self.high = 0, 0
        self._points: dict[int, tuple[int, int]] = {}
        self._narrowed, self._available = True, 0
        self._least = -(-2 // self._base)  # a contrastive batch has two rows

    def config(self, rows: int) -> TrainConfig:
        """With so many rows, and replay's share of them."""
        c = self._config
        replay = round(rows * c.replay_batch_size / c.global_batch_size)
        replay = max(replay, self._least) if c.replay_batch_size else 0
        return dataclasses.replace(c, global_batch_size=rows * self._base, replay_batch_size=replay * self._base)

    @property
    def left(self) -> int:
        """Questions that may still come, this one included."""
        return max(math.ceil(math.log2((self.high - self.low) / self._step)), 1) if self.high else 4

    @property
    def _step(self) -> int:
        return self._grid(max(self.low * _RESOLUTION, 1), math.ceil)

    def _grid(self, rows: float, rounded: Callable[[float], int] = math.floor) -> int:
        grid = _ROWS if (self.low or self.high) >= 4 * _ROWS else 1
        return grid * rounded(rows / grid)

    def next(self) -> int | None:
        """Rows to ask about; None when the answer is known."""
        if not self._points:
            return max(self._config.global_batch_size // self._base, self._least)
        if not self.high:
            return max(self._grid(min(self._predicted(), 16.0 * self.low)), self.low + self._step)
        if self.high - max(self.low, self._least - 1) <= self._step:
            return None
        rows = self._predicted() if self._narrowed else (self.low + self.high) / 2
        return min(max(self._grid(rows), self.low + self._step, self._least), self.high - 1)

    def learn(self, rows: int, answer: Answer) -> None:
        """Narrows the range."""
        before = self.high - self.low if self.high else 0
        needed, fixed = answer.needed, 0
        if answer.memory is not None:
            m = answer.memory
            needed, fixed = m.total, m.parameters + m.optimizer + m.code
        self._points[rows], self._available = (needed, fixed), answer.available
        if answer.fits:
            self.low = rows
        else:
            self.high = rows
        self._narrowed = not before or (self.high - self.low) * 2 <= before

    def _predicted(self) -> float:
        """Where a straight line through the nearest points reaches the memory that there is."""
        nearest = [rows for rows in (self.low, self.high) if rows in self._points]
        if len(nearest) < 2:
            below = sorted(rows for rows in self._points if rows not in nearest)
            nearest = below[-1:] + nearest if self.low else nearest + below[:1]
        if len(nearest) == 1:
            rows, (needed, fixed) = nearest[0], self._points[nearest[0]]
            return rows * (self._available - fixed) / max(needed - fixed, 1)
        (x, (y, _)), (x2, (y2, _)) = ((rows, self._points[rows]) for rows in nearest)
        return x + (self._available - y) * (x2 - x) / (y2 - y) if y2 != y else (x + x2) / 2
