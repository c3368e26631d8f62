"""Which devices exchange among themselves, as compiled programs write it, and whether they share a fast network."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_LISTS = re.compile(r"(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\]([^{]*)\{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")
_ORDER = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")

Groups = tuple[tuple[int, ...], ...]


def groups_of(text: str, devices: int) -> Groups:
    """The groups of a collective's line: places in the mesh, which is flat here.

    Three forms are known: lists, `{{0,1},{2,3}}`; a transposed range, `[2,2]<=[2,2]T(1,0)`; and axes of a mesh,
    `mesh['a'=2,'b'=2] {'b'}`. Without any, or in another form, all devices are one group.
    """
    if found := _LISTS.search(text):
        lists = re.findall(r"\{([\d,]*)\}", found[1])
        return tuple(_numbers(one) for one in lists) or _all(devices)
    if found := _IOTA.search(text):
        return _rows(_range(found[2], found[3]).reshape(_numbers(found[1])))
    if found := _MESH.search(text):
        return _of_axes(*found.groups()) or _all(devices)
    return _all(devices)


def _of_axes(axes: str, order: str, taken: str) -> Groups:
    sizes = {name: int(size) for name, size in _AXIS.findall(axes)}
    names = re.findall(r"'([^']+)'", taken)
    if not names or ":" in taken or not set(names) <= set(sizes):
        return ()
    found = _ORDER.search(order)
    ids = _range(found[1], found[2]) if found else np.arange(np.prod(list(sizes.values())))
    if ids.size != np.prod(list(sizes.values())):
        return ()
    mesh = ids.reshape(list(sizes.values()))
    places = [list(sizes).index(name) for name in names]
    moved = np.moveaxis(mesh, places, range(-len(places), 0))
    return _rows(moved.reshape(-1, int(np.prod([sizes[name] for name in names]))))


def spans(groups: Groups, networks: Sequence[int]) -> bool:
    """Whether any group has devices of several networks; `networks`: the slice or node of each place in the mesh."""
    return any(len({networks[place] for place in group if place < len(networks)}) > 1 for group in groups)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _range(sizes: str, order: str | None) -> np.ndarray:
    ids = np.arange(np.prod(_numbers(sizes))).reshape(_numbers(sizes))
    return (ids.transpose(_numbers(order)) if order else ids).reshape(-1)


def _rows(table: np.ndarray) -> Groups:
    return tuple(tuple(int(place) for place in row) for row in table)


def _all(devices: int) -> Groups:
    return (tuple(range(devices)),)
