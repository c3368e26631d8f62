"""One self-contained HTML page of a dataset's statistics: no script, no network."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.statistics import FIELDS, Statistics, quantile
from bioclip_jax.pipeline.statistics_markup import (
    Child,
    bar,
    counts_table,
    histogram,
    number,
    percent,
    table,
    tag,
    tail_curve,
)
from bioclip_jax.text.taxonomy import RANKS

SECTIONS = {
    "splits": "Splits",
    "ranks": "Ranks",
    "tail": "The long tail",
    "groups": "Kingdoms and classes",
    "sources": "Sources, licences, kinds of images",
    "images": "Images",
    "captions": "Captions",
}
_TAIL_MARKS = (1, 10, 50)
_TAIL_BINS = (("1", 1, 1), ("2 to 9", 2, 9), ("10 to 49", 10, 49), ("50 and more", 50, 2**62))
_BUCKETS = (32, 48, 64, 77)
"""Numbers of tokens that batches are cut to."""
_FIELD_TITLES = dict(zip(FIELDS, ("source", "licence", "kind of image"), strict=True))


def write_statistics(statistics: Statistics, out: str | os.PathLike[str], *, title: str) -> None:
    """Writes the page, whole or not at all.

    Args:
      statistics: from `collect_statistics`.
      out: the file; it is replaced.
      title: of the dataset.

    Raises:
      UserError: no record can be used, or the file cannot be written.
    """
    if not statistics.usable:
        reasons = Counter[str]()
        for split in statistics.splits.values():
            reasons.update(split.unusable)
        raise UserError(f"{title}: no record can be used ({', '.join(reasons) or 'there are none'})")
    out = Path(out)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(_document(statistics, title), encoding="utf-8")
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"statistics {out} could not be written: {error.strerror or error}") from error


def _document(statistics: Statistics, title: str) -> str:
    style = tag("style")
    style.text = Path(__file__).with_name("statistics.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("title", title),
        style,
    )
    parts = {
        "splits": _splits(statistics),
        "ranks": _ranks(statistics),
        "tail": _tail(statistics),
        "groups": _groups(statistics),
        "sources": _sources(statistics),
        "images": _images(statistics),
        "captions": _captions(statistics),
    }
    shown = {name: part for name, part in parts.items() if part is not None}
    body = tag(
        "body",
        _header(statistics, title),
        tag("nav", [[tag("a", SECTIONS[name], href=f"#{name}"), " "] for name in shown]),
        _headline(statistics),
        [tag("section", tag("h2", SECTIONS[name]), part, id=name) for name, part in shown.items()],
        tag("footer", "Made by bioclip-jax data show. This page needs no network and runs no script."),
    )
    return "<!doctype html>\n" + tostring(tag("html", head, body, lang="en"), encoding="unicode", method="html") + "\n"


def _header(statistics: Statistics, title: str) -> Element:
    splits = f"{len(statistics.splits)} split{'s' if len(statistics.splits) > 1 else ''}"
    text = f"{statistics.records:,} photos in {splits}. "
    if statistics.looked_at < statistics.records:
        text += (
            f"This page looked at {statistics.looked_at:,} of them, evenly spaced: shares are estimates, and rare "
            "species and values are missing or seem rarer than they are."
        )
    else:
        text += "This page looked at every one of them."
    overline = tag("div", "bioclip_jax dataset", class_="overline")
    return tag("header", overline, tag("h1", title), tag("p", text, class_="meta"))


def _headline(statistics: Statistics) -> Element:
    species = np.array(sorted(statistics.by_lineage("species").values(), reverse=True), np.int64)
    full = sum(records for taxon, records in statistics.taxa.items() if all(taxon.ranks))
    unusable = statistics.looked_at - statistics.usable
    left_out = f"{unusable:,} could not be used" if unusable else "all of them usable"
    facts = (
        (f"{statistics.usable:,}", "photos", left_out),
        (f"{len(species):,}", "species", f"{len(statistics.taxa):,} different sets of names"),
        (percent(full, statistics.usable), "named at all seven ranks", f"{full:,} photos"),
        (
            f"{int(np.median(species)):,}" if len(species) else "\N{EN DASH}",
            "photos of the median species",
            "half have no more",
        ),
    )
    return tag(
        "div",
        [
            tag("div", tag("b", figure), tag("div", what, class_="what"), tag("div", beside, class_="beside"))
            for figure, what, beside in facts
        ],
        class_="headline",
    )


def _splits(statistics: Statistics) -> Child:
    first = next(iter(statistics.splits))
    species = {
        name: {taxon.ranks for taxon in split.taxa if taxon.species} for name, split in statistics.splits.items()
    }
    largest = max(split.records for split in statistics.splits.values())
    sampled = statistics.looked_at < statistics.records
    rows: list[Sequence[Child]] = []
    for name, split in statistics.splits.items():
        unusable = sum(split.unusable.values())
        unseen = number(len(species[name] - species[first])) if name != first else ""
        looked_at = [number(split.looked_at)] if sampled else []
        counts = [number(n) for n in (unusable, len(split.taxa), len(species[name]))]
        rows.append((name, number(split.records), *looked_at, *counts, unseen, bar(split.records / largest)))
    heads = (
        "split",
        "photos",
        *(["looked at"] if sampled else []),
        "unusable",
        "taxa",
        "species",
        f"of them not in {first}",
        "",
    )
    reasons: list[Sequence[Child]] = [
        (name, reason, number(count))
        for name, split in statistics.splits.items()
        for reason, count in split.unusable.most_common(20)
    ]
    left_out = [tag("h3", "What could not be used"), table(("split", "reason", "photos"), reasons, texts=2)]
    return [table(heads, rows), left_out if reasons else None]


def _ranks(statistics: Statistics) -> Child:
    named_to, usable = statistics.named_to(), statistics.usable
    rows: list[Sequence[Child]] = []
    for rank in RANKS:
        lineages = statistics.by_lineage(rank)
        named = sum(lineages.values())
        lack = usable - named
        rows.append(
            (
                *(rank, number(len(lineages)), number(named), number(lack), percent(lack, usable), bar(lack / usable)),
                *(number(named_to[rank]), percent(named_to[rank], usable), bar(named_to[rank] / usable)),
            )
        )
    if named_to[""]:
        share = percent(named_to[""], usable)
        rows.append((tag("em", "no name"), "", "", "", "", "", number(named_to[""]), share, bar(named_to[""] / usable)))
    heads = ("rank", "different names", "photos with a name", "without", "share", "", "named to it", "share", "")
    caption = (
        "Names are told apart by their lineage: the same epithet in two genera counts twice. The last columns say to "
        "which rank a photo is named, whatever is missing above."
    )
    return tag("figure", table(heads, rows), tag("figcaption", caption))


def _tail(statistics: Statistics) -> Child:
    counts = np.array(sorted(statistics.by_lineage("species").values(), reverse=True), np.int64)
    if not len(counts):
        return tag("p", "No photo is named to species.")
    photos, largest = int(counts.sum()), len(counts)
    rows: list[Sequence[Child]] = []
    for name, low, high in _TAIL_BINS:
        inside = counts[(counts >= low) & (counts <= high)]
        share, of_photos = percent(len(inside), largest), percent(int(inside.sum()), photos)
        rows.append(
            (name, number(len(inside)), share, bar(len(inside) / largest), of_photos, bar(inside.sum() / photos))
        )
    top = -(-len(counts) // 100)
    caption = (
        f"The most photographed 1 % of the species ({top:,} of them) {'has' if top == 1 else 'have'} "
        f"{percent(int(counts[:top].sum()), photos)} of the photos that are named to species. "
        f"The first species has {int(counts[0]):,} photos, the last {int(counts[-1]):,}."
    )
    heads = ("photos of a species", "species", "share", "", "their photos", "")
    return tag(
        "figure",
        tag("div", tail_curve(counts, _TAIL_MARKS), table(heads, rows), class_="tail"),
        tag("figcaption", caption),
    )


def _groups(statistics: Statistics) -> Child:
    kingdoms, classes = Counter[str](), Counter[str]()
    for taxon, records in statistics.taxa.items():
        kingdoms[taxon.kingdom] += records
        classes[taxon.class_] += records
    tables = [
        counts_table(head, counts, statistics.usable, most=20, empty="no name")
        for head, counts in (("kingdom", kingdoms), ("class", classes))
    ]
    return tag("div", tables, class_="panels")


def _sources(statistics: Statistics) -> Child:
    tables = [
        counts_table(_FIELD_TITLES[name], statistics.values[name], statistics.usable)
        for name in FIELDS
        if set(statistics.values[name]) != {""}
    ]
    missing = [_FIELD_TITLES[name] for name in FIELDS if set(statistics.values[name]) == {""}]
    note = tag("p", f"Not said by any record: {', '.join(missing)}.", class_="meta") if missing else None
    return [tag("div", tables, class_="panels"), note]


def _images(statistics: Statistics) -> Child:
    sides, sizes = statistics.shorter_sides, statistics.file_sizes
    rows = [
        ("shorter side, pixels", *(f"{value:,}" for value in _quantiles(sides))),
        ("file, kB", *(f"{value / 1000:,.1f}" for value in _quantiles(sizes))),
    ]
    heads = ("", "smallest", "5 %", "median", "95 %", "largest")
    total = sum(size * count for size, count in sizes.items())
    kilobytes = Counter[int]()
    for size, count in sizes.items():
        kilobytes[size // 1000] += count
    below = sum(count for side, count in sides.items() if side < 224)
    small = percent(below, statistics.usable)
    text = f"{_bytes(total)} of images. {small} of them have a shorter side below 224 pixels."
    charts = [
        histogram("Shorter side", sides, "pixels", width=520, bins=48, marks=(224,)),
        histogram("File size", kilobytes, "kB", width=520, bins=48),
    ]
    tables = [
        counts_table("format", statistics.values["format"], statistics.usable),
        counts_table("shape", statistics.orientations, statistics.usable),
    ]
    return [
        tag("p", text),
        tag("div", charts, class_="panels"),
        table(heads, rows),
        tag("div", tables, class_="panels"),
    ]


def _captions(statistics: Statistics) -> Child:
    rows: list[Sequence[Child]] = []
    charts: list[Element] = []
    longest = max(quantile(counts, 0.995) for counts in statistics.tokens.values()) if statistics.tokens else 0
    span = (0, max(80, longest))  # the same for all, to compare
    for text_type, counts in statistics.tokens.items():
        total = sum(counts.values())
        lengths = (quantile(counts, 0.5), quantile(counts, 0.95), max(counts))
        fits = [percent(sum(n for length, n in counts.items() if length <= bucket), total) for bucket in _BUCKETS]
        rows.append((text_type, number(total), *map(str, lengths), *fits))
        charts.append(histogram(text_type, counts, "tokens", span=span, marks=_BUCKETS))
    if not rows:
        return None
    heads = ("type of text", "captions", "median", "95 %", "longest", *(f"within {bucket}" for bucket in _BUCKETS))
    caption = (
        "Tokens of CLIP's tokenizer, start and end of text included. Texts are cut to the smallest of the lengths at "
        "the right that the longest caption fits in; dashed lines show them."
    )
    return tag("figure", table(heads, rows), tag("div", charts, class_="charts"), tag("figcaption", caption))


def _quantiles(counts: Counter[int]) -> tuple[int, ...]:
    return min(counts), *(quantile(counts, share) for share in (0.05, 0.5, 0.95)), max(counts)


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
