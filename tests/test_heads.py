"""Heads over taxa: which taxa are the same, what their text says, how they roll up to ranks."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from bioclip_jax import heads
from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.head_cache import head_keeper, kept_texts
from bioclip_jax.heads import (
    RankGroups,
    TaxonHead,
    class_text,
    ensemble,
    log_sum_of_members,
    rank_groups,
    text_features,
    unique_taxa,
)
from bioclip_jax.text.captions import caption
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.templates import TEMPLATES

pytestmark = [pytest.mark.core, pytest.mark.usefixtures("as_users_compile")]

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


def test_a_text_that_several_classes_have_is_encoded_once_across_blocks(monkeypatch):
    monkeypatch.setattr(heads, "BLOCK_PROMPTS", 4)
    seen: list[str] = []

    def counting(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return encode(texts)

    texts = [[f"{number % 7} b", f"{number % 3} aaa"] for number in range(20)]
    found = text_features(counting, texts, templates=("a {}.", "the {}."), chunk_prompts=4)
    assert len(seen) == len(set(seen)) == 2 * (7 + 3)
    each = [
        encode([template.format(text) for text in of_class for template in ("a {}.", "the {}.")]) for of_class in texts
    ]
    np.testing.assert_allclose(found, ensemble(np.stack(each)), atol=1e-6)


def test_blocks_that_were_kept_are_not_encoded_again(monkeypatch, tmp_path):
    monkeypatch.setattr(heads, "BLOCK_PROMPTS", 6)  # three texts in two templates
    templates = ("a {}.", "the {}.")
    texts = [[f"{number} b"] for number in range(8)]
    calls: list[int] = []

    def interrupted(prompts: list[str]) -> np.ndarray:
        calls.append(len(prompts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(prompts)

    with pytest.raises(KeyboardInterrupt):
        text_features(interrupted, texts, templates=templates, keep=head_keeper(ArrayCache(tmp_path), "m", templates))
    done: list[int] = []
    keep = head_keeper(ArrayCache(tmp_path), "m", templates, done.append)
    found = text_features(interrupted, texts, templates=templates, keep=keep)
    assert calls == [6, 6, 4, 4]
    assert done == [3, 3, 2]
    np.testing.assert_array_equal(found, text_features(encode, texts, templates=templates))
    for fingerprint, others in (("other", templates), ("m", templates[::-1])):
        again = head_keeper(ArrayCache(tmp_path), fingerprint, others)
        before = len(calls)
        text_features(interrupted, texts, templates=others, keep=again)
        assert len(calls) == before + 3


def test_whoever_makes_a_head_of_kept_texts_makes_it_once(tmp_path):
    calls: list[int] = []

    def counting(texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return encode(texts)

    texts = kept_texts(counting, ArrayCache(tmp_path), "model")
    heads_ = [
        TaxonHead.from_text(texts, [GANNET, MULBERRY], logit_scale=1.0, text_types=("sci", "taxon")).features
        for _ in range(2)
    ]
    assert calls == [4]
    np.testing.assert_array_equal(*heads_)
    assert texts(["a text of its own"]).shape == (1, 3)


def head_in_bytes(classes: int, width: int, templates: tuple[str, ...]) -> tuple[int, int]:
    """The most that NumPy and Python held while a head was made, and the size of the head."""
    table = np.random.default_rng(0).standard_normal((256, width), np.float32)

    def cheap(texts: list[str]) -> np.ndarray:
        return table[[len(text) + ord(text[-2]) & 255 for text in texts]]

    tracemalloc.start()
    head = text_features(
        cheap, [[f"Genus{number % 999} species{number}"] for number in range(classes)], templates=templates
    )
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert head.shape == (classes, width)
    return most, head.nbytes


def test_memory_does_not_grow_with_templates_times_classes():
    most, head = head_in_bytes(2000, 256, TEMPLATES)  # all its prompts' features are 166 MB
    assert most < head + 30e6


HEAD_OF_100_000_TAXA = """
import numpy as np
from bioclip_jax.heads import text_features
from bioclip_jax.text.templates import TEMPLATES

table = np.random.default_rng(0).standard_normal((256, 768), np.float32)
encode = lambda texts: table[[hash(text) & 255 for text in texts]]
names = [[f"Genus{n % 9999} species{n}"] for n in range(100_000)]
assert text_features(encode, names, templates=TEMPLATES).shape == (100_000, 768)
"""


@pytest.mark.slow
def test_a_head_of_100_000_taxa_in_81_templates_stays_below_a_gigabyte(peak_memory):
    assert peak_memory(HEAD_OF_100_000_TAXA) < 1e9  # the whole process, JAX included


def test_a_model_of_nans_is_named():
    with pytest.raises(UserError, match=r"1 of 2 texts \(first: 'a photo of elk.'\)"):
        text_features(lambda texts: np.array([[1.0], [np.nan]]), [["fox"], ["elk"]])


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
