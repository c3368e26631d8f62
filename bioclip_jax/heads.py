"""Text heads over taxa: one unit vector per taxon, and their roll-up to any of the seven ranks.

A name is unique within a kingdom (the nomenclature codes see to that) but not across kingdoms: `Morus` is a gannet
and a mulberry. So a taxon at a rank is identified by (kingdom, name), a species by (kingdom, genus and epithet).
Ranks between that are missing in some records do not split a taxon in two, and a record without a kingdom joins the
one taxon of its name, where there is exactly one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bioclip_jax.errors import UserError
from bioclip_jax.text.captions import caption
from bioclip_jax.text.taxonomy import RANKS, Taxon

FIELDS = tuple("class_" if rank == "class" else rank for rank in RANKS)
PLAIN_TEMPLATES = ("a photo of {}.",)
"""The one template that training captions are written in."""

BLOCK_PROMPTS = 32768
MOST_TEXTS = 4096
"""Texts come in blocks of about so many prompts, and no more than so many texts: what is kept, and lost, at once."""

EncodeText = Callable[[list[str]], np.ndarray]
Keep = Callable[[list[str], EncodeText], np.ndarray]
"""Gives the features float32 `[texts, d]` of a block of texts, which the function that it is given computes."""


@dataclass(frozen=True)
class KeptTexts:
    """An `EncodeText` with which a head is made only once: `text_features` asks `keep`, whoever calls it."""

    encode_text: EncodeText
    keep: Callable[[Sequence[str]], Keep]
    """From the templates of a head."""

    def __call__(self, texts: list[str]) -> np.ndarray:
        """Features of texts: float32 `[m, d]`."""
        return self.encode_text(texts)


def normalise(features: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """L2-normalises the last axis; a zero vector stays zero (norm at least 1e-12, as PyTorch's `F.normalize`)."""
    return features / jnp.maximum(jnp.linalg.norm(features, axis=-1, keepdims=True), 1e-12)


@jax.jit
def mean_of_prompts(text_features: Float[Array, "texts prompts d"]) -> Float[Array, "texts d"]:
    """The mean of each text's prompts, which are normalised first."""
    return normalise(text_features).mean(axis=1)


@jax.jit
def ensemble(text_features: Float[Array, "classes prompts d"]) -> Float[Array, "classes d"]:
    """One unit vector per class from its prompts: each normalised, their mean normalised again (CLIP, 3.1.4)."""
    return normalise(mean_of_prompts(text_features))


@jax.jit
def logits(
    image_features: Float[Array, "n d"],
    class_features: Float[Array, "classes d"],
    logit_scale: float | Float[Array, ""],
) -> Float[Array, "n classes"]:
    """`logit_scale * image_features @ class_features.T` in full float32 (no TF32, no bfloat16 passes)."""
    return jnp.matmul(logit_scale * image_features, class_features.T, precision=jax.lax.Precision.HIGHEST)


# Both functions below have as many groups as taxa, the last ones empty: so they are compiled once for all ranks.


@jax.jit
def log_sum_of_members(log_probabilities: Float[Array, "n taxa"], index: Int[Array, " taxa"]) -> Float[Array, "n taxa"]:
    """Logarithm of the sum of the members' probabilities for each group; -inf for an empty one.

    Members with index -1 (rank unknown) belong to none, so a row's probabilities add up to 1 less their share.
    """
    groups = len(index)
    segments = jnp.where(index < 0, groups, index)
    largest = jax.ops.segment_max(log_probabilities.T, segments, num_segments=groups + 1)
    largest = jnp.where(jnp.isfinite(largest), largest, 0)
    relative = jnp.exp(log_probabilities.T - largest[segments])
    sums = jax.ops.segment_sum(relative, segments, num_segments=groups + 1)
    return (jnp.log(sums) + largest)[:groups].T


@jax.jit
def mean_of_members(features: Float[Array, "taxa d"], index: Int[Array, " taxa"]) -> Float[Array, "taxa d"]:
    """The normalised mean of the members' features for each group; members with index -1 belong to none."""
    groups = len(index)
    sums = jax.ops.segment_sum(features, jnp.where(index < 0, groups, index), num_segments=groups + 1)
    return normalise(sums[:groups])


@dataclass(frozen=True)
class RankGroups:
    """The taxa at one rank that some taxa belong to."""

    rank: str
    taxa: tuple[Taxon, ...]
    """One per group, names below the rank removed."""
    labels: tuple[str, ...]
    """One per group, unique: the name, with the kingdom in brackets where two kingdoms share it."""
    index: np.ndarray
    """int32 [number of taxa given]: the group of each, -1 where the name at this rank is missing."""

    def __len__(self) -> int:
        return len(self.taxa)

    def select(self, rows: np.ndarray) -> RankGroups:
        """The same for only some of the taxa given: groups that none of `rows` int `[m]` belongs to are left out."""
        index = self.index[rows]
        kept = np.unique(index[index >= 0])
        new_index = np.where(index < 0, -1, np.searchsorted(kept, index)).astype(np.int32)
        return RankGroups(self.rank, tuple(self.taxa[i] for i in kept), tuple(self.labels[i] for i in kept), new_index)


def species_name(taxon: Taxon) -> str:
    """Genus and epithet, said once where `species` holds both; empty where the species is unknown."""
    if not taxon.species or taxon.species.startswith(f"{taxon.genus} "):
        return taxon.species
    return f"{taxon.genus} {taxon.species}".strip()


def class_text(taxon: Taxon, text_type: str) -> str:
    """What a caption of `text_type` says of a taxon; the template `a photo of {}.` gives the caption back."""
    return caption(taxon, text_type).removeprefix("a photo of ").removesuffix(".")


def truncate(taxon: Taxon, rank: str) -> Taxon:
    """The taxon at `rank` that `taxon` belongs to.

    Names of lower ranks are removed; above species so are the scientific and the common name.
    """
    if rank == "species":
        return taxon
    lower = FIELDS[RANKS.index(rank) + 1 :]
    return replace(taxon, **dict.fromkeys(lower, ""), scientific_name="", common_name="")


def rank_groups(taxa: Sequence[Taxon], rank: str) -> RankGroups:
    """Groups taxa by the taxon that they belong to at `rank`; groups are in order of their names.

    A group is represented by its most complete lineage (among those the most frequent, then the first in order).
    """
    if rank not in RANKS:
        raise UserError(f"rank {rank!r} is not one of {', '.join(RANKS)}")
    names = [species_name(taxon) if rank == "species" else taxon.rank(rank) for taxon in taxa]
    kingdoms_of: dict[str, set[str]] = defaultdict(set)
    for name, taxon in zip(names, taxa, strict=True):
        if taxon.kingdom:
            kingdoms_of[name].add(taxon.kingdom)
    keys = []
    for name, taxon in zip(names, taxa, strict=True):
        kingdoms = kingdoms_of[name]
        keys.append((name, next(iter(kingdoms)) if not taxon.kingdom and len(kingdoms) == 1 else taxon.kingdom))
    members: dict[tuple[str, str], Counter[Taxon]] = defaultdict(Counter)
    for key, taxon in zip(keys, taxa, strict=True):
        if key[0]:
            members[key][truncate(taxon, rank)] += 1
    ordered = sorted(members)
    number = {key: place for place, key in enumerate(ordered)}
    shared = {name for name, count in Counter(name for name, _ in ordered).items() if count > 1}
    return RankGroups(
        rank=rank,
        taxa=tuple(_most_complete(members[key]) for key in ordered),
        labels=tuple(f"{name} ({kingdom or 'no kingdom'})" if name in shared else name for name, kingdom in ordered),
        index=np.array([number.get(key, -1) for key in keys], np.int32),
    )


def _most_complete(candidates: Counter[Taxon]) -> Taxon:
    def order(taxon: Taxon) -> tuple[int, int, tuple[str, ...]]:
        known = sum(bool(name) for name in taxon.ranks) + bool(taxon.common_name)
        return (-known, -candidates[taxon], taxon.ranks)

    return min(candidates, key=order)


def text_features(
    encode_text: EncodeText,
    class_texts: Sequence[Sequence[str]],
    *,
    templates: Sequence[str] = PLAIN_TEMPLATES,
    chunk_prompts: int = 4096,
    keep: Keep | None = None,
) -> np.ndarray:
    """One unit vector per class: the ensemble over all its texts (the same number for every class) in all templates.

    A text is encoded once, whichever classes have it. Held are the result, the texts, a block of features of texts and
    `chunk_prompts` features of prompts, so memory does not grow with templates times classes.

    Args:
        encode_text: gives features of prompts.
        class_texts: the texts of each class.
        templates: each with one `{}`.
        chunk_prompts: about so many prompts are encoded at once.
        keep: is asked for the features of each block of texts, and may have them already; by default that of
            `encode_text`, if it is one of `KeptTexts`.

    Returns:
        float32 `[classes, d]`, L2-normalised.

    Raises:
        UserError: there is nothing to encode, or a feature is not finite.
    """
    if not class_texts or not class_texts[0] or not templates:
        counts = f"{len(class_texts)} classes, {len(templates)} templates"
        raise UserError(f"a text head needs classes, texts of them, and templates; given were {counts}")
    if keep is None and isinstance(encode_text, KeptTexts):
        keep = encode_text.keep(templates)
    number: dict[str, int] = {}
    text_of = np.array([[number.setdefault(text, len(number)) for text in texts] for texts in class_texts], np.int64)
    order = np.argsort(text_of, axis=None, kind="stable")
    text_sorted, class_sorted = text_of.ravel()[order], order // text_of.shape[1]
    distinct = list(number)

    def compute(texts: list[str]) -> np.ndarray:
        return _prompt_means(encode_text, texts, templates, chunk_prompts)

    features: np.ndarray | None = None
    block = max(1, min(MOST_TEXTS, BLOCK_PROMPTS // len(templates)))
    for start in range(0, len(distinct), block):
        texts = distinct[start : start + block]
        means = keep(texts, compute) if keep else compute(texts)
        if features is None:
            features = np.zeros((len(class_texts), means.shape[1]), np.float32)
        rows = slice(*np.searchsorted(text_sorted, [start, start + len(texts)]))
        np.add.at(features, class_sorted[rows], means[text_sorted[rows] - start])
    assert features is not None  # noqa: S101 there is a text
    for start in range(0, len(features), MOST_TEXTS):
        part = features[start : start + MOST_TEXTS]
        part /= np.maximum(np.linalg.norm(part, axis=1, keepdims=True), np.float32(1e-12))
    return features


def _prompt_means(
    encode_text: EncodeText, texts: Sequence[str], templates: Sequence[str], chunk_prompts: int
) -> np.ndarray:
    """For each text the mean of its prompts' normalised features: float32 `[texts, d]`.

    Equal prompts of one chunk (of repeated templates, or of texts as `X` and `a X`) are encoded once.
    """
    step = max(1, chunk_prompts // len(templates))
    chunks = []
    for start in range(0, len(texts), step):
        prompts = [template.format(text) for text in texts[start : start + step] for template in templates]
        unique = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        encoded = np.asarray(encode_text(list(unique)), np.float32)
        bad = ~np.isfinite(encoded).all(axis=1)
        if bad.any():
            raise UserError(
                f"the model gives NaN or infinite features for {bad.sum()} of {len(encoded)} texts "
                f"(first: {list(unique)[int(bad.argmax())]!r}): its weights are damaged or its training diverged"
            )
        gathered = encoded[[unique[prompt] for prompt in prompts]].reshape(-1, len(templates), encoded.shape[-1])
        # Padded to a power of two, so that few sizes are compiled.
        padded = np.zeros((1 << (len(gathered) - 1).bit_length(), *gathered.shape[1:]), np.float32)
        padded[: len(gathered)] = gathered
        chunks.append(np.asarray(mean_of_prompts(padded))[: len(gathered)])
    return np.concatenate(chunks)


def unique_taxa(taxa: Sequence[Taxon]) -> tuple[tuple[Taxon, ...], np.ndarray]:
    """The distinct taxa among `taxa` and int32 `[number of taxa]`, which of them each is.

    Records of one species are one taxon, with the most complete lineage that any of them has; records without a
    species are one taxon where all ranks agree.
    """
    species = rank_groups(taxa, "species")
    others: dict[tuple[str, ...], int] = {}
    distinct = list(species.taxa)
    index = species.index.copy()
    for row in np.flatnonzero(index < 0).tolist():
        ranks = taxa[row].ranks
        if ranks not in others:
            others[ranks] = len(distinct)
            distinct.append(taxa[row])
        index[row] = others[ranks]
    return tuple(distinct), index


@dataclass(frozen=True)
class TaxonHead:
    """A classifier over taxa, given by text."""

    taxa: tuple[Taxon, ...]
    features: np.ndarray
    """float32 `[taxa, d]`, unit vectors."""
    logit_scale: float
    """The multiplier of similarities."""

    @classmethod
    def from_text(
        cls,
        encode_text: EncodeText,
        taxa: Sequence[Taxon],
        *,
        logit_scale: float,
        text_types: Sequence[str],
        templates: Sequence[str] = PLAIN_TEMPLATES,
        keep: Keep | None = None,
    ) -> TaxonHead:
        """Builds the head from the taxa's captions of all `text_types` in all `templates` (see `text_features`)."""
        texts = [[class_text(taxon, text_type) for text_type in text_types] for taxon in taxa]
        features = text_features(encode_text, texts, templates=templates, keep=keep)
        return cls(tuple(taxa), features, float(logit_scale))

    def groups(self, rank: str) -> RankGroups:
        """The taxa at `rank` that the head's taxa belong to."""
        return rank_groups(self.taxa, rank)

    def log_probabilities(self, image_features: np.ndarray) -> Float[Array, "n taxa"]:
        """Logarithms of the softmax over the taxa: float32 `[n, taxa]` for unit features `[n, d]`."""
        return jax.nn.log_softmax(logits(image_features, self.features, self.logit_scale), axis=-1)

    def prototypes(self, groups: RankGroups) -> np.ndarray:
        """A unit vector for every group: the mean of its members' features; float32 `[groups, d]`."""
        return np.asarray(mean_of_members(self.features, groups.index))[: len(groups)]
