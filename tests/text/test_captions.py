import json
from pathlib import Path

import pytest

from bioclip_jax.errors import UsageError
from bioclip_jax.text.captions import ALL_TEXT_TYPES, TEXT_TYPES, caption, class_name, text_type_of_step
from bioclip_jax.text.taxonomy import RANKS, Taxon

pytestmark = pytest.mark.core

GOLDENS = Path(__file__).parents[1] / "goldens" / "text_image"
RAVEN = Taxon("Animalia", "Chordata", "", "Passeriformes", "Corvidae", "Corvus", "corax", "", "common raven")


@pytest.fixture(scope="module")
def cases():
    return json.loads((GOLDENS / "captions.json").read_text(encoding="utf-8"))["cases"]


@pytest.mark.parametrize("writer", ["tol2webdataset", "tol_hybrid_to_wds", "bioclip_10m"])
def test_captions_are_those_of_the_writer(cases, writer):
    compared = 0
    for case in cases:
        taxon = Taxon.from_record(case["input"])
        expected = case[writer]
        if "raises" in expected:
            # The one row that the original refuses: nothing is known but a common name.
            assert caption(taxon, "taxon", writer) == "a photo of ."
            continue
        assert {text_type: caption(taxon, text_type, writer) for text_type in expected} == expected, case["kind"]
        compared += len(expected)
    assert compared > 1400


def test_default_names_ranks_like_the_public_writer_where_species_is_one_word_or_a_binomial(cases):
    compared = 0
    for case in cases:
        ranks = [case["input"][rank] or "" for rank in RANKS]
        words = ranks[6].split()
        known = case["tol_hybrid_to_wds"]["taxonomic_name"] != ""
        plain = known and ranks == [" ".join(name.split()).rstrip(".") for name in ranks]
        if plain and (len(words) < 2 or (len(words) == 2 and words[0] == ranks[5] and words[1].lower() != "unknown")):
            for text_type in ("taxonomic_name", "taxon", "taxonTag"):
                assert caption(Taxon.from_record(case["input"]), text_type) == case["tol_hybrid_to_wds"][text_type]
            compared += 1
    assert compared > 150


def test_default_writes_all_ten_types_of_a_record():
    assert {text_type: caption(RAVEN, text_type) for text_type in ALL_TEXT_TYPES} == {
        "scientific_name": "Corvus corax",
        "taxonomic_name": "Animalia Chordata Passeriformes Corvidae Corvus corax",
        "common_name": "common raven",
        "sci": "a photo of Corvus corax.",
        "com": "a photo of common raven.",
        "taxon": "a photo of Animalia Chordata Passeriformes Corvidae Corvus corax.",
        "taxonTag": "a photo of kingdom Animalia phylum Chordata order Passeriformes family Corvidae genus Corvus"
        " species corax.",
        "sci_com": "a photo of Corvus corax with common name common raven.",
        "taxon_com": "a photo of Animalia Chordata Passeriformes Corvidae Corvus corax with common name common raven.",
        "taxonTag_com": "a photo of kingdom Animalia phylum Chordata order Passeriformes family Corvidae genus Corvus"
        " species corax with common name common raven.",
    }


@pytest.mark.parametrize(
    ("taxon", "scientific", "taxonomic", "common"),
    [
        (Taxon(genus="Corvus", species="corax"), "Corvus corax", "Corvus corax", "Corvus corax"),
        (Taxon(genus="Corvus", species="Corvus corax"), "Corvus corax", "Corvus corax", "Corvus corax"),
        (Taxon(genus="Corvus", species="unknown"), "Corvus", "Corvus", "Corvus"),
        (Taxon(genus="Corvus", species="Corvus unknown"), "Corvus", "Corvus", "Corvus"),
        (Taxon(kingdom="Animalia", family="Corvidae", common_name="crow."), "Corvidae", "Animalia Corvidae", "crow"),
        (Taxon(scientific_name="Corvus corax L."), "Corvus corax L", "Corvus corax L", "Corvus corax L"),
        (
            Taxon(genus="Corvus", species="corax", scientific_name="Unknown"),
            "Corvus corax",
            "Corvus corax",
            "Corvus corax",
        ),
        (Taxon(common_name="raven"), "raven", "raven", "raven"),
        (Taxon(), "Unknown", "Unknown", "Unknown"),
        (Taxon(species="Œ\u0301\U0001f426 "), "Œ\u0301\U0001f426", "Œ\u0301\U0001f426", "Œ\u0301\U0001f426"),
    ],
)
def test_default_names_what_is_there(taxon, scientific, taxonomic, common):
    names = tuple(caption(taxon, text_type) for text_type in ("scientific_name", "taxonomic_name", "common_name"))
    assert names == (scientific, taxonomic, common)


def test_unknown_types_and_conventions_are_usage_errors():
    with pytest.raises(UsageError, match="text type 'science'"):
        caption(RAVEN, "science")
    with pytest.raises(UsageError, match="convention 'mine'"):
        caption(RAVEN, "sci", "mine")
    with pytest.raises(UsageError, match="text type 'asis'"):
        class_name(RAVEN, "asis")


def test_text_type_of_a_step_is_that_of_the_published_training():
    expected = json.loads((GOLDENS / "text_type_of_step.json").read_text())
    assert [text_type_of_step(step) for step in range(200)] == expected
    assert {text_type_of_step(step, ("sci",)) for step in range(9)} == {"sci"}


def test_class_names_are_those_of_the_evaluation():
    rows = json.loads((GOLDENS / "names.json").read_text(encoding="utf-8"))["rows"]
    own_decisions = []
    for row in rows:
        cells = row["cells"] | row["changed_by_reading"]
        taxon = Taxon.from_record({**cells, "class": cells["cls"]})
        for text_type in TEXT_TYPES:
            name, expected = class_name(taxon, text_type, cells["subspecies"]), row["names"][text_type]
            if isinstance(expected, str):
                assert name == expected, row["kind"]
            else:  # no name, or an exception
                own_decisions.append((row["kind"], text_type, name))
    assert len(own_decisions) == 16
    assert ("missing genus and species", "sci", "Paridae") in own_decisions
    assert ("missing genus and species", "sci_com", "Paridae with common name Marsh Tit") in own_decisions
    assert ("nothing but a common name", "sci_com", "sycamore maple") in own_decisions
    assert ("nothing at all", "sci", "") in own_decisions
