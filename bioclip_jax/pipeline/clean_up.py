"""Plans the clean-up of a dataset's taxa: what is put right, and what can only be reported.

Each taxon is mended by itself (`bioclip_jax.text.mending`). Then ranks above the genus that it lacks are taken from
the other taxa of its genus, but only where those agree: a genus may stand under two kingdoms (a hemihomonym, as
Prunella, a bird and a herb). Contradictions are reported and never decided. Cleaning what is clean changes nothing.
"""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from pathlib import Path
from typing import NamedTuple

from bioclip_jax.errors import UserError
from bioclip_jax.text.mending import NAMELESS, OTHER_EPITHET, OTHER_GENUS, doubts, mend
from bioclip_jax.text.taxonomy import RANKS, Taxon

COMPLETED = "ranks completed from the genus"
AMBIGUOUS = "ranks missing, genus in several places"
KINGDOM = "rank known mostly under another kingdom"
REPORTED = frozenset({AMBIGUOUS, KINGDOM, NAMELESS, OTHER_GENUS, OTHER_EPITHET})
"""The kinds that are reported; all others are changes."""

_FIELDS = (*RANKS, "scientific_name", "common_name")
_MOST_PLACES = 200  # of one genus; more are taken for ambiguous, because all pairs are compared

Place = tuple[str, ...]
"""The names of a taxon from kingdom to family."""


class Finding(NamedTuple):
    """One mistake in one taxon; `after` is None where it is only reported."""

    kind: str
    before: Taxon
    after: Taxon | None
    records: int

    def __str__(self) -> str:
        """What changes, field by field; for a report the whole taxon."""
        if self.after is None:
            return _line(self.before)
        pairs = zip(_FIELDS, astuple(self.before), astuple(self.after), strict=True)
        return ", ".join(f"{name} {old!r} -> {new!r}" for name, old, new in pairs if old != new)


class CleanUp:
    """What is to be done about the taxa of a dataset; picklable.

    Attributes:
      changes: taxon -> what it becomes; taxa that stay as they are are not in it.
      kinds: taxon -> the kinds of mistakes found in it, for every taxon with any.
    """

    def __init__(
        self, taxa: Mapping[Taxon, int], changes: Mapping[Taxon, Taxon], kinds: Mapping[Taxon, tuple[str, ...]]
    ):
        self.changes, self.kinds = dict(changes), dict(kinds)
        self._records = {taxon: taxa[taxon] for taxon in kinds}

    def findings(self) -> Iterator[Finding]:
        """Each mistake of each taxon."""
        for taxon, kinds in self.kinds.items():
            for kind in kinds:
                after = None if kind in REPORTED else self.changes.get(taxon)
                yield Finding(kind, taxon, after, self._records[taxon])

    def summary(self) -> list[str]:
        """For people: a line for each kind, with taxa, records and an example; changes first."""
        taxa, records = Counter[str](), Counter[str]()
        examples: dict[str, str] = {}
        for finding in self.findings():
            taxa[finding.kind] += 1
            records[finding.kind] += finding.records
            examples.setdefault(finding.kind, str(finding))
        lines = []
        for kind in sorted(taxa, key=lambda kind: (kind in REPORTED, -records[kind], kind)):
            what = f"{kind}{' (not changed)' if kind in REPORTED else ''}"
            lines.append(f"{what}: {taxa[kind]:,} taxa, {records[kind]:,} records, such as {examples[kind]}")
        return lines

    def write_report(self, path: str | os.PathLike[str]) -> None:
        """Writes a CSV of kind, before, after, records; `after` is empty where nothing is changed.

        Raises:
          UserError: it cannot be written.
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", newline="", encoding="utf-8", errors="replace") as file:
                table = csv.writer(file)
                table.writerow(("kind", "before", "after", "records"))
                for finding in self.findings():
                    after = "" if finding.after is None else _line(finding.after)
                    table.writerow((finding.kind, _line(finding.before), after, finding.records))
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(f"{path} could not be written: {error.strerror or error}") from error


def plan_clean_up(taxa: Mapping[Taxon, int]) -> CleanUp:
    """Plans what to put right in a dataset's taxa. No names make it raise.

    Args:
      taxa: each taxon of the dataset, and how many records it has.
    """
    mended = {taxon: mend(taxon) for taxon in taxa}
    places: dict[str, set[Place]] = defaultdict(set)
    for taxon, _ in mended.values():
        places[taxon.genus].add(taxon.ranks[:5])
    places.pop("", None)
    completions = {genus: _complete(found) for genus, found in places.items() if len(found) > 1}
    final: dict[Taxon, tuple[Taxon, tuple[str, ...]]] = {}
    for taxon, (after, kinds) in mended.items():
        before = after.ranks[:5]
        place, ambiguous = completions.get(after.genus, {}).get(before, (before, False))
        if place != before:
            after, kinds = Taxon(*place, *astuple(after)[5:]), (*kinds, COMPLETED)
        final[taxon] = (after, (*kinds, AMBIGUOUS) if ambiguous else kinds)
    kingdoms = _kingdoms({after for after, _ in final.values()})
    changes, all_kinds = {}, {}
    for taxon, (after, kinds) in final.items():
        kinds = (*kinds, *doubts(after), *((KINGDOM,) if _is_elsewhere(after, kingdoms) else ()))
        if kinds:
            all_kinds[taxon] = kinds
        if after != taxon:
            changes[taxon] = after
    return CleanUp(taxa, changes, all_kinds)


def _complete(places: set[Place]) -> dict[Place, tuple[Place, bool]]:
    """For each place of a genus that lacks ranks what it becomes, and whether ranks stay open that others disagree on.

    A rank is filled in if the places that nowhere contradict the known ranks agree on it and on all ranks above it.
    What is filled in may decide others, so this goes on until nothing changes.
    """
    if len(places) > _MOST_PLACES:
        return {place: (place, True) for place in places if "" in place}
    current = {place: (place, False) for place in places}
    while True:
        distinct = {place for place, _ in current.values()}
        filled = {place: _fill(place, distinct) for place in distinct if "" in place}
        after = {place: filled.get(now, (now, False)) for place, (now, _) in current.items()}
        if after == current:
            return after
        current = after


def _fill(place: Place, others: set[Place]) -> tuple[Place, bool]:
    fitting = [o for o in others if all(not a or not b or a == b for a, b in zip(place, o, strict=True))]
    names = list(place)
    for rank in range(len(place)):
        found = {other[rank] for other in fitting if other[rank]}
        if len(found) > 1:
            return tuple(names), True
        names[rank] = next(iter(found), "")
    return tuple(names), False


def _kingdoms(taxa: set[Taxon]) -> dict[tuple[int, str], Counter[str]]:
    """For each name of phylum to family how many taxa have it under which kingdom."""
    kingdoms: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for taxon in taxa:
        if taxon.kingdom:
            for rank, name in enumerate(taxon.ranks[1:5]):
                if name:
                    kingdoms[rank, name][taxon.kingdom] += 1
    return {name: counts for name, counts in kingdoms.items() if len(counts) > 1}


def _is_elsewhere(taxon: Taxon, kingdoms: Mapping[tuple[int, str], Counter[str]]) -> bool:
    """Whether as many taxa or more have one of its names under another kingdom."""
    for key in enumerate(taxon.ranks[1:5]):
        if counts := kingdoms.get(key) if taxon.kingdom else None:
            others = max(count for kingdom, count in counts.items() if kingdom != taxon.kingdom)
            if others >= counts[taxon.kingdom]:
                return True
    return False


def _line(taxon: Taxon) -> str:
    return " | ".join(astuple(taxon))
