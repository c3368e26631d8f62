"""Traits evolving along the tree: Brownian motion for what is continuous, Markov jumps for what is discrete.

Where in the tree a trait changes most differs: proportions between orders and families, pattern between genera,
colours between species. Habitat jumps like a discrete trait and shifts two continuous ones by known amounts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bioclip_jax.pipeline.synthetic.counter import Draws
from bioclip_jax.pipeline.synthetic.phylogeny import Tree
from bioclip_jax.text.taxonomy import RANKS

# Share of a continuous trait's variance that arises on the branches above the nodes of each rank, kingdom first.
_PROPORTION = (0.0, 0.0, 0.10, 0.38, 0.30, 0.15, 0.07)
_PATTERN = (0.0, 0.0, 0.05, 0.12, 0.23, 0.40, 0.20)
_COLOUR = (0.0, 0.0, 0.05, 0.10, 0.15, 0.25, 0.45)

CONTINUOUS: dict[str, tuple[float, ...]] = {
    "size": _PROPORTION,
    "elongation": _PROPORTION,
    "depth": _PROPORTION,
    "head": _PROPORTION,
    "neck": _PROPORTION,
    "limb_length": _PROPORTION,
    "limb_width": _PROPORTION,
    "tail_length": _PROPORTION,
    "tail_width": _PROPORTION,
    "appendage": _PROPORTION,
    "ornament": _PATTERN,
    "pattern_scale": _PATTERN,
    "pattern_contrast": _PATTERN,
    "countershading": _PATTERN,
    "lightness": _COLOUR,
    "saturation": _COLOUR,
    "hue": _COLOUR,
}
"""Continuous traits (variance about 1 between the species of a class' body plan) and where they change."""

PATTERNS = ("plain", "bands", "stripes", "spots", "ocelli", "blotches", "speckles", "hood")
NUM_FORMS = 4
NUM_COLOURS = 8

# Number of states and the probability of a jump on a branch above the nodes of each rank, kingdom first.
DISCRETE: dict[str, tuple[int, tuple[float, ...]]] = {
    "limb_form": (NUM_FORMS, (1, 1, 1, 0.70, 0.40, 0.10, 0.0)),
    "head_form": (NUM_FORMS, (1, 1, 1, 0.70, 0.45, 0.15, 0.0)),
    "tail_form": (NUM_FORMS, (1, 1, 1, 0.60, 0.50, 0.20, 0.0)),
    "ornament_form": (NUM_FORMS, (1, 1, 1, 0.40, 0.50, 0.35, 0.05)),
    "pattern": (len(PATTERNS), (1, 1, 1, 0.50, 0.55, 0.65, 0.20)),
    "texture": (NUM_FORMS, (1, 1, 1, 0.60, 0.30, 0.10, 0.0)),
    "primary": (NUM_COLOURS, (1, 1, 1, 0.50, 0.45, 0.50, 0.35)),
    "secondary": (NUM_COLOURS, (1, 1, 1, 0.40, 0.40, 0.50, 0.40)),
    "accent": (NUM_COLOURS, (1, 1, 1, 0.40, 0.40, 0.50, 0.40)),
}
"""Discrete traits."""

HABITATS = ("forest", "meadow", "freshwater", "reef", "desert", "snow", "leaf_litter", "rock", "canopy", "marsh")
_HABITAT_JUMPS = (1, 1, 1, 0.30, 0.30, 0.20, 0.10)
HABITAT_OPTIMA = {
    "lightness": np.array([-1.2, -0.1, -0.2, 0.4, 1.1, 1.9, -1.3, -0.5, 0.5, -0.6]),
    "size": np.array([0.2, -0.4, 0.1, 0.6, -1.5, 1.8, -1.3, 0.1, -0.6, 1.0]),
}
"""What each habitat favours, float64 [habitats]: `lightness` is camouflage; cold and wet places have larger species."""
HABITAT_SLOPES = {"lightness": 0.5, "size": 0.3}
"""How far a trait follows the optimum: value = sqrt(1 - slope**2) * Brownian motion + slope * optimum of the habitat.

A slope given the Brownian part, not a correlation: that also depends on how the habitats of a world happen to lie on
its tree.
"""


@dataclass(frozen=True)
class Traits:
    """Trait values of every species: `continuous[name]` float64 [species], `discrete[name]` int64 [species],
    `habitat` int64 [species] (numbers into HABITATS).
    """

    continuous: dict[str, np.ndarray]
    discrete: dict[str, np.ndarray]
    habitat: np.ndarray


def evolve(tree: Tree, habitat_weights: np.ndarray, seed: int) -> Traits:
    """Trait values for the leaves of a tree. `habitat_weights` float [plans, habitats]: where each body plan lives."""
    draws = Draws(seed, "traits")
    continuous = {name: _brownian(tree, shares, draws) for name, shares in CONTINUOUS.items()}
    discrete = {name: _markov(tree, states, jumps, draws) for name, (states, jumps) in DISCRETE.items()}
    _tell_sisters_apart(tree, discrete, draws)
    habitat = _habitats(tree, habitat_weights, draws)
    for name, slope in HABITAT_SLOPES.items():
        continuous[name] = np.sqrt(1.0 - slope**2) * continuous[name] + slope * HABITAT_OPTIMA[name][habitat]
    return Traits(continuous, discrete, habitat)


def _brownian(tree: Tree, shares: tuple[float, ...], draws: Draws) -> np.ndarray:
    """Brownian motion whose rate at a rank is that rank's share of the variance over its mean branch length."""
    value = np.zeros(1)
    for rank, share in enumerate(shares):
        lengths = tree.branch_lengths(rank)
        steps = np.sqrt(share * lengths / lengths.mean()) * draws.normal(len(lengths))
        value = value[tree.parents[rank]] + steps
    return value


def _markov(tree: Tree, states: int, jumps: tuple[float, ...], draws: Draws) -> np.ndarray:
    """A jump goes to any of the other states with equal probability."""
    value = np.zeros(1, np.int64)
    for rank, chance in enumerate(jumps):
        value = value[tree.parents[rank]]
        step = 1 + (draws.uniform(len(value)) * (states - 1)).astype(np.int64)
        value = np.where(draws.uniform(len(value)) < chance, (value + step) % states, value)
    return value


def _tell_sisters_apart(tree: Tree, discrete: dict[str, np.ndarray], draws: Draws) -> None:
    """Give a species other colours while it shares pattern and colours with an earlier one of its genus."""
    seen: set[tuple[int, ...]] = set()
    for species, genus in enumerate(tree.parents[-1]):
        for _ in range(8):
            look = tuple(int(discrete[name][species]) for name in ("pattern", "primary", "secondary"))
            if (int(genus), *look) not in seen:
                break
            for name in ("primary", "secondary"):
                discrete[name][species] = draws.pick(NUM_COLOURS)
        seen.add((int(genus), *look))


def _habitats(tree: Tree, weights: np.ndarray, draws: Draws) -> np.ndarray:
    """Habitat of each species: a jump draws anew from the habitats of the body plan."""
    edges = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    value = np.zeros(len(tree.body_plans), np.int64)
    plan = tree.body_plans
    for rank in range(RANKS.index("class"), len(RANKS)):
        if rank > RANKS.index("class"):
            value, plan = value[tree.parents[rank]], plan[tree.parents[rank]]
        drawn = (draws.uniform(len(plan))[:, None] >= edges[plan, :-1]).sum(axis=1)
        value = np.where(draws.uniform(len(plan)) < _HABITAT_JUMPS[rank], drawn, value)
    return value
