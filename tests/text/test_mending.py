import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bioclip_jax.text import mending
from bioclip_jax.text.mending import doubts, mend
from bioclip_jax.text.taxonomy import Taxon

pytestmark = pytest.mark.core

FIELDS = ("kingdom", "phylum", "class_", "order", "family", "genus", "species", "scientific_name", "common_name")


def names(**fields):
    return Taxon(**fields)


@pytest.mark.parametrize(
    ("before", "after", "kinds"),
    [
        (names(kingdom="Metazoa"), names(kingdom="Animalia"), (mending.SYNONYM,)),
        (names(kingdom="archaeplastida"), names(kingdom="Plantae"), (mending.SYNONYM,)),
        (names(kingdom="Chloroplastida"), names(kingdom="Plantae"), (mending.SYNONYM,)),
        (
            names(kingdom="incertae sedis", order="(unidentified)", family="Corvidae"),
            names(family="Corvidae"),
            (mending.UNKNOWN,),
        ),
        (
            names(kingdom="Fungi", phylum="Fungi_phy_Incertae_sedis", class_="Unknown"),
            names(kingdom="Fungi"),
            (mending.UNKNOWN,),
        ),
        (names(genus="Corvus", species="sp."), names(genus="Corvus"), (mending.UNKNOWN,)),
        (names(genus="Corvus", common_name="unknown"), names(genus="Corvus"), (mending.UNKNOWN,)),
        (
            names(genus="Corvus", species="Corvus corax"),
            names(genus="Corvus", species="corax"),
            (mending.BINOMIAL,),
        ),
        (
            names(genus="Corvus", species="corax Linnaeus, 1758"),
            names(genus="Corvus", species="corax"),
            (mending.CUT,),
        ),
        (names(genus="Corvus", species="corax corax"), names(genus="Corvus", species="corax"), (mending.TWICE,)),
        (names(genus="Corvus", species="Corvus Smith 1900"), names(genus="Corvus"), (mending.BINOMIAL, mending.CUT)),
        (names(species="Corvus corax"), names(genus="Corvus", species="corax"), (mending.GENUS,)),
        (
            names(species="corax", scientific_name="Corvus corax (L.)"),
            names(genus="Corvus", species="corax", scientific_name="Corvus corax (L.)"),
            (mending.GENUS,),
        ),
        (
            names(genus="Corvus", scientific_name="Corvus corax"),
            names(genus="Corvus", species="corax", scientific_name="Corvus corax"),
            (mending.EPITHET,),
        ),
        (
            names(kingdom="ANIMALIA", class_="aves", genus="×abies", species="Corax"),
            names(kingdom="Animalia", class_="Aves", genus="×Abies", species="corax"),
            (mending.CASE,),
        ),
        (
            names(genus="Corvus", species="corax", scientific_name="CORVUS CORAX"),
            names(genus="Corvus", species="corax", scientific_name="Corvus corax"),
            (mending.CASE,),
        ),
        (
            names(class_=" <i>Aves</i>", common_name="big  bird\n"),
            names(class_="Aves", common_name="big bird"),
            (mending.MARKUP,),
        ),
        (
            names(kingdom="Metazoa ", genus="corvus", species="CORVUS corax L. 1758"),
            names(kingdom="Animalia", genus="Corvus", species="corax"),
            (mending.MARKUP, mending.SYNONYM, mending.BINOMIAL, mending.CUT, mending.CASE),
        ),
    ],
)
def test_what_is_certain_is_mended(before, after, kinds):
    assert mend(before) == (after, kinds)


@pytest.mark.parametrize(
    "taxon",
    [
        names(kingdom="Animalia", genus="Corvus", species="corax", scientific_name="Corvus corax Linnaeus, 1758"),
        names(kingdom="Viruses", genus="Alphainfluenzavirus", species="Influenza A virus"),
        names(kingdom="Bacteria", phylum="DPANN", genus="Candidatus Pelagibacter", species="ubique"),
        names(genus="Quercus", species="× rosacea", scientific_name="Quercus × rosacea"),
        names(genus="Rosa", species="novae-angliae", common_name="ROSE of New England"),
        names(family="Corvidae", scientific_name="Corvidae sp."),
        names(genus="Ignota", species="incognita"),  # real names that only sound like 'unknown'
    ],
)
def test_what_is_right_is_left_alone(taxon):
    assert mend(taxon) == (taxon, ())
    assert doubts(taxon) == ()


@pytest.mark.parametrize(
    ("taxon", "found"),
    [
        (names(genus="Corvus", species="corone", scientific_name="Corvus corax"), (mending.OTHER_EPITHET,)),
        (names(genus="Corvus", species="corax", scientific_name="Parus corax"), (mending.OTHER_GENUS,)),
        (names(genus="Corvus", species="Parus major"), (mending.OTHER_GENUS,)),
        (names(kingdom="incertae sedis", common_name="unknown"), (mending.NAMELESS,)),  # a record keeps some name
        (
            names(genus="Corvus", species="corax", scientific_name="Parus major"),
            (mending.OTHER_GENUS, mending.OTHER_EPITHET),
        ),
    ],
)
def test_contradictions_and_a_lack_of_names_are_doubts_and_not_changes(taxon, found):
    assert mend(taxon) == (taxon, ())
    assert doubts(taxon) == found


WORDS = st.sampled_from(
    "Corvus corvus CORVUS corax Corax × x sp. cf. Metazoa Viruses Unknown incertae sedis (L.) 1758 & var. <i> </i> "
    "İ ŉ ß ǆ unclassified na Candidatus \t , - . ( )".split(" ")
)
NAMES = st.one_of(st.just(""), st.lists(WORDS, max_size=4).map(" ".join), st.text(max_size=12))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.builds(Taxon, **dict.fromkeys(FIELDS, NAMES)))
def test_mending_twice_is_mending_once_whatever_the_strings(taxon):
    mended, kinds = mend(taxon)
    assert mend(mended) == (mended, ())
    assert bool(kinds) == (mended != taxon)
    assert (mended == Taxon()) == (taxon == Taxon())
    doubts(mended)
