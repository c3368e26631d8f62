"""Tidies the names of messy tables: tags, words for 'unknown', authors, years, subspecies, a genus inside the species.

`normalise_ranks` is exactly what BioCLIP's first data set (TreeOfLife-10M) did to its names; the rules are those of its
public code (Imageomics/bioclip, `naming_reproduce.py`). `clean_taxon` is for reading tables: the same rules after the
white space and the words for a missing value have been dealt with, and with readable capitals. Neither ever raises.
"""

from __future__ import annotations

import re

from bioclip_jax.text.taxonomy import Taxon

Ranks = tuple[str, str, str, str, str, str, str]

_TAGGED = re.compile(r"<.*?>(.*?)</.*?>")
_UNKNOWN = frozenset({"(unidentified)", "unknown", "pleasehelp"})
KINGDOM_SYNONYMS = {"metazoa": "animalia", "archaeplastida": "plantae", "chloroplastida": "plantae"}

# The species is cut at the first match of each in turn, so their order matters. A word is tried from its start only
# (`\b`): the match is the same, the time linear.
_SPECIES_ENDS_AT = tuple(
    re.compile(pattern)
    for pattern in (
        r"\(",  # an author in parentheses
        r"ssp\.",
        r"subsp\.",
        r"var\.",
        r"\b\w+, \w+ & \w+",  # three authors
        r"\b\w+ & \w+",  # two authors
        r"\b\w+ \d{4}",  # author and year
        r"\b\w+, \d{4}",
        r"\d{4}",
        r" [A-z]\.",  # an author's initial; the range's extra characters are the original's
        r"<br ?>",
    )
)

MISSING = _UNKNOWN | {
    "",
    "na",
    "n/a",
    "#n/a",
    "<na>",
    "nan",
    "none",
    "null",
    "not_classified",
    "not classified",
    "-",
    "?",
}
"""Words that tables write for a missing value, in lower case."""


def normalise_ranks(taxon: Taxon) -> Ranks:
    """The seven ranks in lower case after TreeOfLife-10M's rules; `""` where nothing is left.

    Per rank: paired tags are removed, and `(unidentified)`, `unknown`, `pleasehelp` (as the whole value) become `""`.
    The species is cut before an author, a year, an infraspecific rank or a line break. Kingdom synonyms are replaced.
    A species that repeats its genus loses it, one that carries it for an empty genus gives it away, and an epithet
    said twice is said once. White space is kept as it is.
    """
    kingdom, phylum, class_, order, family, genus, species = (_normalise(name) for name in taxon.ranks)
    species = cut_species(species)
    first, *rest = species.split() or [""]
    if rest and first == genus:
        species = " ".join(rest)
    if rest and not genus:
        genus, species = first, " ".join(rest)
    words = species.split()
    if len(words) == 2 and words[0] == words[1]:
        species = words[0]
    kingdom = KINGDOM_SYNONYMS.get(kingdom, kingdom)
    # Once more: what is left of a species or a genus can itself be a word for 'unknown'.
    return kingdom, phylum, class_, order, family, _normalise(genus), _normalise(species)


def cut_species(species: str) -> str:
    """A species without the author, year, infraspecific name or line break that follows it; stripped."""
    for pattern in _SPECIES_ENDS_AT:
        if match := pattern.search(species):
            species = species[: match.start()]
        species = species.strip()
    return species


def clean_taxon(taxon: Taxon) -> Taxon:
    """The taxon of a messy table's row, tidied for a record.

    White space is collapsed, and words for a missing value (`NA`, `None`, `null`, `unknown`, ...) become `""`; then
    the rules of `normalise_ranks`. Ranks are capitalised (behind a hybrid sign, too: `×Abies`), the epithet is in
    lower case. The scientific name keeps its author and its capitals, the common name its capitals; both lose paired
    tags.
    """
    tidy = Taxon(*(_tidy(name) for name in taxon.ranks))
    *higher, species = normalise_ranks(tidy)
    names = [_capitalise(_tidy(name)) for name in higher]
    return Taxon(*names, *(_tidy(name) for name in (species, taxon.scientific_name, taxon.common_name)))


def _normalise(name: str) -> str:
    name = strip_tags(name).lower()
    return "" if name in _UNKNOWN else name


def strip_tags(name: str) -> str:
    """A name without paired tags, whose content stays."""
    while (stripped := _TAGGED.sub(r"\1", name)) != name:
        name = stripped
    return name


def _tidy(name: str) -> str:
    name = " ".join(strip_tags(name).split())
    return "" if name.lower() in MISSING else name


def _capitalise(name: str) -> str:
    start = len(name) - len(name.lstrip("× "))
    return name[:start] + name[start:].capitalize()
