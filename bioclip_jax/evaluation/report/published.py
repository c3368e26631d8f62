"""Figures that BioCLIP 2's authors and others published, in per cent, and which of our figures is the same quantity.

Nothing here was measured by this program. Rows are models, columns benchmarks by their recipes' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CARD = "BioCLIP 2's model card and project page (huggingface.co/imageomics/bioclip-2, imageomics.github.io/bioclip-2)"
SECOND_HAND = "a summary of the paper on papernotes.org: second-hand, some of its other numbers are wrong"


@dataclass(frozen=True)
class Column:
    """A benchmark of a table, and where its figure stands among ours."""

    title: str
    sets: tuple[tuple[str, ...], ...]
    """Names of recipes; a set's figure is the mean over its recipes, the column's the mean over its sets."""
    protocol: str
    metric: str
    variant: str = "paper"


@dataclass(frozen=True)
class PublishedTable:
    """A table of a publication."""

    title: str
    source: str
    about: str
    columns: tuple[Column, ...]
    rows: Mapping[str, tuple[float | None, ...]]
    """Model -> a value per column, and the mean that the publication gives last."""
    pooled: bool = False
    """Whether only means over benchmarks were published."""


TOGETHER: dict[tuple[str, ...], str] = {
    ("desert_lion", "ena24", "island", "ohio_small_animals", "orinoquia"): "camera_traps"
}
"""Recipes of single sets -> the one that measures all of them and their mean."""
MEANS = ("zero_shot", "few_shot")
"""Tasks of such a recipe whose figures are means over its sets."""

SPECIES = {
    "NABirds": ("nabirds",),
    "Plankton": ("plankton",),
    "Insects": ("insects",),
    "Insects 2": ("insects2",),
    "Camera traps": next(iter(TOGETHER)),
    "PlantNet": ("plantnet",),
    "Fungi": ("fungi",),
    "PlantVillage": ("plantvillage",),
    "Med. Leaf": ("medicinal_leaf",),
    "Rare Species": ("rare_species",),
}
ZERO_SHOT = PublishedTable(
    title="Zero-shot species classification, top-1",
    source=CARD,
    about="81 templates; micro accuracy. That camera traps are the plain mean of five sets is our reading.",
    columns=tuple(Column(title, (names,), "zero_shot", "micro_accuracy") for title, names in SPECIES.items()),
    rows={
        "CLIP (ViT-L/14)": (66.5, 1.3, 9.0, 11.7, 29.5, 61.7, 7.6, 6.5, 25.6, 35.2, 25.5),
        "SigLIP (ViT-L/16-256)": (61.7, 2.4, 27.3, 20.7, 33.7, 81.8, 36.9, 28.5, 54.5, 47.6, 39.5),
        "BioTrove-CLIP": (39.4, 1.0, 20.5, 15.7, 10.7, 64.4, 38.2, 15.7, 31.6, 24.6, 26.2),
        "BioCLIP": (58.8, 6.1, 34.9, 20.5, 31.7, 88.2, 40.9, 19.0, 38.5, 37.1, 37.6),
        "BioCLIP 2": (74.9, 3.9, 55.3, 27.7, 53.9, 96.8, 83.8, 25.1, 57.8, 76.8, 55.6),
    },
)
BEYOND_SPECIES = PublishedTable(
    title="Beyond species",
    source=CARD,
    about="FishNet: all nine labels right. NeWT: micro accuracy over 164 tasks. AwA2: the published code's F1, which "
    "is that of the first two attributes; that the published figures are this one is inferred from the code. "
    "Herbarium19: old and new classes matched apart. PlantDoc: one shot.",
    columns=(
        Column("FishNet", (("fishnet",),), "probe", "exact_match"),
        Column("NeWT", (("newt",),), "svm_search", "micro_accuracy"),
        Column("AwA2", (("awa2",),), "probe", "f1_first2"),
        Column("Herbarium19", (("herbarium19",),), "semi_supervised_kmeans", "micro_accuracy"),
        Column("PlantDoc", (("plantdoc",),), "one_shot", "micro_accuracy", "paper, 1-shot"),
    ),
    rows={
        "CLIP (ViT-L/14)": (27.9, 83.4, 61.6, 18.2, 22.3, 42.7),
        "SigLIP": (31.9, 83.2, 67.3, 18.6, 28.2, 45.8),
        "Supervised (ImageNet-21k)": (29.4, 75.8, 52.7, 14.9, 25.1, 39.6),
        "DINOv2": (37.4, 83.7, 48.6, 28.1, 38.6, 47.3),
        "BioTrove-CLIP": (22.1, 82.5, 45.7, 20.4, 37.7, 41.7),
        "BioCLIP": (30.1, 82.7, 65.9, 26.8, 39.5, 49.0),
        "BioCLIP 2": (39.8, 89.1, 69.5, 48.6, 40.4, 57.5),
    },
)
FEW_SHOT = PublishedTable(
    title="Few-shot species classification, means",
    source=SECOND_HAND,
    about="SimpleShot, mean of the ten sets above; of single sets nothing is known.",
    columns=tuple(
        Column(f"{shots}-shot", tuple(SPECIES.values()), "simple_shot", "micro_accuracy", f"paper, {shots}-shot")
        for shots in (1, 5)
    ),
    rows={"CLIP": (39.8, 58.3), "BioCLIP": (50.0, 68.5), "BioCLIP 2": (64.1, 78.3)},
    pooled=True,
)
TABLES = (ZERO_SHOT, BEYOND_SPECIES, FEW_SHOT)
