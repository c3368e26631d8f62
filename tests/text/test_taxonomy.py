import cloudpickle
import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.text.taxonomy import RANKS, Taxon

pytestmark = pytest.mark.core

RAVEN = {
    "kingdom": "Animalia",
    "phylum": "Chordata",
    "class": "Aves",
    "order": "Passeriformes",
    "family": "Corvidae",
    "genus": "Corvus",
    "species": "corax",
    "scientific_name": "Corvus corax",
    "common_name": "common raven",
    "source": "ignored",
}


def test_a_taxon_holds_what_the_record_says():
    taxon = Taxon.from_record(RAVEN)
    assert taxon.ranks == tuple(RAVEN[rank] for rank in RANKS)
    assert (taxon.class_, taxon.scientific_name, taxon.common_name) == ("Aves", "Corvus corax", "common raven")
    assert all(taxon.rank(rank) == RAVEN[rank] for rank in RANKS)


def test_missing_values_of_any_kind_are_empty():
    taxon = Taxon.from_record({"kingdom": None, "phylum": float("nan"), "order": b"Aves \xff", "genus": 7})
    assert taxon == Taxon(order="Aves \ufffd", genus="7")
    assert Taxon.from_record({}) == Taxon()


def test_lineage_runs_from_kingdom_to_the_rank_and_keeps_holes():
    taxon = Taxon.from_record({**RAVEN, "phylum": ""})
    assert taxon.lineage("kingdom") == ("Animalia",)
    assert taxon.lineage("order") == ("Animalia", "", "Aves", "Passeriformes")
    assert taxon.lineage("species") == taxon.ranks


@pytest.mark.parametrize("rank", ["class_", "Genus", ""])
def test_a_word_that_is_no_rank_is_a_usage_error(rank):
    with pytest.raises(UsageError, match="not a rank"):
        Taxon().rank(rank)
    with pytest.raises(UsageError, match="not a rank"):
        Taxon().lineage(rank)


def test_taxa_are_keys_and_survive_pickling():
    taxon = Taxon.from_record(RAVEN)
    assert {taxon: 1}[cloudpickle.loads(cloudpickle.dumps(taxon))] == 1
