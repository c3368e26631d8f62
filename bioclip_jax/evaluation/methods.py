"""Names that the command line, the protocols and the report share; nothing here is heavy to import."""

from __future__ import annotations

import re
from typing import Literal, get_args

Method = Literal["mean", "sum", "prototype", "prefix"]
METHODS: tuple[Method, ...] = get_args(Method)
"""The ways in which candidates above species come about; `zero_shot` describes them."""

DEFAULT_METHOD: Method = "mean"
"""The way that figures lead with. Balanced accuracy, which leads, counts every taxon the same, and so does this; the
baseline's answers are corrected for the numbers of training photos in the same spirit."""

_LONE_SURROGATES = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """`text` with lone surrogates (of a path or name that is no UTF-8) replaced, so that it can be written anywhere."""
    return _LONE_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def percent(value: float) -> str:
    """A share in per cent, one decimal; all of it is `100`."""
    return "100" if value == 1 else f"{100 * value:.1f}"


NUMBERS = ("lca_distance", "balanced_lca_distance", "mistake_severity", "median_rank", "brier_score")
"""Metrics that are no shares."""


def is_share(protocol: str, metric: str) -> bool:
    """Whether a figure is a share, and so shown in per cent; correlations, ratios and p-values are not."""
    return protocol != "emergence" and metric not in NUMBERS


def plain_number(value: float) -> str:
    """A figure that is no share, in three digits with a proper minus sign."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
