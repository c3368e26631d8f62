"""How long a run needs between SIGTERM and its end, by arithmetic and without JAX.

docs/training.md, "What a run promises", says what it does in that time.
"""

from __future__ import annotations

import math

from bioclip_jax.config import TrainConfig
from bioclip_jax.models.sizes import image_tower_parameters, parameter_count, text_tower_parameters

_AGREED_STEPS = 4  # between a signal and the step that is saved, at most
_SPARE_SECONDS = 30.0  # for processes to end in
_COUNTERS = 3 * 4  # step, skipped steps, the optimiser's count


def grace_seconds(step_seconds: float, save_seconds: float) -> int:
    """Steps in which the processes agree, a save that has begun, the one that the signal asks for, and half a minute.

    Args:
        step_seconds: of the longest step that is to be expected.
        save_seconds: of one checkpoint.

    Returns:
        seconds, rounded up to half minutes.
    """
    needed = _AGREED_STEPS * step_seconds + 2 * save_seconds + _SPARE_SECONDS
    return math.ceil(needed / 30) * 30


def checkpoint_bytes(config: TrainConfig) -> int:
    """Of parameters, two moments of those that learn, and the average where there is one.

    To the byte but for the classifier of the species loss, whose size is the data's (under 1 % of a checkpoint).
    """
    size = 4 if config.parameter_dtype == "float32" else 2
    first_moment = 2 if config.optimizer.moment_dtype == "bfloat16" else size
    copies = 2 if config.optimizer.ema_decay else 1
    towers = {"visual": image_tower_parameters(config.model), "text": text_tower_parameters(config.model)}
    count = parameter_count(config.model)
    learning = count - sum(towers[name] for name in config.locked)
    return count * copies * size + learning * (first_moment + size) + _COUNTERS
