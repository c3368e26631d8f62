"""What a person looks at: where species lie, each photo's nearest neighbours, and the most confident mistakes."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
from PIL import Image

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.features import Samples
from bioclip_jax.evaluation.labels import Labels
from bioclip_jax.evaluation.rows import GalleryItem, Prediction, Species, Thumbnail
from bioclip_jax.images import evaluation_image
from bioclip_jax.pipeline.record import RecordSource
from bioclip_jax.text.taxonomy import Taxon

NEIGHBOURS, QUERIES, FAILURES = 6, 4, 9
THUMBNAIL = 128


def taxon_json(taxon: Taxon) -> str:
    """The ranks and names that are known, as a JSON object."""
    return json.dumps({name: value for name, value in asdict(taxon).items() if value}, ensure_ascii=False)


def species_map(name: str, samples: Samples, labels: Labels) -> list[Species]:
    """The mean feature of each species of a measured split, normalised."""
    groups = labels.groups["species"]
    true = labels.true(samples.split, "species")
    rows = []
    for species in np.unique(true[true >= 0]):
        of_species = samples.features[true == species]
        mean = of_species.mean(axis=0)
        unit = mean / max(float(np.linalg.norm(mean)), 1e-12)
        taxon = taxon_json(groups.taxa[species])
        rows.append(Species(name, groups.labels[species], taxon, len(of_species), unit.astype("<f4").tobytes()))
    return rows


class Pictures:
    """All photos of the splits with their features: whom a gallery may show."""

    def __init__(self, splits: Sequence[Samples], labels: Labels):
        self.features = np.concatenate([samples.features for samples in splits])
        self.places = [(samples.split, row) for samples in splits for row in range(len(samples))]
        self.keys = [key for samples in splits for key in samples.keys]
        self.taxa = [labels.taxa[member] for samples in splits for member in labels.member[samples.split]]
        self._row = {place: number for number, place in enumerate(self.places)}

    def item(self, kind: str, item: int, place: int, number: int, score: float | None) -> GalleryItem:
        """Photo `number` as an entry of a gallery."""
        split, _ = self.places[number]
        return GalleryItem(kind, item, place, split, self.keys[number], taxon_json(self.taxa[number]), score)

    def neighbours(self, samples: Samples, *, first_item: int, seed: int = 0) -> list[GalleryItem]:
        """Random photos of a split, each followed by the most similar ones of all splits.

        No two are of one class while classes last.
        """
        start = self._row[samples.split, 0]
        order = start + np.random.default_rng(seed).permutation(len(samples))
        seen: Counter[str] = Counter()
        turns = []
        for number in order:
            turns.append(seen[self.taxa[number].class_])
            seen[self.taxa[number].class_] += 1
        queries = order[np.argsort(turns, kind="stable")][:QUERIES]
        items = []
        for item, query in enumerate(queries.tolist(), first_item):
            similarity = self.features @ self.features[query]
            similarity[query] = -np.inf
            items.append(self.item("neighbours", item, 0, query, None))
            nearest = np.argsort(-similarity, kind="stable")[: min(NEIGHBOURS, len(similarity) - 1)]
            for place, number in enumerate(nearest.tolist(), 1):
                items.append(self.item("neighbours", item, place, number, float(similarity[number])))
        return items

    def failures(
        self, samples: Samples, labels: Labels, predictions: Sequence[Prediction], *, first_item: int
    ) -> list[GalleryItem]:
        """The wrong species of highest probability, at most two of one class, each beside a photo of what was said.

        That photo is the most similar one of the species; where none is known, the item has only the taxon.
        """
        place_of = {label: place for place, label in enumerate(labels.groups["species"].labels)}
        taxa = labels.groups["species"].taxa
        row_of = {key: self._row[samples.split, row] for row, key in enumerate(samples.keys)}
        species_of = np.concatenate(
            [labels.true(split, "species") for split in dict.fromkeys(s for s, _ in self.places)]
        )
        wrong = [p for p in predictions if p.true != p.predicted and p.predicted]
        shown: Counter[str] = Counter()
        items: list[GalleryItem] = []
        item = first_item
        for prediction in sorted(wrong, key=lambda p: (-(p.score or 0.0), p.key)):
            number, said = row_of[prediction.key], place_of[prediction.predicted]
            if shown[self.taxa[number].class_] == 2 or item - first_item == FAILURES:
                continue
            shown[self.taxa[number].class_] += 1
            items.append(self.item("failures", item, 0, number, prediction.score))
            candidates = np.flatnonzero(species_of == said)
            if candidates.size:
                best = int(candidates[(self.features[candidates] @ self.features[number]).argmax()])
                items.append(self.item("failures", item, 1, best, None))
            else:
                items.append(GalleryItem("failures", item, 1, "", "", taxon_json(taxa[said]), None))
            item += 1
        return items

    def thumbnails(
        self,
        items: Sequence[GalleryItem],
        splits: Mapping[str, Samples],
        sources: Mapping[str, RecordSource],
        data: str,
    ) -> list[Thumbnail]:
        """A JPEG of 128 x 128 pixels for each photo of a gallery; one that can no longer be read is left out."""
        place_of = {(split, key): row for split, samples in splits.items() for row, key in enumerate(samples.keys)}
        pictures = {}
        for split, key in dict.fromkeys((item.split, item.key) for item in items if item.key):
            try:
                record = sources[split][int(splits[split].rows[place_of[split, key]])]
                pixels = evaluation_image(record["image"], THUMBNAIL)
            except UserError:
                continue
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=84)
            pictures[key] = Thumbnail(data, key, file.getvalue())
        return list(pictures.values())
