"""Captions: what the text tower reads about a taxon, in the ten types that TreeOfLife data carries.

A caption is made from a record when it is loaded. Names are written by one of four conventions: the default, which
names whatever is known, and the three public writers of TreeOfLife data, followed to the letter. `class_name` writes
the class names of BioCLIP's evaluation.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from bioclip_jax.errors import UsageError
from bioclip_jax.text.cleaning import normalise_ranks
from bioclip_jax.text.taxonomy import RANKS, Taxon

TEXT_TYPES = ("sci", "com", "taxon", "sci_com", "taxon_com")
"""The types that training draws from, in the order in which BioCLIP 2's trainer draws."""

ALL_TEXT_TYPES = (*TEXT_TYPES, "scientific_name", "taxonomic_name", "common_name", "taxonTag", "taxonTag_com")

Convention = Literal["treeoflife_200m", "bioclip_10m", "tol2webdataset", "tol_hybrid_to_wds"]
"""Whose names: see `caption`."""

_UNKNOWN = "unknown"


class Names(NamedTuple):
    """The four names of a taxon that captions are put together from."""

    scientific: str
    """`Corvus corax`"""
    taxonomic: str
    """`Animalia Chordata Aves Passeriformes Corvidae Corvus corax`"""
    common: str
    """`common raven`"""
    tagged: str
    """`kingdom Animalia phylum Chordata ... genus Corvus species corax`"""


def caption(taxon: Taxon, text_type: str, convention: Convention = "treeoflife_200m") -> str:
    """The caption of `text_type`, one of `ALL_TEXT_TYPES`.

    No taxon makes it raise; an unknown type or convention is a `UsageError`.

    Conventions:

    * `treeoflife_200m`, the default: the types of the TreeOfLife-200M card, for records whose `species` is an
      epithet. Ranks that are missing or `unknown` are left out; a genus repeated in `species` is said once. The
      scientific name is the given one without trailing periods, else genus and epithet, else the most specific known
      rank. A name that is missing is replaced by the next one known (common by scientific and so on), so that no
      caption is empty: with nothing known at all it says `Unknown`.
    * `bioclip_10m`: the names of TreeOfLife-10M (Imageomics/bioclip, `make_wds_reproduce.py`). Ranks are cleaned and
      the given scientific name is ignored; without genus and species the scientific name is empty (`a photo of .`).
      The original refuses a taxon without any rank; here its empty names are written.
    * `tol2webdataset` (TreeOfLife-toolbox): expects a binomial in `species` and drops an epithet that stands alone;
      the given scientific name verbatim. The original writes no common name at all; here it is that of
      `tol_hybrid_to_wds`.
    * `tol_hybrid_to_wds` (TreeOfLife-toolbox): ignores the given scientific name and writes the most specific rank,
      which for an epithet is the epithet alone (`a photo of corax.`).
    """
    if convention not in _WRITERS:
        raise UsageError(f"convention {convention!r}: not one of {', '.join(get_args(Convention))}")
    names = _WRITERS[convention](taxon)
    match text_type:
        case "scientific_name":
            return names.scientific
        case "taxonomic_name":
            return names.taxonomic
        case "common_name":
            return names.common
        case "sci":
            return f"a photo of {names.scientific}."
        case "com":
            return f"a photo of {names.common}."
        case "taxon":
            return f"a photo of {names.taxonomic}."
        case "taxonTag":
            return f"a photo of {names.tagged}."
        case "sci_com":
            return f"a photo of {names.scientific} with common name {names.common}."
        case "taxon_com":
            return f"a photo of {names.taxonomic} with common name {names.common}."
        case "taxonTag_com":
            tagged = names.tagged if convention == "bioclip_10m" else names.tagged.rstrip(".")
            return f"a photo of {tagged} with common name {names.common}."
    raise UsageError(f"text type {text_type!r}: not one of {', '.join(ALL_TEXT_TYPES)}")


def text_type_of_step(step: int, types: Sequence[str] = TEXT_TYPES) -> str:
    """The text type of the whole global batch of `step`: `random.Random(step).choice(types)`, BioCLIP 2's own draw."""
    return random.Random(step).choice(types)


def class_name(taxon: Taxon, text_type: str, subspecies: str = "") -> str:
    """The class name of a row of a benchmark's table in BioCLIP's evaluation (Imageomics/bioclip-2, `naming_eval.py`).

    Types: `sci`, `com`, `taxon`, `sci_com`, `taxon_com`; for the evaluation's `asis` take the table's class column as
    it stands. The strings are the reference's, its oddities included, because classes merge where strings coincide:
    `taxon` keeps a space for each empty rank and drops all ranks above the genus where the kingdom is empty, `com` is
    `""` without a common name.

    One difference: without genus, species and subspecies the reference has no `sci` (its `sci_com` then fails); here
    it is the most specific known rank, and `""` if there is none.
    """
    kingdom, phylum, class_, order, family, genus = (name.capitalize() for name in taxon.ranks[:6])
    epithets = [taxon.species.lower(), *([subspecies.lower()] if subspecies else [])]
    if text_type == "com":
        return taxon.common_name
    if text_type in ("sci", "sci_com"):
        name = (
            " ".join([genus, *epithets]) if any(epithets) else genus or family or order or class_ or phylum or kingdom
        )
    elif text_type in ("taxon", "taxon_com"):
        higher = [kingdom, phylum, class_, order, family] if kingdom else []
        name = " ".join([*higher, genus, *epithets])
    else:
        raise UsageError(f"text type {text_type!r}: not one of {', '.join(TEXT_TYPES)}")
    if text_type in ("sci", "taxon") or not taxon.common_name:
        return name
    return f"{name} with common name {taxon.common_name}" if name else taxon.common_name


def _treeoflife_200m(taxon: Taxon) -> Names:
    ranks = [_known(name) for name in taxon.ranks]
    genus, words = ranks[5], ranks[6].split()
    if len(words) > 1 and words[0].lower() == genus.lower():
        ranks[6] = _known(" ".join(words[1:]))
    present = [(rank, name) for rank, name in zip(RANKS, ranks, strict=True) if name]
    binomial = f"{genus} {ranks[6]}" if genus and ranks[6] else ""
    scientific = _known(taxon.scientific_name) or binomial or (present[-1][1] if present else "")
    common = _known(taxon.common_name)
    fallback = scientific or common or "Unknown"
    return Names(
        scientific=fallback,
        taxonomic=" ".join(name for _, name in present) or fallback,
        common=common or fallback,
        tagged=" ".join(f"{rank} {name}" for rank, name in present) or fallback,
    )


def _known(name: str) -> str:
    name = " ".join(name.split()).rstrip(". ")
    return "" if name.lower() == _UNKNOWN else name


def _bioclip_10m(taxon: Taxon) -> Names:
    *higher, species = normalise_ranks(taxon)
    ranks = [*(name.capitalize() for name in higher), species]
    scientific = " ".join(f"{ranks[5]} {species}".split()).capitalize()
    taxonomic = " ".join(" ".join(ranks).split())
    return Names(
        scientific=scientific,
        taxonomic=taxonomic,
        common=taxon.common_name or scientific or taxonomic,
        tagged=" ".join(f"{rank} {name}" for rank, name in zip(RANKS, ranks, strict=True) if name),
    )


def _tol2webdataset(taxon: Taxon) -> Names:
    present = [(rank, name) for rank, name in zip(RANKS, taxon.ranks, strict=True) if name and name.lower() != _UNKNOWN]
    if taxon.scientific_name:
        scientific = taxon.scientific_name.rstrip(".")
    else:
        scientific = present[-1][1] if present else "Unknown"
    return _toolbox_names(taxon, scientific, [p for p in present if p[0] != "species" or len(p[1].split()) > 1])


def _tol_hybrid_to_wds(taxon: Taxon) -> Names:
    present = [(rank, name) for rank, name in zip(RANKS, taxon.ranks, strict=True) if name and name.lower() != _UNKNOWN]
    # A padded ' unknown ' is no name to end with, but stands where a more specific rank follows.
    while present and present[-1][1].strip().lower() == _UNKNOWN:
        present.pop()
    return _toolbox_names(taxon, present[-1][1].rstrip(".") if present else "Unknown", present)


def _toolbox_names(taxon: Taxon, scientific: str, present: list[tuple[str, str]]) -> Names:
    """What the toolbox's writers share: a species' last word, the fallbacks for a common name and for no rank."""
    names = [
        (rank, name.split()[-1] if rank == "species" and len(name.split()) > 1 else name) for rank, name in present
    ]
    common = taxon.common_name.strip() or scientific.strip()
    return Names(
        scientific=scientific,
        taxonomic=" ".join(name for _, name in names),
        common=common.rstrip(".") if common else "Unknown",
        tagged=" ".join(f"{rank} {name}" for rank, name in names) or "unknown taxonomy",
    )


_WRITERS: dict[str, Callable[[Taxon], Names]] = {
    "treeoflife_200m": _treeoflife_200m,
    "bioclip_10m": _bioclip_10m,
    "tol2webdataset": _tol2webdataset,
    "tol_hybrid_to_wds": _tol_hybrid_to_wds,
}
