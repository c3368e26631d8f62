"""What a compiler is asked and what came back, as JSON: it travels to the process that compiles, and is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from bioclip_jax.config import CheckpointConfig, DataConfig, EvaluationConfig, TrainConfig
from bioclip_jax.config_json import from_dict, to_json
from bioclip_jax.planning.answer import Answer, Exchange, Memory

# A step's program knows nothing of these fields.
_NO_MATTER: dict[str, Any] = {
    "data": DataConfig(),
    "replay": DataConfig(dataset=""),
    "checkpoint": CheckpointConfig(),
    "evaluation": EvaluationConfig(),
    "initial_weights": "",
    "steps_per_epoch": 0,
    "seed": 42,
    "max_skipped_steps": 100,
    "log_every": 10,
}
_ANY_REPLAY = DataConfig(dataset="replay", text_types=("caption",))


@dataclasses.dataclass(frozen=True)
class Question:
    """Does this config's step fit these devices, and what does it do there? `ask_about` makes one."""

    config: TrainConfig
    """With defaults where the step does not depend on a field: equal steps are equal questions."""
    topology: str
    """In its long form, as v5e:16x16."""
    tokens: Mapping[str, int]
    """Length of the captions of each stream."""

    def to_json(self) -> str:
        """Equal questions have equal text."""
        content = {"config": json.loads(to_json(self.config)), "topology": self.topology, "tokens": dict(self.tokens)}
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Question:
        """The question that `to_json` wrote."""
        content = json.loads(text)
        return cls(from_dict(TrainConfig, content["config"]), content["topology"], content["tokens"])


def ask_about(config: TrainConfig, topology: str, tokens: Mapping[str, int]) -> Question:
    """The question whether `config` fits a topology, without what makes no difference to the answer."""
    c = config.optimizer
    same = _NO_MATTER | ({"replay": _ANY_REPLAY} if config.replay_batch_size else {})
    # One number in the learning rate's schedule; not less than what the config checks.
    same["total_steps"] = c.warmup_steps + c.cooldown_steps + 10_000
    return Question(dataclasses.replace(config, **same), topology, dict(tokens))


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer, and what only who has JAX at hand can say."""

    answer: Answer
    checkpoint_bytes: int
    """Of the whole state: parameters, moments, average, counters."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Reply:
        """The reply that `to_json` wrote.

        Raises:
            ValueError, KeyError, TypeError, AttributeError: it is damaged.
        """
        fields = dict(content["answer"])
        memory = fields.pop("memory")
        answer = Answer(
            **fields
            | {
                "memory": None if memory is None else Memory(**memory),
                "exchanges": tuple(Exchange(**each) for each in fields["exchanges"]),
                "parts": {name: (float(low), float(high)) for name, (low, high) in fields["parts"].items()},
            }
        )
        return cls(answer, int(content["checkpoint_bytes"]))
