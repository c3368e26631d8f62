"""Ablations of BioCLIP 2: its config, and the same with one thing changed in each variant.

bioclip-jax train ablations:sigmoid --dry-run
bioclip-jax launch slurm ablations --nodes 4 --micro-batches 4 --work-dir RUNS --data.dataset BIO --replay.dataset LAION
bioclip-jax report RUNS --csv ablations.csv

The second line trains all variants, each in a folder of its own (docs/sweeps.md). Fields that are given hold for every
one of them: `--total-steps 14256` makes the runs short. `cooldown` still cools down over 7,128 of them. The first
variant is the recipe itself, the last four are what upstream does by mistake or for want of memory.
"""

import dataclasses
from typing import Any

from bioclip_jax.config import TrainConfig
from bioclip_jax.recipes import load_recipe

_BASE: TrainConfig = load_recipe("configs", "bioclip2").config
_STEPS_PER_EPOCH = _BASE.steps_per_epoch


def _with(part: str, **fields: Any) -> TrainConfig:
    """The recipe with fields of one of its parts changed."""
    return dataclasses.replace(_BASE, **{part: dataclasses.replace(getattr(_BASE, part), **fields)})


configs = {
    "bioclip2": _BASE,
    "no-replay": dataclasses.replace(_BASE, replay_batch_size=0),
    "one-projector": _with("model", replay_projector=False),
    "flat-species": _with("loss", kind="species"),
    "one-text-type": _with("data", text_types=("taxon",)),
    "text-type-per-sample": _with("data", text_type_per_sample=True),
    "several-positives": _with("loss", several_positives=True),
    "sigmoid": _with("loss", kind="sigmoid"),
    "cooldown": _with("optimizer", schedule="constant", cooldown_steps=_BASE.total_steps // 10),
    "locked-image-tower": _with("optimizer", locked=("visual",)),
    "moving-average": _with("optimizer", ema_decay=0.9999),
    "own-normalization": dataclasses.replace(_BASE, normalization="preprocessing"),
    "repeated-replay": _with("replay", restart_every_steps=_STEPS_PER_EPOCH),
    "drawn-with-replacement": _with("data", with_replacement=True),
    "pure-bfloat16": dataclasses.replace(_BASE, parameter_dtype="bfloat16"),
    "untrimmed-text": _with("data", trim_text=False),
}
