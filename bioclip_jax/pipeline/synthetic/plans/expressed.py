"""Which traits each body plan expresses: a change of one of them can be seen in its pictures.

How much of one trait shows may depend on the form of another (a legless reptile hides how long its legs would be).
"""

from __future__ import annotations

from bioclip_jax.pipeline.synthetic.traits import CONTINUOUS, DISCRETE

_BY_ALL = "size pattern_scale lightness saturation hue texture primary accent"
"""Colours and their tone; the grain of the skin (`texture`); and `size`, which shows in the placement."""

_BY_PLAN = {
    "bird": (
        "depth head neck limb_length limb_width tail_length tail_width appendage ornament pattern_contrast "
        "countershading head_form tail_form ornament_form pattern secondary"
    ),
    "flower": (
        "depth neck limb_length limb_width tail_width appendage ornament pattern_contrast countershading limb_form "
        "head_form tail_form pattern secondary"
    ),
    "beetle": (
        "elongation depth head neck limb_length limb_width appendage ornament pattern_contrast head_form "
        "ornament_form pattern secondary"
    ),
    "mushroom": (
        "elongation depth neck limb_width ornament pattern_contrast limb_form head_form tail_form ornament_form "
        "pattern secondary"
    ),
    "fish": (
        "elongation depth head limb_length tail_length tail_width appendage ornament pattern_contrast "
        "countershading limb_form tail_form ornament_form pattern secondary"
    ),
    "mammal": (
        "elongation depth head neck limb_length limb_width tail_length tail_width appendage ornament "
        "pattern_contrast countershading head_form tail_form ornament_form pattern secondary"
    ),
    "fern": (
        "elongation neck limb_length limb_width tail_width ornament countershading limb_form head_form tail_form "
        "ornament_form pattern"
    ),
    "starfish": "depth limb_width ornament pattern_contrast limb_form pattern secondary",
    "butterfly": (
        "elongation depth limb_width tail_length appendage ornament pattern_contrast limb_form head_form tail_form "
        "ornament_form pattern secondary"
    ),
    "reptile": (
        "elongation depth head limb_length limb_width tail_length pattern_contrast limb_form head_form "
        "ornament_form pattern secondary"
    ),
    "conifer": (
        "depth neck limb_length limb_width ornament pattern_contrast countershading limb_form head_form pattern "
        "secondary"
    ),
    "snail": "elongation depth head limb_length pattern_contrast limb_form pattern secondary",
    "jellyfish": (
        "depth limb_length limb_width tail_width appendage pattern_contrast limb_form head_form pattern secondary"
    ),
    "spider": (
        "elongation depth head limb_length limb_width ornament pattern_contrast limb_form tail_form pattern secondary"
    ),
    "bracket": "depth limb_length appendage ornament pattern_contrast limb_form head_form pattern secondary",
    "cactus": "depth neck limb_length appendage ornament pattern_contrast countershading limb_form head_form secondary",
}


def expressed_by(plan: str) -> tuple[str, ...]:
    """Names of the traits that a body plan expresses, in the order of CONTINUOUS and DISCRETE."""
    names = {*_BY_ALL.split(), *_BY_PLAN[plan].split()}
    return tuple(name for name in (*CONTINUOUS, *DISCRETE) if name in names)
