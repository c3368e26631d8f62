"""What can be mended about one taxon from its own names alone, and what in them is doubtful.

The rules are those of TreeOfLife (kingdom synonyms, words for unknown, binomials where an epithet belongs, a genus that
only the binomial or the scientific name has), with less zeal than `bioclip_jax.text.cleaning`: a name of mixed case
keeps its capitals, a virus its name, and what is not certain is a doubt and not a change. Nothing here raises, and
mending what is mended changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from bioclip_jax.text.cleaning import KINGDOM_SYNONYMS, MISSING, cut_species, strip_tags
from bioclip_jax.text.taxonomy import Taxon

MARKUP = "tags or white space"
UNKNOWN = "word for unknown"
SYNONYM = "kingdom synonym"
CUT = "author or subspecies in species"
BINOMIAL = "binomial in species"
TWICE = "epithet said twice"
GENUS = "genus recovered"
EPITHET = "epithet recovered"
CASE = "capitals"
NAMELESS = "no name but a word for unknown"
OTHER_GENUS = "genus disagrees with binomial"
OTHER_EPITHET = "epithet disagrees with scientific name"

_ROUNDS = 8
_NOTHING = Taxon()
_NO_NAME = re.compile(
    r"un(known|identified|determined|classified|assigned|placed|ranked)\b.*|indet(erminate)?\b.*|spp?\.?"
    r"|not[ _](assigned|identified)|\(un(known|identified)\)|(.*[ _])?(incertae|inc\.)[ _-]?sedis.*",
    re.IGNORECASE | re.DOTALL,
)
_SYNONYMS = {synonym: name.capitalize() for synonym, name in KINGDOM_SYNONYMS.items()}
_PROKARYOTES = frozenset({"bacteria", "archaea"})  # with phyla such as DPANN
_NOT_A_NAME = frozenset("sp spp cf aff nr x subsp ssp var indet candidatus and or".split())

Rule = Callable[[Taxon], Taxon]


def mend(taxon: Taxon) -> tuple[Taxon, tuple[str, ...]]:
    """The taxon with what is certain put right, and the kinds of mistakes that it had; its last name is kept."""
    kinds: dict[str, None] = {}
    mended = taxon
    for _ in range(_ROUNDS):
        before = mended
        for kind, rule in _RULES:
            if kind not in _FOR_VIRUSES and _is_virus(mended):
                break
            after = rule(mended)
            if after is not mended and after != mended and after != _NOTHING:
                kinds[kind] = None
                mended = after
        if mended == before:
            return mended, tuple(kinds)
    return taxon, ()  # letters whose capital has another small letter, and so on


def doubts(taxon: Taxon) -> tuple[str, ...]:
    """What is doubtful in a mended taxon: names that contradict each other, or none that is one."""
    if not any(map(_known, taxon.ranks)) and taxon != _NOTHING and _unknown(_markup(taxon)) == _NOTHING:
        return (NAMELESS,)
    if _is_virus(taxon):
        return ()
    found = []
    genus, species = _without_sign(taxon.genus).lower(), taxon.species
    scientific = _binomial(taxon.scientific_name)
    inside = _binomial(species)
    if genus and any(pair and pair[0].lower() != genus for pair in (scientific, inside)):
        found.append(OTHER_GENUS)
    if scientific and species and not {*taxon.scientific_name.lower().split()} & {*species.lower().split()}:
        found.append(OTHER_EPITHET)
    return tuple(found)


def _markup(taxon: Taxon) -> Taxon:
    return _mapped(taxon, _plain, _plain)


def _unknown(taxon: Taxon) -> Taxon:
    return _mapped(taxon, _known, _not_missing)


def _synonym(taxon: Taxon) -> Taxon:
    name = _SYNONYMS.get(taxon.kingdom.lower())
    return replace(taxon, kingdom=name) if name else taxon


def _cut(taxon: Taxon) -> Taxon:
    return taxon if taxon.species.isalpha() else replace(taxon, species=cut_species(taxon.species))


def _species_of_binomial(taxon: Taxon) -> Taxon:
    first, _, rest = taxon.species.partition(" ")
    return replace(taxon, species=rest) if rest and taxon.genus and first.lower() == taxon.genus.lower() else taxon


def _twice(taxon: Taxon) -> Taxon:
    first, _, rest = taxon.species.partition(" ")
    return replace(taxon, species=rest) if rest and first.lower() == rest.lower() else taxon


def _genus(taxon: Taxon) -> Taxon:
    """A genus that is missing, from the species or the scientific name; with it the epithet, if that is missing too."""
    if taxon.genus:
        return taxon
    if inside := _binomial(taxon.species):
        return replace(taxon, genus=inside[0], species=taxon.species.partition(" ")[2])
    scientific = _binomial(taxon.scientific_name)
    if scientific and taxon.species in ("", scientific[1]) and scientific[0] not in taxon.ranks:
        return replace(taxon, genus=scientific[0], species=scientific[1])
    return taxon


def _epithet(taxon: Taxon) -> Taxon:
    scientific = _binomial(taxon.scientific_name) if taxon.genus and not taxon.species else None
    return replace(taxon, species=scientific[1]) if scientific and scientific[0] == taxon.genus else taxon


def _case(taxon: Taxon) -> Taxon:
    shouted = taxon.kingdom.lower() not in _PROKARYOTES
    *higher, species = taxon.ranks
    names = [_recased(name, shouted) for name in higher]
    if species.replace("-", "").isalpha():
        species = species.lower()
    scientific, binomial = taxon.scientific_name, f"{names[-1]} {species}"
    if names[-1] and species and scientific.lower() == binomial.lower():
        scientific = binomial
    if (*names, species, scientific) == (*taxon.ranks, taxon.scientific_name):
        return taxon
    after = (*names, species, scientific, taxon.common_name)
    return Taxon(*after)


# An author's year takes the word before it along, so the genus has to be out of its way.
_RULES: tuple[tuple[str, Rule], ...] = (
    (MARKUP, _markup),
    (UNKNOWN, _unknown),
    (SYNONYM, _synonym),
    (BINOMIAL, _species_of_binomial),
    (GENUS, _genus),
    (CUT, _cut),
    (TWICE, _twice),
    (EPITHET, _epithet),
    (CASE, _case),
)
_FOR_VIRUSES = frozenset({MARKUP, UNKNOWN, SYNONYM})  # 'Influenza A virus' is neither a binomial nor written wrongly


def _is_virus(taxon: Taxon) -> bool:
    return taxon.kingdom in ("Viruses", "viruses")


def _mapped(taxon: Taxon, name: Callable[[str], str], common: Callable[[str], str]) -> Taxon:
    before = (*taxon.ranks, taxon.scientific_name, taxon.common_name)
    after = (*map(name, before[:-1]), common(before[-1]))
    return taxon if after == before else Taxon(*after)


@lru_cache(maxsize=1 << 16)
def _plain(name: str) -> str:
    return " ".join((strip_tags(name) if "<" in name else name).split())


@lru_cache(maxsize=1 << 16)
def _known(name: str) -> str:
    lower = name.lower()
    possible = "sedis" in lower or lower.startswith(("un", "ind", "sp", "not", "(un"))  # the pattern is slow
    return "" if lower in MISSING or (possible and _NO_NAME.fullmatch(name)) else name


def _not_missing(name: str) -> str:
    return "" if name.lower() in MISSING else name


@lru_cache(maxsize=1 << 16)
def _recased(name: str, shouted: bool) -> str:
    """A name of small letters alone, or if `shouted` of capitals alone, with a capital in front."""
    bare = _without_sign(name)
    if " " in bare or not (bare.islower() or (shouted and len(bare) > 3 and bare.isalpha() and bare.isupper())):
        return name
    return name[: len(name) - len(bare)] + bare.capitalize()


def _without_sign(name: str) -> str:
    return name.lstrip("× ")


def _binomial(name: str) -> tuple[str, str] | None:
    """The genus and the epithet that a name starts with; the sign of a hybrid is passed over."""
    words = [word for word in name.split()[:4] if word not in ("×", "x")]
    if len(words) < 2:
        return None
    genus, epithet = words[0].lstrip("×"), words[1].lstrip("×")
    looks_so = genus.isalpha() and genus.istitle() and epithet.replace("-", "").isalpha() and epithet.islower()
    return (genus, epithet) if looks_so and not {genus.lower(), epithet} & _NOT_A_NAME else None
