"""The table of body plans: who draws them, in which colours, where they live and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from bioclip_jax.pipeline.synthetic.phenotype import Phenotype
from bioclip_jax.pipeline.synthetic.plans import arthropods, birds, fungi, invertebrates, mammals, plants, vertebrates
from bioclip_jax.pipeline.synthetic.plans.expressed import expressed_by
from bioclip_jax.pipeline.synthetic.shapes import Colour, Figure

Drawer = Callable[[Phenotype], Figure]
Endings = tuple[str, str, str, str]

_FURS = "b0804e 583c28 807c76 2e2a2a d6c4a0 96502c e8e4dc c89a50"
_PLUMES = "8a6a48 3e68a8 ba342c e2be3a 54803e 2c2c30 e6e2d8 787e86"
_SCALES = "b0bcc4 3c6c9c e07a2c e8c83c 6c7440 b83430 2a8c8c 3a3a48"
_REPTILE_SCALES = "7a7a3c 54803c a8824c 4a3a2e c8b478 8c3c2c 3c6c5c b0a898"
_CUTICLES = "30261e 266c48 b02820 7a4a26 ce8a28 34407e dccaa0 d8641e"
_WINGS = "e07c1e ece4cc e8c83a 3c6cb4 70442a 332c30 b43428 a8c47c"
_SPIDERS = "704c30 2c2624 b0946c 807870 c8a030 8c3c24 78783c d8c8a4"
_SHELLS = "b08c58 7c4c2c d8c090 c4743c 5c5048 e8dcc0 985868 889068"
_STARS = "c84828 e08c34 8c3468 3c5ca0 d4b45c 9c2c34 c8a088 547c78"
_JELLIES = "d0d8f0 e8a8c0 9cc4e8 c89ce0 f0c890 a8e0d4 e87c84 f0f0f0"
_PETALS = "e8e4f0 e078a8 8c4cb0 f0c42c d0342c 4c64c8 f08c3c c094d8"
_FOLIAGE = "5c8c3c 3c7048 84a044 4c8468 748c34 2c6440 98a860 608050"
_CAPS = "a8682c c43424 d8b478 6c4c34 e8dcc4 84604c c88c3c 7c7488"


@dataclass(frozen=True)
class BodyPlan:
    """`view`: how it stands in the picture: "side" (upright on the ground), "above" (any direction) or "afloat"
    (tilted, without a shadow). `habitats`: relative weights. `endings`: of phylum, class, order and family;
    `type_stem_orders`: whether orders are named after a genus, as in botany.
    """

    name: str
    kingdom: str
    phylum: str
    draw: Drawer
    palette: tuple[Colour, ...]
    view: str
    habitats: dict[str, float]
    nouns: tuple[str, ...]
    genus_endings: tuple[tuple[str, str], ...]
    endings: Endings
    type_stem_orders: bool = False

    @cached_property
    def traits(self) -> tuple[str, ...]:
        """Names of the traits that it expresses; a change of any other changes no picture."""
        return expressed_by(self.name)


def _colours(text: str) -> tuple[Colour, ...]:
    return tuple((int(h[:2], 16), int(h[2:4], 16), int(h[4:], 16)) for h in text.split())


def _habitats(text: str) -> dict[str, float]:
    return {name: float(weight) for name, weight in (item.split(":") for item in text.split())}


def _endings(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((ending, gender) for ending, gender in (item.split(":") for item in text.split()))


def _animal(
    name: str,
    phylum: str,
    draw: Drawer,
    palette: str,
    view: str,
    habitats: str,
    nouns: str,
    genera: str,
    endings: Endings,
) -> BodyPlan:
    return BodyPlan(
        name, "Animalia", phylum, draw, _colours(palette), view, _habitats(habitats), tuple(nouns.split()),
        _endings(genera), endings,
    )  # fmt: skip


def _plant(
    name: str,
    phylum: str,
    draw: Drawer,
    palette: str,
    habitats: str,
    nouns: str,
    genera: str,
    phylum_ending: str = "ophyta",
) -> BodyPlan:
    endings = (phylum_ending, "opsida", "ales", "aceae")
    return BodyPlan(
        name, "Plantae", phylum, draw, _colours(palette), "side", _habitats(habitats), tuple(nouns.split()),
        _endings(genera), endings, True,
    )  # fmt: skip


def _fungus(name: str, phylum: str, draw: Drawer, palette: str, habitats: str, nouns: str, genera: str) -> BodyPlan:
    return BodyPlan(
        name, "Fungi", phylum, draw, _colours(palette), "side", _habitats(habitats), tuple(nouns.split()),
        _endings(genera), ("omycota", "omycetes", "ales", "aceae"), True,
    )  # fmt: skip


PLANS: tuple[BodyPlan, ...] = (
    _animal("bird", "vertebrates", birds.bird, _PLUMES, "side",
            "canopy:3 forest:3 meadow:2 marsh:2 snow:1 desert:1 rock:1",
            "Finch Warbler Thrush Plover Heron Jay Lark Wren Rail Starling",
            "ornis:f us:m a:f", ("ozoa", "ornithes", "iformes", "idae")),
    _plant("flower", "flowering", plants.flower, _PETALS, "meadow:4 forest:2 rock:1 marsh:2 desert:1",
           "Aster Bellflower Poppy Primrose Gentian Mallow Campion Daisy Lily Anemone", "anthus:m anthe:f ia:f"),
    _animal("beetle", "arthropods", arthropods.beetle, _CUTICLES, "above",
            "leaf_litter:4 forest:2 desert:1 meadow:2 rock:1",
            "Beetle Chafer Weevil Longhorn Ladybird Scarab", "cerus:m carabus:m era:f",
            ("opoda", "ea", "optera", "idae")),
    _fungus("mushroom", "gilled", fungi.mushroom, _CAPS, "forest:4 leaf_litter:3 meadow:2",
            "Webcap Milkcap Brittlegill Inkcap Bonnet Waxcap Parasol Knight", "myces:m ella:f cybe:f"),
    _animal("fish", "vertebrates", vertebrates.fish, _SCALES, "afloat", "freshwater:4 reef:4",
            "Wrasse Perch Bream Goby Snapper Minnow Damselfish Tetra", "ichthys:m odon:m ops:f",
            ("ozoa", "ichthyes", "iformes", "idae")),
    _animal("mammal", "vertebrates", mammals.mammal, _FURS, "side",
            "meadow:3 forest:3 desert:2 snow:2 rock:1 marsh:1",
            "Deer Fox Gazelle Marten Civet Hare Antelope Mouse Cat Tapir", "mys:m therium:n lagus:m",
            ("ozoa", "theria", "iformes", "idae")),
    _plant("fern", "spore-bearing", plants.fern, _FOLIAGE, "forest:4 rock:2 marsh:2 leaf_litter:2",
           "Fern Spleenwort Bracken Polypody Maidenhair", "pteris:f ium:n", "opteridophyta"),
    _animal("starfish", "spiny-skinned", invertebrates.starfish, _STARS, "above", "reef:5 rock:2",
            "Starfish Sunstar Cushionstar Seastar", "aster:m astra:f", ("odermata", "oidea", "ida", "idae")),
    _animal("butterfly", "arthropods", arthropods.butterfly, _WINGS, "above",
            "meadow:4 canopy:2 forest:2 marsh:1",
            "Swallowtail Fritillary Skipper Admiral Hairstreak Ringlet Blue Copper", "phila:f ptera:f a:f",
            ("opoda", "aria", "optera", "idae")),
    _animal("reptile", "vertebrates", vertebrates.reptile, _REPTILE_SCALES, "above",
            "desert:4 rock:3 leaf_litter:2 forest:1 meadow:1",
            "Adder Skink Viper Gecko Racer Lizard Boa", "saurus:m ophis:f", ("ozoa", "sauria", "iformes", "idae")),
    _plant("conifer", "cone-bearing", plants.conifer, _FOLIAGE, "snow:3 rock:2 forest:2 meadow:2",
           "Pine Spruce Fir Cypress Larch Cedar", "dendron:n pitys:f", "opinophyta"),
    _animal("snail", "molluscs", invertebrates.snail, _SHELLS, "side",
            "leaf_litter:3 meadow:2 marsh:2 rock:2 reef:1",
            "Snail Whelk Periwinkle Topshell Turban", "conchus:m ella:f helix:f", ("usca", "opoda", "ida", "idae")),
    _animal("jellyfish", "stinging", invertebrates.jellyfish, _JELLIES, "afloat", "reef:5 freshwater:1",
            "Jellyfish Moonjelly Sea-nettle Bell", "medusa:f ia:f", ("aria", "ozoa", "ae", "idae")),
    _animal("spider", "arthropods", arthropods.spider, _SPIDERS, "above",
            "leaf_litter:3 meadow:2 desert:2 forest:2 rock:1",
            "Spider Orbweaver Wolfspider Huntsman Tarantula", "rachne:f osa:f", ("opoda", "ida", "omorpha", "idae")),
    _fungus("bracket", "shelving", fungi.bracket, _CAPS, "forest:5 canopy:2",
            "Bracket Polypore Conk Crust", "porus:m fomes:m", ),
    _plant("cactus", "flowering", plants.cactus, _PETALS, "desert:5 rock:3",
           "Cactus Pricklypear Barrel Cholla", "cereus:m opuntia:f"),
)  # fmt: skip
"""Ordered so that a small world still has animals, plants and fungi."""
