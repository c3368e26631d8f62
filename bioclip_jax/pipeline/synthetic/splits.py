"""Which species and how many images of each the splits of the synthetic world have."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.pipeline.synthetic.counter import Draws, uniforms
from bioclip_jax.pipeline.synthetic.source import SyntheticSource
from bioclip_jax.pipeline.synthetic.world import World, build_world
from bioclip_jax.text.taxonomy import RANKS


def synthetic_splits(
    *,
    num_images: int,
    num_species: int,
    image_size: int,
    seed: int,
    missing_ranks: float,
    missing_common_names: float,
    tail: float,
    unseen_share: float,
    test_images_per_species: int,
    variation: float,
) -> dict[str, RecordSource]:
    """The splits of `data/synthetic.py`; its docstring documents the arguments.

    Raises:
        UsageError: an argument is outside its range, or too few species have relatives for the share of unseen ones.
    """
    for name, value in (("num_images", num_images), ("test_images_per_species", test_images_per_species)):
        if value < 1:
            raise UsageError(f"{name}: {value} is not positive")
    if not 8 <= image_size <= 4096:
        raise UsageError(f"image_size: {image_size} is not between 8 and 4096 pixels")
    shares = {
        "missing_ranks": missing_ranks,
        "missing_common_names": missing_common_names,
        "unseen_share": unseen_share,
    }
    for name, share in shares.items():
        if not 0.0 <= share < 1.0:
            raise UsageError(f"{name}: {share} is not a share from 0 to below 1")
    if not 0.0 <= tail <= 4.0:
        raise UsageError(f"tail: {tail} is not between 0 (even) and 4")
    if not 0.0 <= variation <= 1.5:
        raise UsageError(f"variation: {variation} is not between 0 (none) and 1.5")
    arguments = (num_species, seed, missing_common_names)
    world = build_world(*arguments)
    unseen = _choose_unseen(world, unseen_share)
    draws = Draws(seed, "order")
    seen = np.setdiff1d(np.arange(num_species), unseen)
    seen = seen[np.argsort(draws.uniform(len(seen)))]
    weights = np.exp(tail * draws.normal(len(seen)))
    splits: dict[str, RecordSource] = {
        "train": SyntheticSource(arguments, "train", num_images, seen, weights, image_size, missing_ranks, variation)
    }
    for split, species in (("test", seen), ("test_unseen", unseen)):
        if len(species):
            count = len(species) * test_images_per_species
            splits[split] = SyntheticSource(arguments, split, count, species, None, image_size, 0.0, variation)
    return splits


def _choose_unseen(world: World, share: float) -> np.ndarray:
    """Species kept out of training, sorted, at random, whose relatives stay: first in pairs of one genus, then of one
    family, so that they have relatives among themselves too; last one by one, if need be as the last of their genus.
    """
    total = world.tree.num_species
    count = round(share * total)
    order = np.argsort(uniforms(total, seed=world.seed, stream="order", index=1)).tolist()
    nodes = {rank: world.ancestors[:, RANKS.index(rank)].tolist() for rank in ("genus", "family")}
    chosen: dict[int, None] = {}
    for rank in ("genus", "family"):
        groups: dict[int, list[int]] = {}
        for species in order:
            if species not in chosen:
                groups.setdefault(nodes[rank][species], []).append(species)
        for group in groups.values():
            spare = _spare(group, nodes["genus"])
            most = min(count - len(chosen), len(spare), max(2, len(group) // 2))
            chosen |= dict.fromkeys(spare[: most // 2 * 2])
    for rank in ("genus", "family"):
        spare = _spare([species for species in order if species not in chosen], nodes[rank])
        chosen |= dict.fromkeys(spare[: count - len(chosen)])
    if len(chosen) < count:
        raise UsageError(
            f"unseen_share: {share} of {total} species cannot be kept out of train, which needs one of every family; "
            f"use {math.floor(100 * len(chosen) / total) / 100} or less"
        )
    return np.sort(np.array(list(chosen), np.int64))


def _spare(group: list[int], nodes: list[int]) -> list[int]:
    """Those species of `group` that can go, in its order, while every one of their nodes keeps its last."""
    left = Counter(nodes[species] for species in group)
    spare = []
    for species in group:
        if left[nodes[species]] > 1:
            left[nodes[species]] -= 1
            spare.append(species)
    return spare
