import csv
import dataclasses
import pickle
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.clean_up import AMBIGUOUS, COMPLETED, KINGDOM, plan_clean_up
from bioclip_jax.text.mending import OTHER_EPITHET, SYNONYM
from bioclip_jax.text.taxonomy import Taxon

pytestmark = pytest.mark.core

BIRD = Taxon("Animalia", "Chordata", "Aves", "Passeriformes", "Prunellidae", "Prunella", "modularis")
HERB = Taxon("Plantae", "Tracheophyta", "Magnoliopsida", "Lamiales", "Lamiaceae", "Prunella", "vulgaris")
RAVEN = Taxon("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus", "corax", "Corvus corax", "raven")


def without(taxon, *ranks, **fields):
    return dataclasses.replace(taxon, **dict.fromkeys(ranks, ""), **fields)


def plan(*taxa):
    return plan_clean_up(dict.fromkeys(taxa, 1))


def test_missing_ranks_come_from_the_other_taxa_of_the_genus():
    crow = without(RAVEN, "kingdom", "order", species="corone", scientific_name="")
    clean_up = plan(RAVEN, crow)
    assert clean_up.changes == {crow: dataclasses.replace(RAVEN, species="corone", scientific_name="")}
    assert clean_up.kinds == {crow: (COMPLETED,)}


def test_a_genus_under_two_kingdoms_completes_only_what_is_certain():
    somewhere = without(BIRD, "kingdom", "phylum", "class_", "order", "family", species="ambigua")
    bird = without(BIRD, "phylum", "class_", "order", species="collaris")
    clean_up = plan(BIRD, HERB, somewhere, bird)
    assert clean_up.changes == {bird: dataclasses.replace(BIRD, species="collaris")}
    assert clean_up.kinds == {bird: (COMPLETED,), somewhere: (AMBIGUOUS,)}


def test_ranks_above_a_disagreement_are_completed_and_those_below_reported():
    one, other = (dataclasses.replace(BIRD, family=family) for family in ("Prunellidae", "Passeridae"))
    lacking = without(BIRD, "phylum", "class_", "family", species="collaris")
    clean_up = plan(one, other, lacking)
    assert clean_up.changes == {lacking: without(BIRD, "family", species="collaris")}
    assert clean_up.kinds == {lacking: (COMPLETED, AMBIGUOUS)}


def test_a_family_known_elsewhere_only_under_another_kingdom_is_reported():
    wrong = dataclasses.replace(HERB, kingdom="Animalia")
    mint = dataclasses.replace(HERB, genus="Mentha", species="aquatica")
    sage = dataclasses.replace(HERB, genus="Salvia", species="pratensis")
    clean_up = plan(mint, sage, wrong, RAVEN)
    assert clean_up.changes == {}
    assert clean_up.kinds == {wrong: (KINGDOM,)}


def test_a_kingdom_synonym_does_not_make_two_kingdoms():
    metazoan = dataclasses.replace(RAVEN, kingdom="Metazoa", species="corone", scientific_name="")
    lacking = without(RAVEN, "kingdom", species="cornix", scientific_name="")
    clean_up = plan(RAVEN, metazoan, lacking)
    assert clean_up.changes[lacking].kingdom == "Animalia"
    assert clean_up.kinds == {metazoan: (SYNONYM,), lacking: (COMPLETED,)}


def test_the_report_lists_changes_and_doubts_with_their_records(tmp_path):
    metazoan = dataclasses.replace(RAVEN, kingdom="Metazoa", common_name='a "big", black bird')
    doubtful = dataclasses.replace(RAVEN, scientific_name="Corvus corone")
    clean_up = plan_clean_up({metazoan: 7, doubtful: 2, RAVEN: 100})
    clean_up.write_report(tmp_path / "report.csv")
    with (tmp_path / "report.csv").open(newline="", encoding="utf-8") as file:
        changed, reported = csv.DictReader(file)
    names = 'Chordata | Aves | Passeriformes | Corvidae | Corvus | corax | Corvus corax | a "big", black bird'
    assert changed == {
        "kind": SYNONYM,
        "before": f"Metazoa | {names}",
        "after": f"Animalia | {names}",
        "records": "7",
    }
    assert (reported["kind"], reported["after"], reported["records"]) == (OTHER_EPITHET, "", "2")
    assert clean_up.summary()[0] == "kingdom synonym: 1 taxa, 7 records, such as kingdom 'Metazoa' -> 'Animalia'"
    assert "(not changed): 1 taxa, 2 records" in clean_up.summary()[1]
    assert pickle.loads(pickle.dumps(clean_up)).changes == clean_up.changes  # noqa: S301 our own


def test_a_report_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "report.csv").mkdir()
    with pytest.raises(UserError, match=r"report\.csv could not be written"):
        plan(RAVEN).write_report(tmp_path / "report.csv")
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.csv"]


def test_a_genus_in_very_many_places_is_not_searched_pair_by_pair():
    many = [without(BIRD, "kingdom", family=f"Family{i}") for i in range(3000)]
    clean_up = plan(*many, BIRD)
    assert clean_up.changes == {}
    assert Counter(clean_up.kinds.values()) == {(AMBIGUOUS,): 3000}


NAMES = st.sampled_from(["", "", "A", "B", "metazoa", "Unknown", "x Y"])
TAXA = st.builds(
    Taxon,
    *[NAMES] * 5,
    st.sampled_from(["", "Corvus", "prunella"]),
    st.sampled_from(["", "corax", "Corvus corax", "İ"]),
    st.sampled_from(["", "Corvus corax", "CORVUS"]),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(TAXA, st.integers(1, 9), max_size=12))
def test_cleaning_what_was_cleaned_changes_nothing(taxa):
    clean_up = plan_clean_up(taxa)
    cleaned = Counter()
    for taxon, records in taxa.items():
        cleaned[clean_up.changes.get(taxon, taxon)] += records
    assert plan_clean_up(cleaned).changes == {}
    assert clean_up.changes.keys() <= clean_up.kinds.keys()


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.dictionaries(st.builds(Taxon, *[st.text(max_size=6)] * 9), st.just(1), max_size=4))
def test_no_strings_make_it_raise(taxa):
    clean_up = plan_clean_up(taxa)
    assert all(str(finding) for finding in clean_up.findings())
    assert len(clean_up.summary()) <= sum(map(len, clean_up.kinds.values()))
