"""The sections with pictures: the map of species, nearest neighbours, mistakes."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from bioclip_jax.evaluation.report.accuracy import title_of
from bioclip_jax.evaluation.report.charts import OTHERS, PALETTE, Point, point_map
from bioclip_jax.evaluation.report.markup import Child, Markup, figure, tag
from bioclip_jax.evaluation.report.projection import MOST_FOR_TSNE, project
from bioclip_jax.evaluation.rows import GalleryItem, Species
from bioclip_jax.heads import species_name
from bioclip_jax.text.taxonomy import RANKS, Taxon

FEWEST_FOR_A_COLOUR = 3
Thumbnails = Callable[[str], bytes | None]


def read_taxon(document: str) -> Taxon:
    """The taxon of a JSON object of names."""
    return Taxon(**json.loads(document))


def name_of(taxon: Taxon) -> str:
    """Genus and epithet, else the most specific name known."""
    return species_name(taxon) or next((name for name in reversed(taxon.ranks) if name), "unnamed")


def map_section(species: Sequence[Species]) -> Markup | None:
    """Species embeddings in two dimensions, coloured by class."""
    if len(species) < 3:
        return None
    shown = sorted(species, key=lambda row: -row.images)[:MOST_FOR_TSNE]
    left_out = len(species) - len(shown)
    species = shown if left_out else species
    placed, method = project(np.stack([np.frombuffer(row.embedding, "<f4") for row in species]))
    taxa = [read_taxon(row.taxon) for row in species]
    counts = Counter(taxon.class_ or "class unknown" for taxon in taxa)
    few = len(counts) <= len(PALETTE)
    named = [name for name, count in counts.most_common(len(PALETTE)) if few or count >= FEWEST_FOR_A_COLOUR]
    colours = [*PALETTE[: len(named)], OTHERS]
    group = {name: number for number, name in enumerate(named)}
    points = []
    for row, taxon, (x, y) in zip(species, taxa, placed, strict=True):
        common = f" ({taxon.common_name})" if taxon.common_name else ""
        place = ", ".join(name for name in (taxon.class_, taxon.order, taxon.family) if name)
        plural = "" if row.images == 1 else "s"
        hover = f"{name_of(taxon)}{common}\n{place}\n{title_of(row.split).lower()}, {row.images} photo{plural}"
        number = group.get(taxon.class_ or "class unknown", len(named))
        points.append(Point(float(x), 1 - float(y), number, row.split == "unseen", hover))
    entries = [_legend_entry(name, colours[number], counts[name], number) for name, number in group.items()]
    others = sum(counts.values()) - sum(counts[name] for name in named)
    if others:
        rest = f"{len(counts) - len(named)} other classes"
        entries.append(_legend_entry(rest, OTHERS, others, len(named)))
    if any(point.hollow for point in points):
        entries.append(tag("li", tag("i", class_="ring"), "unseen species", class_="rule"))
    highlight = "".join(
        f'.map:has(.legend [data-group="{number}"]:hover) circle:not(.g{number}){{opacity:.07}}'
        for number in range(len(colours))
    )
    caption = (
        f"Where {len(species):,} species lie: each point is the mean of a species' image features ({method}), "
        "coloured by class. Neighbourhoods mean something, distances between far groups do not. "
        "Point at a dot for its name, at a class to single it out."
    )
    if left_out:
        caption += f" The {left_out:,} species with the fewest photos are left out."
    chart = tag("div", point_map(points, colours, "map of species"), tag("ul", entries, class_="legend"), class_="map")
    return tag("section", tag("h2", "The map of species"), tag("style", Markup(highlight)), figure(caption, chart))


def _legend_entry(name: str, colour: str, count: int, group: int) -> Markup:
    return tag("li", tag("i", style=f"background:{colour}"), name, tag("em", f"{count:,}"), data_group=group)


def _photo(
    item: GalleryItem, thumbnails: Thumbnails, verdict: tuple[str, str] | None = None, split: str = ""
) -> Markup:
    taxon = read_taxon(item.taxon)
    jpeg = thumbnails(item.key) if item.key else None
    kind = verdict[0] if verdict else None
    hover = " > ".join(name for name in taxon.ranks if name)
    picture: Markup
    if jpeg is None:
        picture = tag("div", class_="blank", title=hover)
    else:
        source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        picture = tag("img", src=source, alt=name_of(taxon), title=hover, class_=kind, loading="lazy")
    parts: list[Child] = [picture, tag("div", name_of(taxon), class_="name")]
    if taxon.common_name:
        parts.append(tag("div", taxon.common_name, class_="common"))
    if verdict:
        parts.append(tag("div", verdict[1], tag("span", f"{item.score or 0:.2f}"), class_=f"verdict {verdict[0]}"))
    if split:
        parts.append(tag("div", split, class_="split"))
    return tag("div", parts, class_="photo")


def deepest_common_rank(first: Taxon, second: Taxon) -> str:
    """The most specific rank down to which two taxa agree, passing over ranks that either lacks; may be empty."""
    deepest = ""
    for rank in RANKS:
        one, other = first.rank(rank), second.rank(rank)
        if one and other:
            if one != other:
                break
            deepest = rank
    return deepest


def _verdict(query: Taxon, found: Taxon) -> tuple[str, str]:
    rank = deepest_common_rank(query, found)
    if rank == "species":
        return "right", "\N{CHECK MARK} species"
    if rank in ("genus", "family"):
        return "near", f"\N{ALMOST EQUAL TO} {rank}"
    return "wrong", f"\N{MULTIPLICATION X} {rank or 'nothing'}"


def _grouped(items: Sequence[GalleryItem], kind: str) -> dict[int, list[GalleryItem]]:
    groups: dict[int, list[GalleryItem]] = defaultdict(list)
    for item in items:
        if item.kind == kind:
            groups[item.item].append(item)
    return groups


def neighbours_section(items: Sequence[GalleryItem], thumbnails: Thumbnails) -> Markup | None:
    """Query photos, each with the photos that lie nearest."""
    groups = _grouped(items, "neighbours")
    if not groups:
        return None
    cells: list[Markup] = [
        tag("div", "photo asked", class_="head"),
        tag("div"),
        tag("div", "most similar photos, nearest first", class_="head wide"),
    ]
    for query, *found in groups.values():
        taxon = read_taxon(query.taxon)
        cells.append(_photo(query, thumbnails, split=f"from {query.split}"))
        cells.append(tag("div", class_="bar"))
        for item in found[:6]:
            cells.append(_photo(item, thumbnails, _verdict(taxon, read_taxon(item.taxon))))
        cells += [tag("div")] * (6 - len(found[:6]))
    caption = (
        "Photos drawn at random from the measured splits (at most one of a class while classes last) and, of all "
        "photos that the model saw here, the six with the largest cosine similarity (the number). "
        "Named is the most specific rank that both share. "
        "Green: the same species; yellow: the same genus or family; red: further away. "
        "A species with a single photo has no green one."
    )
    gallery = figure(caption, tag("div", cells, class_="gallery"))
    return tag("section", tag("h2", "Nearest neighbours"), gallery)


def failures_section(items: Sequence[GalleryItem], thumbnails: Thumbnails) -> Markup | None:
    """The most confident mistakes at species rank."""
    groups = _grouped(items, "failures")
    if not groups:
        return None
    splits = {item.split for group in groups.values() for item in group[:1]}
    parts = []
    for split in sorted(splits):
        cards = [_failure(group, thumbnails) for group in groups.values() if group[0].split == split]
        parts.append(tag("h3", f"Photos of the split {split}"))
        parts.append(tag("div", cards, class_="failures"))
    caption = (
        "The wrong species that the model was surest of, at most two of one class. "
        "Left the photo with its true species, right the most similar photo of the species that was said. "
        "The bar runs from kingdom to species: green where the answer is right."
    )
    return tag("section", tag("h2", "The most confident mistakes"), figure(caption, parts))


def _failure(group: Sequence[GalleryItem], thumbnails: Thumbnails) -> Markup:
    asked, said = group[0], group[1]
    true, predicted = read_taxon(asked.taxon), read_taxon(said.taxon)
    marks = []
    first_wrong = ""
    for rank in RANKS:
        one, other = true.rank(rank), predicted.rank(rank)
        if not one or not other:
            marks.append(tag("i", class_="unknown", title=f"{rank}: unknown"))
            continue
        wrong = bool(first_wrong) or one != other
        first_wrong = first_wrong or (rank if wrong else "")
        marks.append(tag("i", class_="wrong" if wrong else None, title=f"{rank}: {one} / {other}"))
    fell = f"wrong from {first_wrong} on" if first_wrong else "wrong"
    if first_wrong and first_wrong != "kingdom":
        fell += f": {true.rank(first_wrong)}, not {predicted.rank(first_wrong)}"
    return tag(
        "div",
        tag(
            "div",
            tag("div", tag("div", "true", class_="role"), _photo(asked, thumbnails)),
            tag(
                "div", tag("div", f"said, probability {asked.score or 0:.2f}", class_="role"), _photo(said, thumbnails)
            ),
            class_="pair",
        ),
        tag("div", marks, class_="lineage"),
        tag("div", fell, class_="fell"),
        class_="failure",
    )
