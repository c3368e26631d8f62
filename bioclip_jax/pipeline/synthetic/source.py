"""Records of the synthetic world: each a pure function of (seed, split, index), so any number of them needs no disk."""

from __future__ import annotations

import json
import operator

import cv2
import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.record import Record, RecordSource
from bioclip_jax.pipeline.synthetic.counter import Draws, uniforms
from bioclip_jax.pipeline.synthetic.phenotype import GAITS, SEXES, STAGES
from bioclip_jax.pipeline.synthetic.phylogeny import RANKS
from bioclip_jax.pipeline.synthetic.render import Light, Pose, render
from bioclip_jax.pipeline.synthetic.traits import HABITATS
from bioclip_jax.pipeline.synthetic.world import World, build_world

HABITAT_FIDELITY = 0.65
"""Share of individuals photographed in their species' habitat; the rest in another that its body plan can live in."""
JUVENILES = 0.4
_DRAWS = 96
# Probabilities of the finest rank known, given that a label is cut off at the fine end (species missing most often).
_CUTS = (("genus", 0.60), ("family", 0.25), ("order", 0.10), ("class", 0.05))
_HOLES = ("phylum", "class", "order", "family")
_SHARE_OF_HOLES = 0.25
_ROTATIONS = {"side": 8.0, "above": 45.0, "afloat": 20.0}  # largest rotation by view, degrees


class SyntheticSource:
    """One split. Indices below the number of its species show each species once; the rest follow `weights`.

    Args:
        world: arguments of `build_world`.
        split: "train", "test" or "test_unseen"; individuals of different splits are different.
        num_images: how many records.
        species: numbers of the species in this split, int [k].
        weights: how often each of them is photographed, float [k]; None for the same number each, in turn.
        image_size: pixels.
        missing_ranks: share of records without a full seven-rank label.
        variation: how much pose and light vary between individuals; 1 as in `_pose` and `_light`, 0 not at all.
    """

    def __init__(
        self,
        world: tuple[int, int, float],
        split: str,
        num_images: int,
        species: np.ndarray,
        weights: np.ndarray | None,
        image_size: int,
        missing_ranks: float,
        variation: float,
    ):
        self._arguments = world
        self._world: World | None = None
        self.split = split
        self.num_images = num_images
        self.species = species
        self._edges = None if weights is None else np.cumsum(weights)[:-1] / np.sum(weights)
        self.image_size = image_size
        self.missing_ranks = missing_ranks
        self.variation = variation

    @property
    def world(self) -> World:
        """The world, built on first use in each process."""
        if self._world is None:
            self._world = build_world(*self._arguments)
        return self._world

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_world": None}

    def __len__(self) -> int:
        return self.num_images

    def species_of(self, index: int, u: float) -> int:
        """The species at an index, given the record's first uniform."""
        if self._edges is None or index < len(self.species):
            return int(self.species[index % len(self.species)])
        return int(self.species[np.searchsorted(self._edges, u, side="right")])

    def __getitem__(self, index: int) -> Record:
        index = operator.index(index)
        if index < 0:
            index += self.num_images
        if not 0 <= index < self.num_images:
            raise IndexError(f"record {index} of a split of {self.num_images}")
        world = self.world
        u = uniforms(_DRAWS, seed=world.seed, stream=self.split, index=index)
        species = self.species_of(index, u[0])
        plan = world.plan(species)
        juvenile, male, gait = bool(u[1] < JUVENILES), bool(u[2] < 0.5), int(u[3] * GAITS)
        habitat = int(world.traits.habitat[species])
        if u[4] >= HABITAT_FIDELITY:
            edges = np.cumsum(world.habitat_weights[world.plan_of_species[species]])
            habitat = min(int(np.searchsorted(edges, u[5], side="right")), len(HABITATS) - 1)
        size_trait = float(np.tanh(0.5 * world.traits.continuous["size"][species]))
        pose = _pose(plan.view, u[6:14], size_trait, juvenile, self.variation)
        light = _light(u[14:22], self.variation)
        texture = int(world.traits.discrete["texture"][species])
        figure = world.figure(species, juvenile, male, gait)
        image = render(figure, plan.view, habitat, pose, light, texture, u[32:96], self.image_size)
        key = f"synthetic-{world.seed}-{self.split}-{index:012d}"
        record: Record = {"key": key, "image": image, "source": "synthetic", "source_id": key, "license": "CC0-1.0"}
        record |= self._label(species, u[22:26])
        record["image_type"] = "Synthetic drawing"
        record["attributes"] = _attributes(world.truth(species), habitat, juvenile, male, gait, pose, light)
        return record

    def _label(self, species: int, u: np.ndarray) -> dict[str, str]:
        """The text fields, some ranks withheld: cut off at the fine end, or a hole in the middle."""
        ranks = dict(zip(RANKS, self.world.lineages[species], strict=True))
        common = self.world.common_names[species]
        if u[0] < self.missing_ranks:
            if u[1] < _SHARE_OF_HOLES:
                ranks[_HOLES[int(u[2] * len(_HOLES))]] = ""
            else:
                finest = _CUTS[-1][0]
                share = u[2]
                for rank, chance in _CUTS:
                    if share < chance:
                        finest = rank
                        break
                    share -= chance
                for rank in RANKS[RANKS.index(finest) + 1 :]:
                    ranks[rank] = ""
                common = ""
        if ranks["species"]:
            scientific = f"{ranks['genus']} {ranks['species']}"
        else:
            scientific = next(ranks[rank] for rank in RANKS[::-1] if ranks[rank])
        return ranks | {"scientific_name": scientific, "common_name": common}


def _pose(view: str, u: np.ndarray, size: float, juvenile: bool, variation: float) -> Pose:
    spread = variation * (2.0 * u - 1.0)
    scale = float((0.43 + 0.07 * spread[0] + 0.03 * size) * (0.84 if juvenile else 1.0))
    room = 0.45 - 0.70 * scale
    return Pose(
        x=0.5 + room * spread[1],
        y=0.5 + room * spread[2],
        scale=scale,
        rotation=_ROTATIONS[view] * spread[3],
        mirrored=bool(u[4] < 0.5),
        squash=1.0 - 0.22 * variation * u[5],
        bend=(0.10 if view == "above" else 0.16) * spread[6],
    )


def _light(u: np.ndarray, variation: float) -> Light:
    spread = variation * (2.0 * u - 1.0)
    warm, green = 0.20 * spread[2], 0.08 * spread[3]
    return Light(
        brightness=1.0 + 0.30 * spread[0],
        contrast=1.0 + 0.20 * spread[1],
        cast=(1.0 + warm, 1.0 + green, 1.0 - warm),
        direction=90.0 + 50.0 * spread[4],
    )


def _attributes(truth: str, habitat: int, juvenile: bool, male: bool, gait: int, pose: Pose, light: Light) -> str:
    return (
        f'{{{truth}, "habitat": "{HABITATS[habitat]}", "life_stage": "{STAGES[not juvenile]}", '
        f'"sex": "{SEXES[male]}", "pose": {{"x": {pose.x:.4f}, "y": {pose.y:.4f}, "scale": {pose.scale:.4f}, '
        f'"rotation": {pose.rotation:.2f}, "mirrored": {json.dumps(pose.mirrored)}, "squash": {pose.squash:.4f}, '
        f'"bend": {pose.bend:.4f}, "posture": {gait}}}, "light": {{"brightness": {light.brightness:.4f}, '
        f'"contrast": {light.contrast:.4f}, "cast": [{light.cast[0]:.4f}, {light.cast[1]:.4f}, {light.cast[2]:.4f}], '
        f'"direction": {light.direction:.2f}}}}}'
    )


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
    """The splits of `data/synthetic.py`; its docstring documents the arguments."""
    for name, value in (("num_images", num_images), ("test_images_per_species", test_images_per_species)):
        if value < 1:
            raise UserError(f"{name}: {value} is not positive")
    if not 8 <= image_size <= 4096:
        raise UserError(f"image_size: {image_size} is not between 8 and 4096 pixels")
    shares = {
        "missing_ranks": missing_ranks,
        "missing_common_names": missing_common_names,
        "unseen_share": unseen_share,
    }
    for name, share in shares.items():
        if not 0.0 <= share < 1.0:
            raise UserError(f"{name}: {share} is not a share from 0 to below 1")
    if not 0.0 <= tail <= 4.0:
        raise UserError(f"tail: {tail} is not between 0 (even) and 4")
    if not 0.0 <= variation <= 1.5:
        raise UserError(f"variation: {variation} is not between 0 (none) and 1.5")
    cv2.setNumThreads(0)
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
    """Species kept out of training, sorted: at random, first from genera, then from families, that keep others."""
    count = round(share * world.tree.num_species)
    order = np.argsort(uniforms(world.tree.num_species, seed=world.seed, stream="order", index=1))
    chosen: list[int] = []
    taken = np.zeros(world.tree.num_species, bool)
    for rank in ("genus", "family"):
        nodes = world.ancestors[:, RANKS.index(rank)]
        left = np.bincount(nodes[~taken], minlength=nodes.max() + 1)
        for species in order:
            if len(chosen) < count and not taken[species] and left[nodes[species]] > 1:
                left[nodes[species]] -= 1
                taken[species] = True
                chosen.append(int(species))
    return np.sort(np.array(chosen, np.int64))
