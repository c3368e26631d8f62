"""The synthetic world: a tree with names, traits and habitats, the same for the same arguments, and its figures."""

from __future__ import annotations

import json
from functools import lru_cache

import numpy as np

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.synthetic.counter import uniforms
from bioclip_jax.pipeline.synthetic.names import Nomenclator
from bioclip_jax.pipeline.synthetic.phenotype import resolve
from bioclip_jax.pipeline.synthetic.phylogeny import grow_tree
from bioclip_jax.pipeline.synthetic.plans import PLANS, BodyPlan
from bioclip_jax.pipeline.synthetic.shapes import Figure
from bioclip_jax.pipeline.synthetic.traits import HABITATS, PATTERNS, evolve
from bioclip_jax.text.taxonomy import RANKS

_FIGURES_KEPT = 4096


class World:
    """`tree`, `traits`, and for every species its `lineages[species]` (seven names, the last an epithet) and
    `common_names[species]` ("" for those without).

    Args:
        num_species: number of species, from 2.
        seed: everything about the world follows from it; 0 to 2**63 - 1.
        missing_common_names: share of species without a common name, from 0 to 1.

    Raises:
        UsageError: an argument is outside its range.
    """

    def __init__(self, num_species: int, seed: int = 0, missing_common_names: float = 0.3):
        if num_species < 2:
            raise UsageError(f"num_species: {num_species} is too few for a tree, use 2 or more")
        if not 0 <= seed < 2**63:
            raise UsageError(f"seed: {seed} is not between 0 and 2**63 - 1")
        if not 0.0 <= missing_common_names <= 1.0:
            raise UsageError(f"missing_common_names: {missing_common_names} is not a share from 0 to 1")
        self.seed = seed
        phyla = list(dict.fromkeys(plan.phylum for plan in PLANS))
        kingdoms = list(dict.fromkeys(plan.kingdom for plan in PLANS))
        kingdom_of = {plan.phylum: kingdoms.index(plan.kingdom) for plan in PLANS}
        self.tree = grow_tree(
            num_species,
            np.array([phyla.index(plan.phylum) for plan in PLANS]),
            np.array([kingdom_of[phylum] for phylum in phyla]),
            seed,
        )
        weights = np.array([[plan.habitats.get(name, 0.0) for name in HABITATS] for plan in PLANS])
        self.habitat_weights = weights / weights.sum(axis=1, keepdims=True)
        self._elsewhere = _edges_without_each(self.habitat_weights)
        self.traits = evolve(self.tree, weights, seed)
        self.ancestors = self.tree.ancestors(np.arange(num_species))
        self.plan_of_species = self.tree.body_plans[self.ancestors[:, RANKS.index("class")]]
        self.lineages, self.common_names = self._name(missing_common_names)
        self.figure = lru_cache(maxsize=_FIGURES_KEPT)(self._figure)
        self.truth = lru_cache(maxsize=_FIGURES_KEPT)(self._truth)

    def plan(self, species: int) -> BodyPlan:
        """The body plan of a species."""
        return PLANS[self.plan_of_species[species]]

    def habitat_elsewhere(self, species: int, u: float) -> int:
        """A habitat that the body plan can live in, but not the species' own, drawn with its weights by a uniform."""
        edges = self._elsewhere[self.plan_of_species[species], self.traits.habitat[species]]
        return int(np.searchsorted(edges, u, side="right"))

    def _name(self, missing: float) -> tuple[list[tuple[str, ...]], list[str]]:
        give, tree = Nomenclator(self.seed), self.tree
        plans = [PLANS[p] for p in tree.body_plans]
        plan_at = {2: tree.body_plans}
        for rank in range(3, 7):
            plan_at[rank] = plan_at[rank - 1][tree.parents[rank]]
        genera = [give.genus(PLANS[p].genus_endings) for p in plan_at[5]]
        type_genus = np.unique(tree.parents[5], return_index=True)[1]
        families = [
            give.from_stem(genera[g][1], PLANS[p].endings[3]) for g, p in zip(type_genus, plan_at[4], strict=True)
        ]
        type_family = np.unique(tree.parents[4], return_index=True)[1]
        orders = [
            give.from_stem(genera[type_genus[f]][1], PLANS[p].endings[2])
            if PLANS[p].type_stem_orders
            else give.higher(PLANS[p].endings[2])
            for f, p in zip(type_family, plan_at[3], strict=True)
        ]
        classes = [give.higher(plan.endings[1]) for plan in plans]
        first_class = np.unique(tree.parents[2], return_index=True)[1]
        phyla = [give.higher(plans[c].endings[0]) for c in first_class]
        first_phylum = np.unique(tree.parents[1], return_index=True)[1]
        kingdoms = [plans[first_class[p]].kingdom for p in first_phylum]
        names = [kingdoms, phyla, classes, orders, families, [genus[0] for genus in genera]]
        used: list[set[str]] = [set() for _ in genera]
        lineages = []
        for row in self.ancestors:
            genus = int(row[5])
            epithet = give.epithet(genera[genus][2], used[genus])
            lineages.append((*(names[rank][row[rank]] for rank in range(6)), epithet))
        return lineages, self._common_names(give, missing)

    def _common_names(self, give: Nomenclator, missing: float) -> list[str]:
        """Names ending in a noun shared by the family; the share without one is exact, chosen at random."""
        count = len(self.ancestors)
        without = np.argsort(uniforms(count, seed=self.seed, stream="names", index=1))[: round(missing * count)]
        nameless = np.zeros(count, bool)
        nameless[without] = True
        nouns_at = [self.plan(s).nouns for s in range(count)]
        return [
            "" if nameless[s] else give.common(nouns_at[s][int(self.ancestors[s, 4]) % len(nouns_at[s])])
            for s in range(count)
        ]

    def trait_values(self, species: int) -> tuple[dict[str, float], dict[str, int]]:
        """Continuous and discrete traits of one species."""
        continuous = {name: float(values[species]) for name, values in self.traits.continuous.items()}
        return continuous, {name: int(values[species]) for name, values in self.traits.discrete.items()}

    def _figure(self, species: int, juvenile: bool, male: bool, gait: int) -> Figure:
        continuous, discrete = self.trait_values(species)
        plan = self.plan(species)
        grain = uniforms(64, seed=self.seed, stream="traits", index=1 + species)
        look = resolve(continuous, discrete, plan.palette, juvenile=juvenile, male=male, gait=gait, grain=grain)
        return plan.draw(look)

    def _truth(self, species: int) -> str:
        """What is true of every individual of a species, as the inside of a JSON object."""
        plan = self.plan(species)
        continuous, discrete = self.trait_values(species)
        values: dict[str, float | int | str] = {name: round(value, 4) for name, value in continuous.items()}
        values |= discrete | {"pattern": PATTERNS[discrete["pattern"]]}
        described = {
            "species_index": species,
            "taxonomy": dict(zip(RANKS, self.lineages[species], strict=True)),
            "body_plan": plan.name,
            "species_habitat": HABITATS[self.traits.habitat[species]],
            "traits": {name: values[name] for name in plan.traits},
        }
        return json.dumps(described)[1:-1]


def _edges_without_each(weights: np.ndarray) -> np.ndarray:
    """Edges of the cumulative distribution [plans, habitats, habitats - 1] over the other habitats; `weights` [plans,
    habitats]. Of a uniform in [0, 1), `searchsorted` from the right finds no habitat of weight 0.
    """
    habitats = weights.shape[1]
    rest = np.repeat(weights[:, None], habitats, axis=1)
    rest[:, np.arange(habitats), np.arange(habitats)] = 0.0
    cumulative = np.cumsum(rest, axis=2)
    return cumulative[:, :, :-1] / cumulative[:, :, -1:]


@lru_cache(maxsize=4)
def build_world(num_species: int, seed: int = 0, missing_common_names: float = 0.3) -> World:
    """The world of these arguments, kept for the next caller."""
    return World(num_species, seed, missing_common_names)
