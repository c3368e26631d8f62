"""Latin-looking scientific names with the endings of their rank, and English-looking common names.

Only the kingdoms are real. Higher taxa are named after their first genus where the codes of nomenclature do so
(families always, orders of plants and fungi too); epithets agree with the gender of their genus and may repeat in
another genus; every other name is unique.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bioclip_jax.pipeline.synthetic.counter import Draws

_ONSETS = "b c d f g l m n p r s t v br cr dr gr pl pr tr st ch ph th l m n r s t c p".split()
_VOWELS = "a e i o u a e i o ae".split()
_CODAS = ["", "", "", "l", "n", "r", "s", "x", "nd", "rt", "st", "lc", "mn"]
_GENUS_ENDINGS = (("us", "m"), ("a", "f"), ("is", "f"), ("ium", "n"), ("ia", "f"), ("on", "n"), ("ella", "f"))
_EPITHET_STEMS = (
    "alb nigr rubr flav virid cinere fusc purpure auric coerule splend magn minut gracil robust elegant longicaud "
    "brevirostr latifoli angust maculat striat fasciat punctat reticulat ocellat ornat vari montan palustr silvestr "
    "littoral aren nival rivul borea austral oriental insular vulgar rar solitari nocturn matutin crispat lanat "
    "spin dent corn cristat barbat velut glabr tenebr pallid lucid signat marmor zonat"
).split()
_THIRD_DECLENSION = ("splend gracil elegant brevirostr palustr silvestr littoral nival borea austral oriental").split()
_THIRD_DECLENSION += ("insular vulgar").split()
_PLACES = "tamar voron kelen burmer sarath odessar milun pergam larent cassid norvel baltor quillar demeter".split()
_PEOPLE = "harwood lindqvist okafor moreau tanaka silva petrov ashby delgado novak brandt iyer holm castell".split()

_ADJECTIVES = (
    "Northern Southern Eastern Western Mountain Marsh River Lesser Greater Common Little Great Dusky Pale Golden "
    "Silver Painted Shadow Velvet Crested Bearded Silent Dwarf Giant Royal Hermit Ringed Mottled Island Coastal "
    "Valley Autumn Winter Summer Morning Midnight Copper Bronze Ember Frosted Rusty Smoky Ivory Amber Crimson "
    "Glossy Ragged Slender Stout Wandering Hidden Upland Lowland Desert Meadow Woodland Harwood's Okafor's Moreau's "
    "Tanaka's Lindqvist's Silva's Petrov's Ashby's Delgado's Novak's Brandt's Iyer's Holm's Castell's"
).split()


def _stem(draws: Draws, syllables: int) -> str:
    parts = []
    for _ in range(syllables):
        parts.append(_ONSETS[draws.pick(len(_ONSETS))] + _VOWELS[draws.pick(len(_VOWELS))])
    return "".join(parts) + (_CODAS[draws.pick(len(_CODAS))] or _ONSETS[draws.pick(13)][0])


def _unique(make: Callable[[], str], used: set[str]) -> str:
    while (name := make()) in used:
        pass
    used.add(name)
    return name


class Nomenclator:
    """Gives out names; never the same higher taxon, genus or common name twice."""

    def __init__(self, seed: int):
        self._draws = Draws(seed, "names")
        self._used: set[str] = set()
        self._common: set[str] = set()

    def genus(self, favourite_endings: Sequence[tuple[str, str]]) -> tuple[str, str, str]:
        """(name, stem, gender m, f or n) of a new genus; half take an ending typical of the group."""
        found: list[tuple[str, str]] = []

        def make() -> str:
            endings = favourite_endings if self._draws.pick(2) else _GENUS_ENDINGS
            ending, gender = endings[self._draws.pick(len(endings))]
            found.append((_stem(self._draws, 1 + self._draws.pick(2)).capitalize(), gender))
            return found[-1][0] + ending

        name = _unique(make, self._used)
        return name, *found[-1]

    def from_stem(self, stem: str, ending: str) -> str:
        """Name after a type genus, or a new stem where that name is taken."""
        if stem + ending not in self._used:
            self._used.add(stem + ending)
            return stem + ending
        return self.higher(ending)

    def higher(self, ending: str) -> str:
        """Name of a taxon above genus that is not named after one."""
        return _unique(lambda: _stem(self._draws, 1 + self._draws.pick(2)).capitalize() + ending, self._used)

    def epithet(self, gender: str, used_in_genus: set[str]) -> str:
        """Specific epithet, unique within its genus: an adjective in the genus's gender, a place or a person."""
        return _unique(lambda: self._epithet(gender), used_in_genus)

    def _epithet(self, gender: str) -> str:
        kind = self._draws.pick(10)
        if kind == 0:
            person = _PEOPLE[self._draws.pick(len(_PEOPLE))]
            return person + ("i" if person[-1] in "aeiouy" else "ii")
        if kind <= 2:
            place = _PLACES[self._draws.pick(len(_PLACES))] if self._draws.pick(2) else _stem(self._draws, 2)
            return place + ("ense" if gender == "n" else "ensis")
        if kind <= 5:
            stem = _stem(self._draws, 2)
            return stem + {"m": "us", "f": "a", "n": "um"}[gender]
        stem = _EPITHET_STEMS[self._draws.pick(len(_EPITHET_STEMS))]
        if stem in _THIRD_DECLENSION:
            return stem + ("e" if gender == "n" else "is")
        return stem + {"m": "us", "f": "a", "n": "um"}[gender]

    def common(self, noun: str) -> str:
        """English-looking name ending in the group's noun; adjectives are added until it is new."""
        attempts = 0

        def make() -> str:
            nonlocal attempts
            attempts += 1
            chosen: list[str] = []
            while len(chosen) < 1 + self._draws.pick(2) + attempts // 4:
                word = _ADJECTIVES[self._draws.pick(len(_ADJECTIVES))]
                if word not in chosen and not (chosen and word.endswith("'s")):
                    chosen.append(word)
            return " ".join([*chosen, noun])

        return _unique(make, self._common)
