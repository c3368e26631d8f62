"""The synthetic tree of life keeps its promises about the tree, names, traits and habitats."""

import re

import numpy as np
import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.synthetic import build_world
from bioclip_jax.pipeline.synthetic import traits as traits_module
from bioclip_jax.pipeline.synthetic.individual import Pose, place
from bioclip_jax.pipeline.synthetic.phenotype import resolve
from bioclip_jax.pipeline.synthetic.plans import PLANS
from bioclip_jax.pipeline.synthetic.render import Light, render
from bioclip_jax.pipeline.synthetic.traits import CONTINUOUS, DISCRETE, HABITAT_OPTIMA, HABITAT_SLOPES, HABITATS, evolve
from bioclip_jax.text.taxonomy import RANKS

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


def test_habitat_follows_clade_and_body_plan(world):
    habitat = world.traits.habitat
    genera = world.tree.parents[-1]
    sisters = genera[1:] == genera[:-1]
    shuffled = habitat[np.random.Generator(np.random.Philox(2)).permutation(len(habitat))]
    assert (habitat[1:] == habitat[:-1])[sisters].mean() > 0.6 > (habitat == shuffled).mean() + 0.3
    allowed = world.habitat_weights[world.plan_of_species, habitat]
    assert (allowed > 0).all()


def test_habitat_shifts_lightness_and_size_by_the_stated_slopes_and_no_other_trait(world, monkeypatch):
    assert HABITAT_SLOPES == {"lightness": 0.5, "size": 0.3}
    monkeypatch.setattr(traits_module, "HABITAT_OPTIMA", {name: np.zeros(len(HABITATS)) for name in HABITAT_OPTIMA})
    free = evolve(world.tree, world.habitat_weights, world.seed)
    assert np.array_equal(free.habitat, world.traits.habitat)
    for name, values in world.traits.continuous.items():
        if name in HABITAT_SLOPES:
            shift = HABITAT_SLOPES[name] * HABITAT_OPTIMA[name][world.traits.habitat]
            np.testing.assert_allclose(values - free.continuous[name], shift, atol=1e-12)
        else:
            assert np.array_equal(values, free.continuous[name])


def individuals(plan, count=48):
    """Random trait values, stages, sexes and postures: (continuous, discrete, the rest of `resolve`'s arguments)."""
    draws = np.random.Generator(np.random.Philox(plan))
    for i in range(count):
        continuous = dict(zip(CONTINUOUS, draws.normal(size=len(CONTINUOUS)).tolist(), strict=True))
        discrete = {name: int(draws.integers(states)) for name, (states, _) in DISCRETE.items()}
        rest = {"juvenile": i % 3 == 2, "male": i % 2 == 0, "gait": i % 4, "grain": draws.random(64)}
        yield continuous, discrete, rest


def drawing(plan, continuous, discrete, rest):
    """The figure and where it stands."""
    figure = plan.draw(resolve(continuous, discrete, plan.palette, **rest))
    placement = place(Pose(0, 0, 0, 0, False, 0, 0, 0), plan.view, continuous["size"], rest["juvenile"])
    return figure.points.tobytes(), figure.fills, placement


@pytest.mark.parametrize("plan", range(len(PLANS)), ids=[plan.name for plan in PLANS])
def test_a_body_plan_expresses_the_traits_it_names_and_no_others(plan):
    expressed, named = set(), set(PLANS[plan].traits)
    for i, (continuous, discrete, rest) in enumerate(individuals(plan)):
        before = drawing(PLANS[plan], continuous, discrete, rest)
        # Once a trait has been seen to act it is left alone; the silent ones are tried every time.
        for name in {*CONTINUOUS, *DISCRETE} - expressed:
            if name in CONTINUOUS:
                after = drawing(PLANS[plan], continuous | {name: continuous[name] + 1.0}, discrete, rest)
            else:
                other = (discrete[name] + 1 + i % (DISCRETE[name][0] - 1)) % DISCRETE[name][0]
                after = drawing(PLANS[plan], continuous, discrete | {name: other}, rest)
            if after != before:
                expressed.add(name)
    assert expressed == named - {"texture"}


def test_texture_shows_in_every_picture(world):
    light, u = Light(1.0, 1.0, (1.0, 1.0, 1.0), 90.0), np.full(64, 0.5)
    for plan in range(len(PLANS)):
        species = int(np.flatnonzero(world.plan_of_species == plan)[0])
        at = place(Pose(0, 0, 0, 0, False, 0, 0, 0), PLANS[plan].view, 0.0, False)
        figure = world.figure(species, False, True, 0)
        pictures = {render(figure, PLANS[plan].view, 0, at, light, texture, u, 64) for texture in range(4)}
        assert len(pictures) == 4
        assert "texture" in PLANS[plan].traits


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
    with pytest.raises(UsageError, match=named):
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
