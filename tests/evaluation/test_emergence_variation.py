"""What varies within species against what differs between them: planted angles and separations are found."""

import numpy as np
import pytest
from scipy.stats import binom

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.emergence.alignment import draws_of_species
from bioclip_jax.evaluation.emergence.variation import (
    Variants,
    explained_variance,
    fisher_ratio,
    overlap,
    principal_angles,
    span,
)

PHOTOS, WIDTH = 60, 32


def photos_of_variants(degrees, noise=0.0, spread=1.0, seed=0, variants=(30, 30), species=24):
    """Photos of species that differ in 6 of 32 directions, whose variants differ at an angle to these."""
    generator = np.random.default_rng(seed)
    centre = np.zeros((species, WIDTH))
    centre[:, :6] = generator.normal(size=(species, 6))
    inside, outside = np.zeros((2, species, WIDTH))
    inside[:, :6] = generator.normal(size=(species, 6))
    outside[:, 6:31] = generator.normal(size=(species, 25))
    inside, outside = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (inside, outside))
    angle = np.radians(degrees)
    delta = spread * (np.cos(angle) * inside + np.sin(angle) * outside)
    variant = np.tile(np.repeat([0, 1], variants), species)
    which = np.repeat(np.arange(species), sum(variants))
    features = centre[which] + (variant - 0.5)[:, None] * delta[which]
    features += noise * generator.normal(size=features.shape)
    # Normalisation must not turn the planted directions: the features lie near a pole.
    features[:, 31] = 1000.0
    return features, which, variant


@pytest.mark.parametrize("degrees", [0, 30, 60, 90])
def test_planted_angles_give_their_share_of_variance(degrees):
    variants = Variants.of(*photos_of_variants(degrees))
    found = explained_variance(variants, 6, permutations=49, draws=draws_of_species(24, 100))
    truth = np.cos(np.radians(degrees)) ** 2
    assert (found.directions, found.dimensions) == (6, WIDTH)
    assert found.isotropic.value == pytest.approx(truth, abs=0.01)
    assert found.isotropic.chance == pytest.approx(6 / WIDTH, abs=0.03)
    assert (found.isotropic.p_value == 0.02) == (degrees == 90)
    # What spans the species' differences may be something else, such as their texts.
    other = explained_variance(variants, 3, prototypes=np.eye(WIDTH)[20:24], permutations=9).isotropic
    assert other.value == pytest.approx((1 - truth) * 3 / 25, abs=0.05)


@pytest.mark.parametrize("degrees", [0, 45, 90])
def test_noise_moves_the_share_and_its_correction_moves_it_back(degrees):
    variants = Variants.of(*photos_of_variants(degrees, noise=1.0, spread=1.5))
    found = explained_variance(variants, 6, permutations=9, draws=draws_of_species(24, 200))
    truth = np.cos(np.radians(degrees)) ** 2
    assert found.corrected.value == pytest.approx(truth, abs=0.08)
    assert found.corrected.low < truth + 0.02
    assert found.corrected.high > truth - 0.02
    assert abs(found.residual.value - truth) > 2 * abs(found.corrected.value - truth) or degrees == 45


def test_variants_that_are_noise_are_not_told_from_noise():
    """100 data sets whose variants are drawn from the spread within species: rejections at 5 %."""
    rejected = {"share": 0, "fisher": 0}
    for seed in range(100):
        variants = Variants.of(*photos_of_variants(0, noise=1.0, spread=0.0, seed=seed, variants=(10, 10), species=12))
        found = explained_variance(variants, 6, permutations=99, seed=seed).residual
        rejected["share"] += found.p_value <= 0.05
        rejected["fisher"] += fisher_ratio(variants, permutations=99, seed=seed)[0].p_value <= 0.05
    low, high = binom.interval(0.998, 100, 0.05)
    assert all(low <= count <= high for count in rejected.values()), rejected


def test_fishers_ratio_is_its_formula_in_both_forms_and_rises_with_separation():
    found = []
    for spread in (0.0, 1.0, 3.0):
        features, species, variant = photos_of_variants(90, noise=1.0, spread=spread, variants=(40, 20))
        variants = Variants.of(features, species, variant)
        ours = fisher_ratio(variants, permutations=49, draws=draws_of_species(24, 100))
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        first, second = [], []
        for number in range(24):
            parts = [unit[(species == number) & (variant == v)] for v in (0, 1)]
            apart = ((parts[1].mean(0) - parts[0].mean(0)) ** 2).sum()
            first.append(apart / sum(part.var(axis=0).sum() for part in parts))
            mean = unit[species == number].mean(0)
            between = sum(len(part) * ((part.mean(0) - mean) ** 2).sum() for part in parts)
            second.append(between / sum(((part - part.mean(0)) ** 2).sum() for part in parts))
        assert ours[0].value == pytest.approx(np.mean(first), rel=1e-3)
        assert ours[1].value == pytest.approx(np.mean(second), rel=1e-3)
        assert ours[0].low <= ours[0].value <= ours[0].high
        found.append(ours[0])
    assert found[0].value < found[1].value < found[2].value
    assert found[0].p_value > 0.05
    assert found[1].p_value == found[2].p_value == 0.02
    # Noise alone: trace (1/40 + 1/20) over twice the trace.
    assert found[0].chance == pytest.approx(0.0375, rel=0.1)


@pytest.mark.parametrize("degrees", [10, 45, 90])
def test_principal_angles_are_those_planted(degrees):
    """Here the variants of all species differ along one direction."""
    _, species, variant = photos_of_variants(degrees)
    angle = np.radians(degrees)
    shared = np.zeros(WIDTH)
    shared[0], shared[7] = np.cos(angle), np.sin(angle)
    centre = np.random.default_rng(0).normal(size=(24, WIDTH)) * (np.arange(WIDTH) < 6)
    features = centre[species] + (variant - 0.5)[:, None] * shared
    features += 1e-3 * np.random.default_rng(1).normal(size=features.shape)
    features[:, 31] = 1000.0
    variants = Variants.of(features, species, variant)
    spans = span(variants.centres, 6), span(variants.differences, centre=False)
    assert spans[1].shape == (WIDTH, 1)
    assert principal_angles(*spans) == pytest.approx([angle], abs=0.01)
    found = overlap(variants, 6, permutations=19, draws=draws_of_species(24, 50))
    assert found.value == pytest.approx(np.cos(angle) ** 2, abs=0.01)
    assert found.low - 1e-4 <= found.value <= found.high + 1e-4


def test_overlap_with_fewer_photos_than_directions_counts_what_is_not_there_as_none():
    variants = Variants.of(*photos_of_variants(90, species=8))
    found = overlap(variants, 6, 8, permutations=9, draws=draws_of_species(8, 50))
    assert 0 <= found.low <= found.value <= found.high < 0.1


def test_bad_input_is_named():
    features, species, variant = photos_of_variants(0)
    broken = features.copy()
    broken[3, 3] = np.nan
    wrong = [
        ("NaN or infinite", lambda: Variants.of(broken, species, variant)),
        ("do not belong together", lambda: Variants.of(features, species[1:], variant)),
        ("variants are 0, 1", lambda: Variants.of(features, species, variant + 1)),
        ("0 of 24 species", lambda: Variants.of(features, species, 0 * variant)),
        ("all vectors are the same", lambda: span(np.ones((3, 3)))),
    ]
    for message, call in wrong:
        with pytest.raises(UserError, match=message):
            call()
