"""Heads over taxa: which taxa are the same, what their text says, how they roll up to ranks."""

from dataclasses import replace

import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.heads import (
    RankGroups,
    TaxonHead,
    class_text,
    log_sum_of_members,
    rank_groups,
    text_features,
    unique_taxa,
)
from bioclip_jax.text.captions import caption
from bioclip_jax.text.taxonomy import Taxon

pytestmark = pytest.mark.core

GANNET = Taxon("Animalia", "Chordata", "Aves", "Suliformes", "Sulidae", "Morus", "bassanus", common_name="Gannet")
MULBERRY = Taxon("Plantae", "Tracheophyta", "Magnoliopsida", "Rosales", "Moraceae", "Morus", "nigra")


def encode(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text.count("a") + 1, ord(text[-2])] for text in texts], np.float32)


def test_a_name_in_two_kingdoms_is_two_taxa():
    groups = rank_groups([GANNET, MULBERRY], "genus")
    assert groups.labels == ("Morus (Animalia)", "Morus (Plantae)")
    assert groups.index.tolist() == [0, 1]


def test_a_rank_missing_in_between_does_not_split_a_species():
    other = replace(GANNET, order="", common_name="")
    for rank in ("species", "genus"):
        assert rank_groups([GANNET, other], rank).index.tolist() == [0, 0]
    assert rank_groups([other, GANNET], "species").taxa == (GANNET,)
    assert rank_groups([GANNET, other], "order").index.tolist() == [0, -1]


def test_a_record_without_kingdom_joins_the_only_taxon_of_its_name():
    lost = replace(GANNET, kingdom="")
    assert rank_groups([lost, GANNET], "genus").index.tolist() == [0, 0]
    assert len(rank_groups([lost, GANNET, MULBERRY], "genus")) == 3


def test_distinct_taxa_keep_records_without_a_species():
    genus_only = replace(GANNET, species="", common_name="")
    taxa, index = unique_taxa([GANNET, genus_only, GANNET, genus_only])
    assert taxa == (GANNET, genus_only)
    assert index.tolist() == [0, 1, 0, 1]


def test_selected_groups_are_numbered_anew():
    groups = RankGroups("genus", (GANNET, MULBERRY), ("a", "b"), np.array([1, 0, -1], np.int32)).select(
        np.array([0, 2])
    )
    assert groups.labels == ("b",)
    assert groups.index.tolist() == [0, -1]


def test_a_class_text_in_the_plain_template_is_the_caption():
    for text_type in ("taxon", "taxon_com", "sci"):
        assert f"a photo of {class_text(GANNET, text_type)}." == caption(GANNET, text_type)


def test_each_prompt_is_encoded_once_and_chunks_do_not_show():
    seen: list[str] = []

    def counting(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return encode(texts)

    texts = [["x", "y"], ["y", "x"], ["z", "zz"]]
    whole = text_features(counting, texts, templates=("a {}.", "the {}."))
    assert len(seen) == len(set(seen)) == 8
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(whole[0], whole[1], rtol=1e-6)
    np.testing.assert_array_equal(text_features(encode, texts, templates=("a {}.", "the {}."), chunk_prompts=1), whole)


def test_a_head_without_classes_is_refused():
    with pytest.raises(UserError, match="0 classes"):
        text_features(encode, [])


def test_roll_up_sums_members_and_leaves_unknown_ranks_out():
    taxa = [GANNET, replace(GANNET, species="capensis"), replace(MULBERRY, genus="", species="")]
    head = TaxonHead.from_text(encode, taxa, logit_scale=5.0, text_types=("taxon",))
    log_probabilities = np.log(np.array([[0.2, 0.5, 0.3]], np.float32))
    genus = np.exp(log_sum_of_members(log_probabilities, head.groups("genus").index))
    np.testing.assert_allclose(genus, [[0.7, 0, 0]], rtol=1e-6)
    kingdom = np.exp(log_sum_of_members(log_probabilities, head.groups("kingdom").index))
    np.testing.assert_allclose(kingdom, [[0.7, 0.3, 0]], rtol=1e-6)
    mean = head.features[:2].mean(axis=0)
    np.testing.assert_allclose(head.prototypes(head.groups("genus")), [mean / np.linalg.norm(mean)], rtol=1e-5)


def test_an_unknown_rank_is_named():
    with pytest.raises(UserError, match="tribe"):
        rank_groups([GANNET], "tribe")
