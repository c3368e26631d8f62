"""HTML and SVG by construction: whatever is not `Markup` is escaped, so no string of the data can become an element."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from typing import TypeAlias

# What XML does not allow at all; a browser would show a box.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """Text that is HTML already."""


Child: TypeAlias = "str | Markup | float | Iterable[Child] | None"


def text(child: Child) -> Markup:
    """`child` as HTML: `Markup` as it is, other strings escaped, None as nothing, iterables joined."""
    if isinstance(child, Markup):
        return child
    if child is None:
        return Markup()
    if isinstance(child, str | int | float):
        return Markup(html.escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", str(child)), quote=True))
    return Markup("".join(text(part) for part in child))


def tag(element: str, *children: Child, **attributes: str | float | None) -> Markup:
    """An element. `class_` is `class`, other underscores are hyphens (`stroke_width`); None leaves an attribute out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    content = text(children)
    if not content and element in ("path", "line", "circle", "rect", "img", "meta"):
        return Markup(f"<{element}{written}/>")
    return Markup(f"<{element}{written}>{content}</{element}>")


def details(summary: str, *children: Child) -> Markup:
    """A part that is folded until it is asked for."""
    return tag("details", tag("summary", summary), *children)


def figure(caption: Child, *children: Child) -> Markup:
    """A figure with its caption below."""
    return tag("figure", *children, tag("figcaption", caption))
