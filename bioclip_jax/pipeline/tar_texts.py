"""What the text members of a webdataset sample say, as fields of a record.

Members are those of TreeOfLife-10M and -200M (11 or 6 to a sample), BioCAP and img2dataset. Ranks stand by their label
in `taxonTag`; a sample may lack any member, and what is said twice is read once.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from bioclip_jax.text.taxonomy import RANKS

_TAGGED = ("taxontag.txt", "taxontag_com.txt")
_SCIENTIFIC = ("scientific_name.txt", "sci.txt")
_COMMON = ("common_name.txt", "com.txt")
_TAXONOMIC = ("taxonomic_name.txt", "taxon.txt")
_CAPTION = ("caption.txt", "txt")
TEXT_SUFFIXES = frozenset((*_TAGGED, *_SCIENTIFIC, *_COMMON, *_TAXONOMIC, *_CAPTION))
"""The members that are read, by their suffix in lower case."""

_NAME_FIELDS = (*RANKS, "scientific_name", "common_name")


def fields_of_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """The ranks, names and caption of a sample; '' where its members do not say it.

    Args:
      texts: the text of each member that is there, by suffix (`TEXT_SUFFIXES`).
    """
    tagged, scientific, common, taxonomic = (
        next((texts[suffix] for suffix in suffixes if suffix in texts), "")
        for suffixes in (_TAGGED, _SCIENTIFIC, _COMMON, _TAXONOMIC)
    )
    names = _names(tagged, scientific, common, taxonomic)
    caption = next((texts[suffix].strip() for suffix in _CAPTION if suffix in texts), "")
    return dict(zip(_NAME_FIELDS, names, strict=True)) | {"caption": caption}


def parse_tagged(text: str) -> tuple[str, ...]:
    """The names at the seven ranks of `kingdom Animalia phylum Chordata ... species corax`; '' where one is missing.

    A name may have several words. A word is a label if its rank is below the last one's, a name stands between the two,
    and another word follows.
    """
    ranks = dict.fromkeys(RANKS, "")
    current, words = "", text.split()
    for place, word in enumerate(words):
        below = word in ranks and (not current or RANKS.index(word) > RANKS.index(current))
        if below and place + 1 < len(words) and (not current or ranks[current]):
            current = word
        elif current:
            ranks[current] = f"{ranks[current]} {word}".lstrip()
    return tuple(ranks.values())


def epithet(genus: str, species: str) -> str:
    """The species without the genus in front, where a source writes both."""
    first, _, rest = species.partition(" ")
    return rest.strip() if rest and first.lower() == genus.lower() else species


@functools.lru_cache(maxsize=1 << 16)
def _names(tagged: str, scientific: str, common: str, taxonomic: str) -> tuple[str, ...]:
    scientific, common, taxonomic = (_without_template(text) for text in (scientific, common, taxonomic))
    ranks = parse_tagged(_without_template(tagged))
    words = taxonomic.split()
    if not any(ranks) and len(words) == len(RANKS):
        ranks = tuple(words)  # with fewer or more it is not known which rank is missing or has two words
    *higher, genus, species = ranks
    ranks = (*higher, genus, epithet(genus, species))
    if not any(ranks) and not scientific:
        scientific = taxonomic
    # Where there is no common name the writers repeat another name.
    others = (scientific, taxonomic, " ".join(name for name in ranks if name), f"{genus} {ranks[6]}")
    if common.lower() in {" ".join(name.split()).lower() for name in others}:
        common = ""
    return *ranks, scientific, common


def _without_template(text: str) -> str:
    """`a photo of X.` and `a photo of X with common name Y.` -> `X`."""
    text = " ".join(text.split())
    if not text.startswith("a photo of "):
        return text
    return text.removeprefix("a photo of ").removesuffix(".").partition(" with common name ")[0]
