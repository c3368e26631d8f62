"""Records of the synthetic world: each a pure function of (seed, split, index), so any number of them needs no disk.

Within one installation the same record has the same bytes in any order, process or run. In every installation it has
the same key, label and truth; its pixels may differ by the rounding of OpenCV's and the JPEG encoder's versions.
"""

from __future__ import annotations

import operator

import cv2
import numpy as np

from bioclip_jax.pipeline.record import Record
from bioclip_jax.pipeline.synthetic.counter import uniforms
from bioclip_jax.pipeline.synthetic.individual import Individual, draw_light, draw_pose, place
from bioclip_jax.pipeline.synthetic.phenotype import GAITS
from bioclip_jax.pipeline.synthetic.render import render
from bioclip_jax.pipeline.synthetic.world import World, build_world
from bioclip_jax.text.taxonomy import RANKS

HABITAT_FIDELITY = 0.65
"""Share of individuals photographed in their species' habitat; the rest in others that its body plan can live in."""
JUVENILES = 0.4
_DRAWS = 96
# Probabilities of the finest rank known, given that a label is cut off at the fine end (species missing most often).
_CUTS = (("genus", 0.60), ("family", 0.25), ("order", 0.10), ("class", 0.05))
_HOLES = ("phylum", "class", "order", "family")
_SHARE_OF_HOLES = 0.25


class SyntheticSource:
    """One split. Indices below the number of its species show each species once; the rest follow `weights`.

    Its first use in a process turns off OpenCV's own threads (`cv2.setNumThreads(0)`) for that whole process: the
    pictures are small, and workers that draw at the same time would only stand in each other's way.

    Args:
        world: arguments of `build_world`.
        split: "train", "test" or "test_unseen"; individuals of different splits are different.
        num_images: how many records.
        species: numbers of the species in this split, int [k].
        weights: how often each of them is photographed, float [k]; None for the same number each, in turn.
        image_size: pixels.
        missing_ranks: share of records without a full seven-rank label.
        variation: how much pose and light vary between individuals; 0 not at all, 1 as in photographs.
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
            cv2.setNumThreads(0)
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
        juvenile, male, posture = bool(u[1] < JUVENILES), bool(u[2] < 0.5), int(u[3] * GAITS)
        elsewhere = u[4] >= HABITAT_FIDELITY
        habitat = world.habitat_elsewhere(species, u[5]) if elsewhere else int(world.traits.habitat[species])
        pose, light = draw_pose(u[6:14], posture, self.variation), draw_light(u[14:22], self.variation)
        placement = place(pose, plan.view, float(world.traits.continuous["size"][species]), juvenile)
        figure = world.figure(species, juvenile, male, posture)
        texture = int(world.traits.discrete["texture"][species])
        image = render(figure, plan.view, habitat, placement, light, texture, u[32:96], self.image_size)
        key = f"synthetic-{world.seed}-{self.split}-{index:012d}"
        record: Record = {"key": key, "image": image, "source": "synthetic", "source_id": key, "license": "CC0-1.0"}
        record |= self._label(species, u[22:26])
        record["image_type"] = "Synthetic drawing"
        individual = Individual(habitat, juvenile, male, pose, placement, light)
        record["attributes"] = f"{{{world.truth(species)}, {individual.described()}}}"
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
