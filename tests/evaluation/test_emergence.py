"""How species and their variants are arranged: planted truth is found, and nothing is found where nothing is."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import pdist, squareform
from scipy.stats import binom, spearmanr

from bioclip_jax.cli.emergence import emergence
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.emergence.alignment import draws_of_species, first_axis, mantel, readout, species_means
from bioclip_jax.evaluation.emergence.figures import Point, draw_scaling
from bioclip_jax.evaluation.emergence.permutation import (
    brownian,
    exchangeable,
    freely,
    p_value,
    pagel_lambda,
    shared_ancestry,
    within_clades,
)
from bioclip_jax.evaluation.emergence.synthetic import TRAITS, VARIANTS, Settings, Truth, figures_of, measure
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.synthetic.world import build_world
from bioclip_jax.recipes import load_recipe

SPECIES = 40
LINEAGES = np.stack([np.arange(SPECIES) // size for size in (20, 10, 5)], axis=1)
"""Two orders of two families of two genera of five species."""
GENERA = LINEAGES[:, 2]
ANCESTRY = shared_ancestry(LINEAGES)


def along_the_tree(generator, columns=()):
    """Brownian motion along `LINEAGES`."""
    return np.linalg.cholesky(ANCESTRY) @ generator.normal(size=(SPECIES, *columns))


# Null distributions


def test_permutations_within_clades_leave_clades_alone_and_are_uniform():
    clades = np.array([7, 3, 7, 5, 3, 7])
    drawn = within_clades(clades, 3000)
    assert (clades[drawn] == clades).all()
    assert (np.sort(drawn, axis=1) == np.arange(6)).all()
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 12  # 3! * 2! * 1!
    assert abs(counts - 250).max() < 5 * np.sqrt(250)
    assert exchangeable(clades) == 5


def test_brownian_surrogates_keep_the_phylogenetic_signal():
    trait = along_the_tree(np.random.default_rng(1))
    assert pagel_lambda(trait, ANCESTRY) > 0.5
    kept = [pagel_lambda(surrogate, ANCESTRY) for surrogate in brownian(trait, ANCESTRY, 40)]
    lost = [pagel_lambda(trait[order], ANCESTRY) for order in freely(SPECIES, 40)]
    assert np.mean(kept) > 0.5 > 0.25 > np.mean(lost)


def test_without_phylogeny_brownian_surrogates_are_permutations():
    trait = np.random.default_rng(1).normal(size=12)
    found = brownian(trait, np.eye(12), 20)
    np.testing.assert_allclose(np.sort(found, axis=1), np.sort(trait)[None].repeat(20, 0), atol=1e-12)


def test_shared_ancestry_counts_ranks_in_common():
    assert shared_ancestry(np.array([[0, 0], [0, 0], [0, 1], [1, 1]])).tolist() == [
        [1, 2 / 3, 1 / 3, 0],
        [2 / 3, 1, 1 / 3, 0],
        [1 / 3, 1 / 3, 1, 0],
        [0, 0, 0, 1],
    ]


def test_a_p_value_is_never_zero():
    assert p_value(2.0, np.ones(99)) == 0.01


@pytest.mark.slow
def test_the_free_permutation_finds_what_is_not_there_and_those_that_respect_phylogeny_do_not():
    """Features and traits that evolve apart on one tree, 200 times: how often a test at 5 % rejects."""
    datasets, generator = 200, np.random.default_rng(0)
    restricted, free = within_clades(GENERA, 59), freely(SPECIES, 59)
    rejected = dict.fromkeys(("free", "within", "brownian"), 0)
    for _ in range(datasets):
        features, trait = along_the_tree(generator, (4,)), along_the_tree(generator)
        nulls = np.concatenate([trait[free], trait[restricted], brownian(trait, ANCESTRY, 59)])
        found = mantel(features, trait, nulls)
        for name, null in zip(rejected, np.split(found.null, 3), strict=True):
            rejected[name] += p_value(found.value, null) <= 0.05
    low, high = binom.interval(0.998, datasets, 0.05)
    assert low <= rejected["within"] <= high
    assert low <= rejected["brownian"] <= high
    assert rejected["free"] > 2 * high


@pytest.mark.slow
def test_every_statistic_of_alignment_keeps_its_level_where_there_is_nothing():
    """As above, for the partial statistic, the readout and the axis, and for states: within 300 worlds, at 5 %."""
    worlds, generator, restricted = 300, np.random.default_rng(1), within_clades(GENERA, 59)
    rejected: dict[str, int] = {}
    for _ in range(worlds):
        features, trait = along_the_tree(generator, (4,)), along_the_tree(generator)
        states = np.digitize(along_the_tree(generator), [-0.5, 0.5])
        nulls = np.concatenate([trait[restricted], brownian(trait, ANCESTRY, 59)])
        found = {
            "partial": mantel(features, trait, nulls, control=1 - ANCESTRY),
            "readout": readout(features, trait, nulls, LINEAGES[:, 1]),
            "axis": first_axis(features, trait, nulls).finding,
            "states": mantel(features, states, states[restricted]),
            "states read off": readout(features, states, states[restricted], LINEAGES[:, 1]),
        }
        for name, finding in found.items():
            for null, values in zip(
                ("within", "brownian"), np.split(finding.null, len(finding.null) // 59), strict=False
            ):
                key = f"{name}, {null}"
                rejected[key] = rejected.get(key, 0) + (p_value(finding.value, values) <= 0.05)
    low, high = binom.interval(0.999, worlds, 0.05)
    # States tie, which makes a test too careful, never too bold.
    assert all(count <= high for count in rejected.values()), rejected
    assert all(count >= low for name, count in rejected.items() if "states" not in name), rejected


# Inter-species alignment


@pytest.mark.parametrize("states", [False, True])
def test_mantel_is_spearmans_correlation_of_distances(states):
    generator = np.random.default_rng(2)
    features = generator.normal(size=(SPECIES, 6))
    trait = generator.integers(0, 4, SPECIES) if states else generator.normal(size=SPECIES)
    found = mantel(features, trait, trait[freely(SPECIES, 9)])
    theirs = pdist(trait[:, None], "hamming" if states else "euclidean")
    assert found.value == pytest.approx(spearmanr(pdist(features, "cosine"), theirs)[0], abs=1e-5)


def test_partial_mantel_is_the_partial_correlation():
    generator = np.random.default_rng(3)
    features, trait, other = (generator.normal(size=(SPECIES, 3)) for _ in range(3))
    other[:, 0] += features[:, 0]
    trait += other
    a, b, c = pdist(features, "cosine"), pdist(trait), pdist(other)
    ab, ac, bc = (spearmanr(*pair)[0] for pair in ((a, b), (a, c), (b, c)))
    found = mantel(features, trait, trait[freely(SPECIES, 9)], control=squareform(c))
    assert found.value == pytest.approx((ab - ac * bc) / np.sqrt((1 - ac**2) * (1 - bc**2)), abs=1e-5)


@pytest.fixture(scope="module")
def traits():
    """A trait, something else, and 8 columns of noise, none of which correlate, of 120 species."""
    drawn = np.random.default_rng(4).normal(size=(120, 10))
    return np.sqrt(120) * np.linalg.qr(drawn - drawn.mean(axis=0))[0].T


def test_planted_alignment_of_the_geometry_is_found_at_its_strength(traits):
    wanted, other = traits[:2]
    sample = np.random.default_rng(5).normal(size=(2, 100_000))
    genera, found = np.arange(120) // 5, []
    strengths = (0.0, 0.3, 0.6, 0.9)
    for strength in strengths:
        angle = 0.2 * (strength * wanted + np.sqrt(1 - strength**2) * other)
        features = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # cosine distance rises with the difference
        found.append(mantel(features, wanted, wanted[within_clades(genera, 99)]))
        assert np.isnan(found[-1].low)
        mixed = strength * sample[0] + np.sqrt(1 - strength**2) * sample[1]
        assert found[-1].value == pytest.approx(spearmanr(abs(mixed), abs(sample[0]))[0], abs=0.08)
    assert np.diff([one.value for one in found]).min() > 0.03
    assert found[0].p_value > 0.05
    assert found[2].p_value == found[3].p_value == 0.01


def test_planted_alignment_is_read_off_in_clades_left_out(traits):
    wanted, noise = traits[0], traits[2:].T
    clades, found = np.arange(120) // 10, []
    null, draws = wanted[within_clades(clades, 99)], draws_of_species(120, 200)
    for strength in (0.0, 0.5, 1.0, 2.0):
        features = noise.copy()
        features[:, 0] += strength * wanted
        found.append(readout(features, wanted, null, clades, draws=draws))
        assert found[-1].value == pytest.approx(strength**2 / (1 + strength**2), abs=0.12)
        assert found[-1].low < found[-1].value < found[-1].high
    assert np.diff([one.value for one in found]).min() > 0.1
    assert found[0].p_value > 0.05
    assert found[2].p_value == 0.01
    assert max(one.chance for one in found) < 0


def test_readout_is_ridge_regression_with_leave_one_out(traits):
    from sklearn.linear_model import RidgeCV

    from bioclip_jax.evaluation.emergence.alignment import PENALTIES

    features, trait = traits[2:].T[:60].astype(np.float32), (traits[0] + traits[3])[:60]
    clades = np.arange(60) // 15
    predicted, mean = np.zeros(60), np.zeros(60)
    for clade in range(4):
        held = clades == clade
        centred = features[~held] - features[~held].mean(axis=0)
        scale = (centred**2).sum() / (~held).sum()
        model = RidgeCV(np.array(PENALTIES) * scale).fit(features[~held], trait[~held])
        predicted[held], mean[held] = model.predict(features[held]), trait[~held].mean()
    wanted = 1 - ((trait - predicted) ** 2).sum() / ((trait - mean) ** 2).sum()
    found = readout(features, trait, trait[freely(60, 9)], clades)
    assert found.value == pytest.approx(wanted, abs=1e-4)


def test_states_are_read_off_where_they_are_linear_and_not_where_they_are_not(traits):
    states = np.random.default_rng(6).integers(0, 3, 120)
    clades = np.arange(120) // 10
    null = states[within_clades(clades, 49)]
    clear = readout(traits[2:].T + 6 * np.eye(8)[states], states, null, clades)
    absent = readout(traits[2:].T, states, null, clades, draws=draws_of_species(120, 200))
    assert clear.value > 0.95
    assert clear.p_value == 0.02
    assert absent.value == pytest.approx(1 / 3, abs=0.1)
    assert absent.chance == pytest.approx(1 / 3, abs=0.05)
    assert absent.low < 1 / 3 < absent.high


def test_the_first_axis_orders_species_by_the_trait_that_spreads_them(traits):
    wanted, other, noise = traits[0], traits[1], traits[2:].T
    found = []
    for strength in (0.0, 0.5, 0.9):
        features = noise.copy()
        features[:, 0] += 10 * (strength * wanted + np.sqrt(1 - strength**2) * other)
        axis = first_axis(features, wanted, wanted[freely(120, 99)], draws=draws_of_species(120, 200))
        assert axis.finding.value == pytest.approx(6 / np.pi * np.arcsin(strength / 2), abs=0.12)
        assert spearmanr(axis.positions, wanted)[0] == pytest.approx(axis.finding.value, abs=1e-5)
        assert axis.explained > 0.9
        found.append(axis.finding)
    assert found[0].p_value > 0.05
    assert found[2].p_value == 0.01
    assert found[2].low > 0.8


def test_the_interval_of_mantels_statistic_is_as_wide_as_it_varies_between_worlds():
    generator, values, widths = np.random.default_rng(7), [], []
    draws = draws_of_species(SPECIES, 200)
    for _ in range(40):
        angle = 0.2 * generator.normal(size=SPECIES)
        trait = angle + 0.2 * generator.normal(size=SPECIES)
        features = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        found = mantel(features, trait, trait[freely(SPECIES, 9)], draws=draws)
        values.append(found.value)
        widths.append(found.high - found.low)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.std(values), rel=0.35)


# Where the truth is known


WORLD = {"num_species": 20, "unseen_share": 0.0, "image_size": 16, "test_images_per_species": 40, "num_images": 20}
SETTINGS = Settings(permutations=99, resamples=50)


@pytest.fixture(scope="module")
def truth():
    """The truth of 40 photos of each of 20 synthetic species."""
    world, generator = build_world(20), np.random.default_rng(0)
    attributes = [
        f'{{{world.truth(place // 40)}, "life_stage": "{stage}", "sex": "{sex}"}}'
        for place, (stage, sex) in enumerate(
            zip(generator.choice(VARIANTS["life_stage"], 800), generator.choice(VARIANTS["sex"], 800), strict=True)
        )
    ]
    return Truth.of(attributes, [str(place) for place in range(800)])


def test_planted_alignment_and_orthogonality_come_out_of_the_synthetic_tree(truth):
    """Size leads, hue is absent; life stage lies across what tells species apart, sex along it."""
    generator = np.random.default_rng(1)
    species = np.zeros((20, 48))
    species[:, 0] = 3 * truth.traits["size"]
    species[:, 1:6] = 0.5 * generator.normal(size=(20, 5))
    features = species[truth.species]
    features[:, 10] += 2.0 * truth.variants["life_stage"]
    features[:, 0] += 2.0 * truth.variants["sex"]
    features += 0.2 * generator.normal(size=features.shape)
    features[:, 47] = 100.0
    found = figures_of(features, truth, traits=("size", "hue"), settings=SETTINGS)
    value = {(f.variant, f.metric): f.value for f in found.figures}
    assert value["size", "mantel"] > 0.7
    assert value["size", "mantel, p brownian"] == 0.01
    assert value["size", "mantel, p within genera"] <= 0.05  # few of 20 species share a genus
    assert value["size", "readout_r2"] > 0.8
    assert value["size", "axis_spearman"] > 0.95
    assert value["hue", "mantel, p brownian"] > 0.05
    assert value["hue", "readout_r2"] < 0.3
    assert value["life_stage, 90 % energy", "explained_variance"] < 0.1
    assert value["life_stage, 90 % energy", "explained_variance, p residual"] == 0.01
    assert value["sex, 90 % energy", "explained_variance_corrected"] > 0.9
    assert value["life_stage", "fisher_ratio, p within species"] == 0.01
    assert value["life_stage", "overlap"] < 0.2
    assert len(value) == len(found.figures)
    assert {f.protocol for f in found.figures} == {"emergence"}
    assert "share their genus" in found.notes[0]
    of_genera = [set(truth.habitat[truth.clades("genus") == genus]) for genus in truth.clades("genus")]
    assert any("restricted" in note and "nothing" in note for note in found.notes) == (max(map(len, of_genera)) == 1)


class Pixels:
    """Sees a photo as 4 x 4 colours."""

    name, fingerprint = "pixels", "pixels-1"

    def preprocess(self, image):
        from bioclip_jax.images import evaluation_image

        return evaluation_image(image, 4)

    def encode_image(self, images):
        return images.reshape(len(images), -1).astype(np.float32) / 255 - 0.5


def test_any_encoder_is_measured_and_the_command_adds_it_to_the_results(tmp_path, monkeypatch, capsys):
    build(load_recipe("data", "synthetic").source(**WORLD), tmp_path / "data", name="synthetic")
    drawn = measure(Pixels(), "synthetic", arguments=WORLD, traits=TRAITS[:1], settings=SETTINGS)
    values = {(f.variant, f.metric): f for f in drawn.figures}
    assert (drawn.photos, drawn.species, len(drawn.axis.positions)) == (800, 20, 20)
    assert {"phylogeny", "size", "habitat", "life_stage", "sex"} <= {variant for variant, _ in values}
    assert all(np.isfinite(f.value) for (_, metric), f in values.items() if "corrected" not in metric)
    # A photo shows where it was taken: in most, where its species lives.
    assert values["habitat", "mantel"].low > 0

    monkeypatch.setattr("bioclip_jax.inference.load.load", lambda model: Pixels())
    monkeypatch.chdir(tmp_path)
    flags = ["--root", "data", "--traits", "size", "--permutations", "99", "--resamples", "50"]
    for _ in range(2):
        emergence(["pixels", *flags, "--picture", "size.png"])
    assert (tmp_path / "size.png").read_bytes().startswith(b"\x89PNG")
    assert "fisher_ratio" in capsys.readouterr().out
    with Results(tmp_path / "results.sqlite") as database:
        ((number, run),) = database.runs().items()
        kept = database.rows(Figure, number)
    assert (run.benchmark, run.model) == ("emergence", "pixels")
    assert json.loads(run.splits)["test"]["used"] == 800
    # The directory holds the photos that were drawn.
    np.testing.assert_array_equal([f.value for f in kept], [f.value for f in drawn.figures])
    nowhere = [f for f in kept if np.isnan(f.value)]
    assert len(nowhere) == sum("nothing but noise" in note for note in drawn.notes)
    with pytest.raises(UsageError, match="no split 'tset'"):
        emergence(["pixels", *flags, "--split", "tset"])


def test_figures_of_many_models_are_drawn_as_curves(tmp_path):
    points = [Point(x, 0.1 * place, 0.0, 1.0, 0.5) for place, x in enumerate((6000, 500))]
    nan = float("nan")
    panels = {"rho": {"flat": points, "hierarchical": points}, "ratio": {"flat": [Point(500, 1.0, nan, nan, nan)]}}
    assert draw_scaling(panels, tmp_path / "new" / "a.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no figures to draw"):
        draw_scaling({"rho": {"flat": []}}, tmp_path / "b.png")


# Bad input


def test_bad_input_is_named():
    species = np.repeat(np.arange(24), 3)
    features = np.random.default_rng(0).normal(size=(72, 8))
    trait = np.arange(24.0)
    means = species_means(features, species)
    null = trait[freely(24, 9)]
    wrong = [
        ("have no photo", lambda: species_means(features, species + (species > 3))),
        ("23 species have a trait", lambda: mantel(means, trait[1:], null)),
        ("are too few", lambda: mantel(means[:5], trait[:5], null)),
        ("the trait of some species", lambda: mantel(means, np.where(trait > 3, trait, np.nan), null)),
        ("the same in all species", lambda: mantel(means, 0 * trait, null)),
        ("not of the trait's shape", lambda: mantel(means, trait, null[:, 1:])),
        ("features of species are NaN", lambda: mantel(means * np.nan, trait, null)),
        ("of one clade", lambda: readout(means, trait, null, 0 * species[:24])),
        ("nothing can be exchanged", lambda: within_clades(np.arange(4))),
        ("does not say what is true", lambda: Truth.of([json.dumps({"sex": "male"})], ["a"])),
        ("there are no photos", lambda: Truth.of([], [])),
    ]
    for message, call in wrong:
        with pytest.raises(UserError, match=message):
            call()


def test_figures_want_the_truth_of_their_photos(truth):
    features = np.random.default_rng(0).normal(size=(len(truth.species), 4))
    with pytest.raises(UserError, match="photos have features"):
        figures_of(features[1:], truth)
    with pytest.raises(UsageError, match="at least one trait"):
        figures_of(features, truth, traits=())
    for name, value in {"permutations": 0, "resamples": -1, "seed": -1}.items():
        with pytest.raises(UsageError, match=f"{name} {value}"):
            Settings(**{name: value})
    with pytest.raises(UsageError, match="max_images 0"):
        measure(Pixels(), "synthetic", limit=0)
    with pytest.raises(UserError, match="no species has a trait 'beak'"):
        figures_of(features, truth, traits=("beak",))
    with pytest.raises(UserError, match="NaN"):
        figures_of(features * np.nan, truth)
