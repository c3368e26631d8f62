"""Distances in the taxonomy, descent from kingdom to species, and seen against unseen: truth known by hand."""

from dataclasses import replace

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.features import Samples
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.measures.hierarchy import CELLS, TaxonTree, consistent, in_chunks, lca_distance, lineages
from bioclip_jax.evaluation.measures.seen_unseen import measure_together
from bioclip_jax.evaluation.ranks import Prompts
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks.taxonomic import Taxonomic
from bioclip_jax.heads import PLAIN_TEMPLATES, TaxonHead
from bioclip_jax.text.taxonomy import RANKS, Taxon

RAVEN = Taxon("Animalia", "Chordata", "Aves", "Corviformes", "Corvidae", "Corvus", "corax")
CROW = replace(RAVEN, species="cornix")
JAY = replace(RAVEN, genus="Garrulus", species="glandarius")
FINCH = replace(RAVEN, order="Passeriformes", family="Fringillidae", genus="Fringilla", species="coelebs")
WOLF = Taxon("Animalia", "Chordata", "Mammalia", "Carnivora", "Canidae", "Canis", "lupus")
POPPY = Taxon("Plantae", "Tracheophyta", "Magnoliopsida", "Ranunculales", "Papaveraceae", "Papaver", "rhoeas")
ALL = (RAVEN, CROW, JAY, FINCH, WOLF, POPPY)


def unit(features):
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize(("other", "ranks"), [(RAVEN, 0), (CROW, 1), (JAY, 2), (FINCH, 4), (WOLF, 5), (POPPY, 7)])
def test_a_distance_is_the_ranks_climbed_to_the_lowest_common_ancestor(other, ranks):
    one, two = lineages([RAVEN, other])
    assert lca_distance(one[None], two[None]).tolist() == [ranks]
    assert lca_distance(two[None], one[None]).tolist() == [ranks]


def test_an_unknown_rank_is_passed_over_and_never_brings_taxa_closer():
    no_order = replace(FINCH, order="", family="Muscicapidae", genus="Erithacus", species="rubecula")
    of = lineages([RAVEN, no_order])
    assert lca_distance(of[:1], of[1:]).tolist() == [4], "class is the deepest rank where both are known to agree"
    of = lineages([RAVEN, replace(JAY, family="")])
    assert lca_distance(of[:1], of[1:]).tolist() == [3], "the order is common, of the family nothing is known"
    of = lineages([replace(RAVEN, order="", family=""), replace(CROW, order="", family="")])
    assert lca_distance(of[:1], of[1:]).tolist() == [1]


def test_a_missing_rank_is_taken_from_taxa_that_share_a_lower_one():
    found = lineages([RAVEN, replace(JAY, order=""), replace(FINCH, order="")])
    order = RANKS.index("order")
    assert found[0, order] == found[1, order] >= 0
    assert found[2, order] == -1
    assert lca_distance(found[:1], found[1:2]).tolist() == [2]


def head_of(taxa, seed=0):
    features = unit(np.random.default_rng(seed).normal(size=(len(taxa), 8)))
    return TaxonHead(tuple(taxa), features, 10.0)


def test_descent_takes_the_most_probable_child_at_every_rank():
    taxa = [*ALL, replace(POPPY, order="", family="", genus="Urtica", species="dioica")]
    head, tree = head_of(taxa), TaxonTree(lineages(taxa))
    images = unit(np.random.default_rng(1).normal(size=(50, 8)))
    found = tree.descend(images, head)
    probabilities = np.exp(np.asarray(head.log_probabilities(images), np.float64))
    for row, probability in enumerate(probabilities):
        alive = np.ones(len(taxa), bool)
        for rank in range(7):
            nodes = tree.nodes[rank]
            sums = {node: probability[alive & (nodes == node)].sum() for node in set(nodes[alive].tolist())}
            best = max(sums, key=sums.__getitem__)
            assert found[row, rank] == best
            alive &= nodes == best
        assert alive.sum() == 1


def test_a_descent_that_errs_early_is_wrong_to_the_end_though_the_species_alone_was_right():
    # Two plants share the probability; together they outweigh the one animal that is most probable by itself.
    plants = [POPPY, replace(POPPY, species="dubium")]
    head = TaxonHead((RAVEN, *plants), np.eye(3, dtype=np.float32), 1.0)
    tree = TaxonTree(lineages(head.taxa))
    image = unit(np.array([[1.0, 0.9, 0.9]]))
    assert int(np.asarray(head.log_probabilities(image)).argmax()) == 0
    assert tree.descend(image, head)[0, 0] == tree.nodes[0][1]
    assert tree.descend(image, head)[0, 6] in tree.nodes[6][1:]


def test_answers_are_consistent_where_they_lie_on_the_lineage_of_the_lowest():
    answers = np.array([[0, 2, 5], [1, 2, 5], [0, 3, 5]])
    lineage = np.array([[0, 2, 5], [0, 2, 5], [0, -1, 5]])
    assert consistent(answers, lineage).tolist() == [True, False, True]


def test_chunks_cover_all_rows_and_keep_memory_bounded():
    rows = np.arange(2500, dtype=np.float32)[:, None]
    chunks = list(in_chunks(rows, 10))
    assert {len(chunk) for _, chunk in chunks} == {1024}
    np.testing.assert_array_equal(np.concatenate([chunk for _, chunk in chunks])[:2500], rows)
    assert max(len(chunk) for _, chunk in in_chunks(rows, CELLS // 3)) == 3


def encode(texts):
    """A direction for every species name in a text, nothing else."""
    rows = []
    for text in texts:
        place = next((n for n, taxon in enumerate(ALL) if taxon.species in text), None)
        rows.append(np.eye(len(ALL))[place] if place is not None else np.full(len(ALL), 0.1))
    return unit(np.array(rows))


def task_samples(taxa, features):
    return TaskSamples("test", tuple(str(n) for n in range(len(taxa))), features, taxa=tuple(taxa))


@pytest.fixture(scope="module")
def outcome():
    """Ravens are taken for crows, wolves for poppies; the rest is right. Thirty photos of each species."""
    said = [1, 1, 2, 3, 5, 5]
    taxa = [taxon for taxon in ALL for _ in range(30)]
    features = np.repeat(np.eye(6)[said], 30, axis=0) * 3
    task = Taxonomic("taxonomy", "test", templates=PLAIN_TEMPLATES)
    return task.measure({"test": task_samples(taxa, features)}, Context(encode, logit_scale=50.0, resamples=40))


def value(outcome, protocol, rank, metric):
    (found,) = [
        f
        for f in outcome.figures
        if (f.protocol, f.rank, f.metric) == (protocol, rank, metric) and f.variant in ("mean", "mean, 0.5")
    ]
    return found


def test_the_task_measures_distance_and_severity(outcome):
    assert value(outcome, "hierarchical", "species", "lca_distance").value == pytest.approx((1 + 7) / 6)
    severity = value(outcome, "hierarchical", "species", "mistake_severity")
    assert severity.value == pytest.approx(4)
    assert (severity.samples, severity.low, severity.high) == (60, 1, 7)
    assert value(outcome, "zero_shot", "species", "micro_accuracy").value == pytest.approx(4 / 6)
    assert value(outcome, "hierarchical", "kingdom", "top_down_micro_accuracy").value == pytest.approx(5 / 6)
    assert value(outcome, "hierarchical", "kingdom", "top_down_balanced_accuracy").value == pytest.approx(0.9)
    assert value(outcome, "hierarchical", "any", "consistency").value == 1
    assert {f.split for f in outcome.figures} == {"taxonomy"}
    for figure in outcome.figures:
        assert figure.low <= figure.high
        assert figure.clusters >= 1


def test_the_task_measures_probabilities_and_backs_off(outcome):
    # All answers are given with certainty, so the error of calibration is the share of mistakes.
    assert value(outcome, "calibration", "species", "ece").value == pytest.approx(2 / 6, abs=1e-6)
    assert value(outcome, "calibration", "species", "overconfidence").value == pytest.approx(2 / 6, abs=1e-6)
    assert value(outcome, "back_off", "species", "answered").value == 1
    assert value(outcome, "back_off", "any", "accuracy").value == pytest.approx(4 / 6)
    rows = [p for p in outcome.predictions if p.rank == "species"]
    assert len(rows) == 180
    assert {p.cluster for p in rows} == {f"{t.genus} {t.species}" for t in ALL}


def test_what_the_task_cannot_measure_is_one_line():
    task = Taxonomic("taxonomy", "test", templates=PLAIN_TEMPLATES)
    context = Context(encode, resamples=0)
    for samples, message in (
        (task_samples([], np.ones((2, 6), np.float32)), "no taxonomy"),
        (task_samples([RAVEN] * 2, np.ones((2, 6), np.float32)), "nothing can be measured"),
        (task_samples([RAVEN, WOLF], np.full((2, 6), np.nan, np.float32)), "not finite"),
    ):
        samples = replace(samples, keys=("a", "b"))
        with pytest.raises(UserError, match=message) as error:
            task.measure({"test": samples}, context)
        assert "\n" not in str(error.value)


def test_seen_and_unseen_have_the_same_candidates_in_the_joint_figures():
    parts, taxa = {}, {"seen": [RAVEN, WOLF] * 10, "unseen": [CROW, POPPY] * 10}
    for name, of_split in taxa.items():
        right = np.array([np.eye(6)[ALL.index(taxon)] for taxon in of_split])
        # An unseen crow looks like a raven: right among the unseen alone, wrong among all.
        features = np.where(
            (np.array(of_split, object) == CROW).reshape(-1, 1), np.eye(6)[0] + 0.9 * np.eye(6)[1], right
        )
        keys = tuple(map(str, range(20)))
        parts[name] = Samples(name, np.arange(20), keys, tuple(of_split), unit(features.astype(float)), {})
    labels = Labels.of(taxa, RANKS)
    prompts = Prompts(encode, 50.0, ("taxon_com",), ("taxon",), PLAIN_TEMPLATES)
    present = np.arange(len(labels.taxa))
    figures, differences = measure_together(
        parts, labels, ("kingdom", "species"), prompts.head(labels.taxa), present, prompts, "mean", resamples=60, seed=0
    )
    found = {(f.split, f.rank, f.metric): f for f in figures}
    assert found["seen", "species", "balanced_accuracy"].value == 1
    assert found["unseen", "species", "balanced_accuracy"].value == pytest.approx(0.5)
    assert found["unseen", "species", "balanced_accuracy"].classes == 4
    harmonic = found["seen and unseen", "species", "harmonic_mean_of_balanced_accuracy"]
    assert harmonic.value == pytest.approx(2 / 3)
    (gap,) = [d for d in differences if (d.rank, d.metric) == ("species", "balanced_accuracy")]
    assert gap.value == pytest.approx(0.5)
    assert gap.low <= 0.5 <= gap.high
    assert found["unseen", "kingdom", "micro_accuracy"].value == 1
