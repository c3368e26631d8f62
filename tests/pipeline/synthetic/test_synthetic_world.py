"""The synthetic tree of life keeps its promises about the tree, names, traits and habitats."""

import re

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.synthetic import build_world
from bioclip_jax.pipeline.synthetic.phylogeny import RANKS
from bioclip_jax.pipeline.synthetic.plans import PLANS
from bioclip_jax.pipeline.synthetic.traits import _HABITAT_LIGHTNESS, LIGHTNESS_CORRELATION

pytestmark = pytest.mark.core


@pytest.fixture(scope="module")
def world():
    return build_world(2000, seed=3)


def test_every_node_has_a_parent_and_every_parent_a_child(world):
    for rank in range(1, len(RANKS)):
        parents = world.tree.parents[rank]
        assert np.array_equal(np.unique(parents), np.arange(len(world.tree.parents[rank - 1])))
        assert (world.tree.branch_lengths(rank) > 0).all()


def test_genera_have_the_hollow_curve_of_real_taxonomies(world):
    sizes = np.bincount(world.tree.parents[-1])
    assert np.median(sizes) < sizes.mean() < sizes.max() / 4


def test_distances_are_ultrametric(world):
    draws = np.random.Generator(np.random.Philox(0)).integers(0, 2000, (3, 500))
    ab, bc, ac = (world.tree.distance(draws[i], draws[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert (ac <= np.maximum(ab, bc) + 1e-12).all()
    assert (world.tree.distance(draws[0], draws[0]) == 0).all()


def test_names_are_unique_latin_looking_and_end_as_their_rank_demands(world):
    binomials = [(lineage[5], lineage[6]) for lineage in world.lineages]
    assert len(set(binomials)) == len(binomials)
    for rank in range(6):
        names = {}
        for lineage, nodes in zip(world.lineages, world.ancestors, strict=True):
            assert names.setdefault(lineage[rank], nodes[rank]) == nodes[rank]
            assert re.fullmatch("[A-Z][a-z]+", lineage[rank])
    for lineage, plan in zip(world.lineages, world.plan_of_species, strict=True):
        assert re.fullmatch("[a-z]+", lineage[6])
        assert lineage[0] == PLANS[plan].kingdom
        for rank, ending in zip(lineage[1:5], PLANS[plan].endings, strict=True):
            assert rank.endswith(ending) or rank == lineage[1]
        assert lineage[4].endswith("idae" if lineage[0] == "Animalia" else "aceae")
    epithets = [lineage[6] for lineage in world.lineages]
    assert len(set(epithets)) < len(epithets)


def test_common_names_are_unique_and_missing_at_the_given_rate(world):
    given = [name for name in world.common_names if name]
    assert len(set(given)) == len(given) == 1400
    assert all(re.fullmatch("[A-Z][A-Za-z' -]+", name) for name in given)


def test_close_relatives_are_alike(world):
    first, second = np.random.Generator(np.random.Philox(1)).integers(0, 2000, (2, 20000))
    genera = world.tree.parents[-1]
    sisters = np.flatnonzero(genera[1:] == genera[:-1])
    first, second = np.concatenate([first, sisters]), np.concatenate([second, sisters + 1])
    distance = world.tree.distance(first, second)
    values = np.stack(list(world.traits.continuous.values()), axis=1)
    difference = ((values[first] - values[second]) ** 2).mean(axis=1)
    bins = [
        difference[(low <= distance) & (distance < high)].mean() for low, high in ((0.1, 0.36), (0.36, 1.0), (1.0, 2.1))
    ]
    assert bins[0] < 0.8 * bins[1] < 0.8 * bins[2]
    same = {name: value[first] == value[second] for name, value in world.traits.discrete.items()}
    near = distance < 0.36
    for name, equal in same.items():  # colours change fastest
        least = 0.05 if name in ("primary", "secondary", "accent") else 0.1
        assert equal[near].mean() > equal[~near].mean() + least, name


def test_habitat_follows_clade_and_pulls_lightness_with_the_stated_strength(world):
    habitat = world.traits.habitat
    genera = world.tree.parents[-1]
    sisters = genera[1:] == genera[:-1]
    shuffled = habitat[np.random.Generator(np.random.Philox(2)).permutation(len(habitat))]
    assert (habitat[1:] == habitat[:-1])[sisters].mean() > 0.6 > (habitat == shuffled).mean() + 0.3
    allowed = world.habitat_weights[world.plan_of_species, habitat]
    assert (allowed > 0).all()
    pull = _HABITAT_LIGHTNESS[habitat]
    slope = np.polyfit(pull, world.traits.continuous["lightness"], 1)[0]
    assert abs(slope - LIGHTNESS_CORRELATION) < 0.2


def test_no_two_species_of_a_genus_share_pattern_and_colours(world):
    looks = {}
    for species, genus in enumerate(world.tree.parents[-1]):
        look = (genus, *(world.traits.discrete[name][species] for name in ("pattern", "primary", "secondary")))
        looks[look] = looks.get(look, 0) + 1
    assert np.mean([count == 1 for count in looks.values()]) > 0.995


def test_the_world_depends_on_its_seed_only():
    one, again, other = build_world.__wrapped__(60, 5), build_world.__wrapped__(60, 5), build_world.__wrapped__(60, 6)
    assert one.lineages == again.lineages
    assert one.common_names == again.common_names
    assert all(one.truth(s) == again.truth(s) for s in range(60))
    assert one.lineages != other.lineages


@pytest.mark.parametrize("num_species", [2, 3, 7, 16, 40, 333])
def test_small_worlds_grow_too(num_species):
    world = build_world(num_species, seed=1)
    assert len(world.lineages) == num_species == world.tree.num_species


@pytest.mark.parametrize(("arguments", "named"), [((1, 0), "num_species"), ((10, -1), "seed")])
def test_impossible_worlds_are_refused_by_name(arguments, named):
    with pytest.raises(UserError, match=named):
        build_world(*arguments)


@pytest.mark.parametrize("plan", range(len(PLANS)), ids=[plan.name for plan in PLANS])
def test_every_body_plan_draws_all_its_forms_within_the_picture(plan, world):
    species = np.flatnonzero(world.plan_of_species == plan)[:40]
    outlines = set()
    for one in species:
        for juvenile in (False, True):
            figure = world.figure(int(one), juvenile, bool(one % 2), int(one % 4))
            assert np.isfinite(figure.points).all()
            assert 0.99 <= np.abs(figure.points).max() <= 1.34
            assert all(
                0 <= part <= opacity for *colour, opacity in (fill[0] for fill in figure.fills) for part in colour
            )
            outlines.add(figure.points.tobytes())
    assert len(outlines) == 2 * len(species)
