import random
import sys

import pytest

from bioclip_jax.text.cleaning import clean_taxon, normalise_ranks
from bioclip_jax.text.taxonomy import Taxon

pytestmark = pytest.mark.core


@pytest.mark.parametrize(
    ("genus", "species", "expected"),
    [
        ("Corvus", "corax", ("corvus", "corax")),
        ("Corvus", "Corvus corax", ("corvus", "corax")),
        ("", "Corvus corax", ("corvus", "corax")),
        ("", "corax", ("", "corax")),
        ("Corvus", "corax (Linnaeus, 1758)", ("corvus", "corax")),
        ("Corvus", "corax Linnaeus, 1758", ("corvus", "corax")),
        ("Corvus", "corax Smith & Jones", ("corvus", "corax")),
        ("Corvus", "corax L. Koch", ("corvus", "corax")),
        ("Corvus", "corax ssp. varius", ("corvus", "corax")),
        ("Corvus", "corax subsp. varius", ("corvus", "corax")),
        ("Corvus", "corax var. minor", ("corvus", "corax")),
        ("Corvus", "corax<br>x", ("corvus", "corax")),
        ("<i>Corvus</i>", "<b><i>corax</i></b>", ("corvus", "corax")),
        ("Corvus", "corax corax", ("corvus", "corax")),
        ("Corvus", "Corvus unknown", ("corvus", "")),
        ("(unidentified)", "PleaseHelp", ("", "")),
        ("Corvus", "1758", ("corvus", "")),
    ],
)
def test_species_and_genus_are_normalised(genus, species, expected):
    assert normalise_ranks(Taxon(genus=genus, species=species))[5:] == expected


def test_kingdom_synonyms_become_one_name():
    names = ("Metazoa", "archaeplastida", "CHLOROPLASTIDA", "Fungi")
    assert [clean_taxon(Taxon(kingdom=name)).kingdom for name in names] == ["Animalia", "Plantae", "Plantae", "Fungi"]


def test_a_messy_row_becomes_a_tidy_record():
    messy = Taxon(
        "  METAZOA ", "n/a", "aves", "incertae  sedis", "None", "×CORVUS\t", "×Corvus corax L., 1758",
        scientific_name="<i>Corvus  corax</i> L., 1758", common_name=" Common\u00a0Raven ",
    )  # fmt: skip
    assert clean_taxon(messy) == Taxon(
        "Animalia", "", "Aves", "Incertae sedis", "", "×Corvus", "corax",
        scientific_name="Corvus corax L., 1758", common_name="Common Raven",
    )  # fmt: skip


def test_cleaning_twice_changes_nothing():
    taxon = clean_taxon(Taxon("Animalia", "Chordata", "Aves", "", "Corvidae", "Corvus", "Corvus corax Linnaeus, 1758"))
    assert clean_taxon(taxon) == taxon


def test_no_string_makes_cleaning_raise():
    generator = random.Random(3)
    alphabet = [chr(generator.randrange(sys.maxunicode + 1)) for _ in range(300)] + list("<>/()&.,0123456789 \t\n")
    for _ in range(300):
        names = ["".join(generator.choices(alphabet, k=generator.randrange(12))) for _ in range(9)]
        assert all(isinstance(name, str) for name in clean_taxon(Taxon(*names)).ranks)


def test_long_names_are_cleaned_in_linear_time():
    name = "a" * 100_000
    assert clean_taxon(Taxon(genus="Corvus", species=f"{name} 1 & ,")).species == f"{name} 1 & ,"
