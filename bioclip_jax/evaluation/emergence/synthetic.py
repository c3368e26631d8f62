"""All emergence figures of a model on the synthetic tree, where traits, habitats, life stage and sex are known.

The truth is read from the records' `attributes` (`data/synthetic.py` describes it), the features come from any encoder.
`figures_of` needs neither: it takes features with their truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.emergence.alignment import (
    FEWEST_SPECIES,
    Axis,
    Finding,
    draws_of_species,
    first_axis,
    mantel,
    readout,
    species_means,
)
from bioclip_jax.evaluation.emergence.permutation import brownian, exchangeable, freely, shared_ancestry, within_clades
from bioclip_jax.evaluation.emergence.variation import Variants, explained_variance, fisher_ratio, overlap
from bioclip_jax.evaluation.encoder import ImageEncoder
from bioclip_jax.evaluation.features import dataset_hash, has_manifest, image_features
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.text.taxonomy import RANKS

PROTOCOL = "emergence"
TRAITS = ("size", "pattern_scale", "lightness", "saturation", "hue")
"""The continuous traits that every body plan expresses."""
VARIANTS = {"life_stage": ("juvenile", "adult"), "sex": ("female", "male")}
WITHIN, BROWNIAN = "within genera", "brownian"
FEWER = 199
"""Permutations of what takes long."""
EXCHANGED, HELD_OUT = "genus", "order"
"""The rank within which the restricted permutations exchange species, and the rank that the readout leaves out."""
DIRECTIONS = {"90 % energy": None, "k = 10": 10}


@dataclass(frozen=True)
class Settings:
    """How much is drawn."""

    permutations: int = 999
    resamples: int = 1000
    """Of the bootstrap; 0 leaves intervals out."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("permutations", 1), ("resamples", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} {getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class Truth:
    """What is known of photos and of their species."""

    species: np.ndarray
    """int64 `[n]`: number of each photo's species, from 0 without gaps."""
    names: tuple[str, ...]
    """Of the species."""
    lineages: np.ndarray
    """int64 `[species, 6]`: kingdom to genus, numbered."""
    traits: dict[str, np.ndarray]
    """By name: float64 `[species]`, NaN where the body plan does not express it."""
    habitat: np.ndarray
    """int64 `[species]`: the habitat of the species, numbered."""
    variants: dict[str, np.ndarray]
    """By name, as `VARIANTS`: int64 `[n]`, 0 or 1, -1 where not known."""

    @classmethod
    def of(cls, attributes: Iterable[str], keys: Sequence[str]) -> Truth:
        """From the records' `attributes`; raises `UserError` for one that is not of the synthetic tree."""
        known: list[dict[str, Any]] = []
        for key, text in zip(keys, attributes, strict=True):
            try:
                photo = json.loads(text)
                taxonomy = [str(photo["taxonomy"][rank]) for rank in RANKS]
                species = (int(photo["species_index"]), photo["species_habitat"], dict(photo["traits"]))
                known.append({**photo, "lineage": taxonomy, "of_species": species})
            except (ValueError, LookupError, TypeError) as error:
                raise UserError(
                    f"photo {key!r} does not say what is true of it ({type(error).__name__}); "
                    "give a dataset that `bioclip-jax data build synthetic` made"
                ) from error
        if not known:
            raise UserError("there are no photos")
        _, first, of_photo = np.unique(
            [photo["of_species"][0] for photo in known], return_index=True, return_inverse=True
        )
        leading = [known[place] for place in first]
        lineages = np.stack(
            [np.unique(["/".join(photo["lineage"][: rank + 1]) for photo in leading], return_inverse=True)[1]
             for rank in range(len(RANKS) - 1)], axis=1,
        )  # fmt: skip
        traits = {
            name: np.array([_number(photo["of_species"][2].get(name)) for photo in leading])
            for name in dict.fromkeys(name for photo in leading for name in photo["of_species"][2])
        }
        variants = {
            name: np.array([states.index(p[name]) if p.get(name) in states else -1 for p in known], np.int64)
            for name, states in VARIANTS.items()
        }
        habitat = np.unique([photo["of_species"][1] for photo in leading], return_inverse=True)[1]
        names = tuple(f"{photo['lineage'][-2]} {photo['lineage'][-1]}" for photo in leading)
        return cls(of_photo.astype(np.int64), names, lineages, traits, habitat.astype(np.int64), variants)

    def clades(self, rank: str) -> np.ndarray:
        """int64 `[species]`: the clade of each species at a rank above species."""
        return self.lineages[:, RANKS.index(rank)]


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


@dataclass
class _Report:
    """Turns findings into figures of one split."""

    split: str
    photos: int
    species: int
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self, variant: str, metric: str, finding: Finding, p_values: Mapping[str, float], left_out: int = 0
    ) -> None:
        """A statistic with its interval and chance, and a p-value for each null distribution."""
        used = self.species - left_out
        rows = [(metric, finding.value, finding.low, finding.high, finding.chance)]
        rows += [
            (f"{metric}, p {null}", p_value, float("nan"), float("nan"), 0.5) for null, p_value in p_values.items()
        ]
        for name, value, low, high, chance in rows:
            figure = Figure(
                learner="model", protocol=PROTOCOL, variant=variant, split=self.split, rank="species", metric=name,
                value=value, low=low, high=high, spread=None, chance=chance, majority=None, samples=self.photos,
                classes=used, clusters=used, left_out=left_out,
            )  # fmt: skip
            self.figures.append(figure)


@dataclass(frozen=True)
class Emergence:
    """What was found."""

    figures: list[Figure]
    axis: Axis
    """Of the first of the traits."""
    notes: list[str]
    data_hash: str = ""
    photos: int = 0
    species: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)


def figures_of(
    features: np.ndarray,
    truth: Truth,
    *,
    split: str = "test",
    traits: Sequence[str] = TRAITS,
    settings: Settings | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Emergence:
    """Every figure of inter-species alignment and intra-species variation.

    Figures have the trait (or `habitat`, `phylogeny`, `life_stage`, `sex`) as `variant`, the statistic as `metric`, and
    p-values are figures of their own, `METRIC, p NULL`; `chance` is the mean of the null distribution.

    Args:
        features: float `[n, d]`.
        truth: of these photos.
        split: its name in the figures.
        traits: the continuous traits to look at; the first is the one of the principal axis' picture.
        settings: how much is drawn.
        say: is given a line of progress now and then.

    Raises:
        UserError: there are too few species, or features or names are no use.
    """
    settings = settings or Settings()
    if len(features) != len(truth.species):
        raise UserError(f"{len(features)} photos have features, but {len(truth.species)} a truth")
    if not np.isfinite(features).all():
        raise UserError("features of photos are NaN or infinite")
    if not traits:
        raise UsageError("name at least one trait")
    if unknown := [name for name in traits if name not in truth.traits]:
        raise UserError(f"no species has a trait {unknown[0]!r}; there are {', '.join(truth.traits)}")
    report = _Report(split, len(features), len(truth.names))
    say("inter-species alignment")
    axis = _alignment(species_means(features, truth.species), truth, traits, settings, report)
    report.notes.append(
        f"{exchangeable(truth.clades(EXCHANGED))} of {len(truth.names)} species share their {EXCHANGED} with another; "
        "only these move in the restricted permutations"
    )
    for name in VARIANTS:
        say(f"intra-species variation: {name}")
        try:
            _variation(Variants.of(features, truth.species, truth.variants[name]), name, settings, report)
        except UserError as error:
            report.notes.append(f"{name}: {error}")
    return Emergence(report.figures, axis, report.notes, photos=len(features), species=len(truth.names))


def _alignment(
    embeddings: np.ndarray, truth: Truth, traits: Sequence[str], settings: Settings, report: _Report
) -> Axis:
    draws = draws_of_species(len(embeddings), settings.resamples, settings.seed)
    # Of the tree itself the signal is the question, so any species is exchanged for any.
    free = freely(len(embeddings), settings.permutations, settings.seed)
    found = mantel(embeddings, truth.lineages, truth.lineages[free], draws=draws)
    report.add("phylogeny", "mantel", found, {"freely": found.p_value})
    axes = [_of_trait(embeddings, name, truth, settings, report) for name in traits]
    habitat, held_out = truth.habitat, truth.clades(HELD_OUT)
    exchanged = habitat[within_clades(truth.clades(EXCHANGED), settings.permutations, settings.seed)]
    distance = 1.0 - shared_ancestry(truth.lineages)
    for metric, found in (
        ("mantel", mantel(embeddings, habitat, exchanged, draws=draws)),
        ("partial_mantel", mantel(embeddings, habitat, exchanged, control=distance, draws=draws)),
        ("readout_balanced_accuracy", readout(embeddings, habitat, exchanged[:FEWER], held_out, draws=draws)),
    ):
        report.add("habitat", metric, found, {WITHIN: found.p_value})
    if (exchanged == habitat).all():
        report.notes.append(f"habitat is the same within every {EXCHANGED}: the restricted permutations test nothing")
    return axes[0]


def _of_trait(embeddings: np.ndarray, name: str, truth: Truth, settings: Settings, report: _Report) -> Axis:
    """A continuous trait, among the species that express it, under both null distributions that respect phylogeny."""
    kept = np.isfinite(truth.traits[name])
    left_out = int((~kept).sum())
    if kept.sum() < FEWEST_SPECIES:
        raise UserError(f"trait {name!r}: {kept.sum()} species have it; {FEWEST_SPECIES} are the fewest")
    embeddings, trait, lineages = embeddings[kept], truth.traits[name][kept], truth.lineages[kept]
    ancestry = shared_ancestry(lineages)
    order = (settings.permutations, settings.seed)
    nulls = {
        BROWNIAN: brownian(trait, ancestry, *order),
        WITHIN: trait[within_clades(truth.clades(EXCHANGED)[kept], *order)],
    }
    few = {label: null[:FEWER] for label, null in nulls.items()}
    drawn = draws_of_species(len(trait), settings.resamples, settings.seed)
    held_out = truth.clades(HELD_OUT)[kept]
    measures: dict[str, Callable[[str, np.ndarray | None], Finding]] = {
        "mantel": lambda null, draws: mantel(embeddings, trait, nulls[null], draws=draws),
        "partial_mantel": lambda null, draws: mantel(embeddings, trait, nulls[null], control=1 - ancestry, draws=draws),
        "readout_r2": lambda null, draws: readout(embeddings, trait, few[null], held_out, draws=draws),
        "axis_spearman": lambda null, draws: first_axis(embeddings, trait, nulls[null], draws=draws).finding,
    }
    for metric, measure in measures.items():
        found = measure(BROWNIAN, drawn)
        report.add(name, metric, found, {BROWNIAN: found.p_value, WITHIN: measure(WITHIN, None).p_value}, left_out)
    return first_axis(embeddings, trait, nulls[BROWNIAN], draws=drawn)


def _variation(variants: Variants, name: str, settings: Settings, report: _Report) -> None:
    draws = draws_of_species(len(variants), settings.resamples, settings.seed)
    few = min(settings.permutations, FEWER)
    for label, directions in DIRECTIONS.items():
        found = explained_variance(
            variants, directions, permutations=settings.permutations, seed=settings.seed, draws=draws
        )
        p_values = {"isotropic": found.isotropic.p_value, "residual": found.residual.p_value}
        variant = f"{name}, {label}"
        report.add(variant, "explained_variance", found.residual, p_values, variants.left_out)
        report.add(variant, "explained_variance_corrected", found.corrected, {}, variants.left_out)
        if not np.isfinite(found.corrected.value):
            report.notes.append(f"{variant}: the differences are nothing but noise; no share is left to correct")
        isotropic = replace(found.isotropic, value=found.directions / found.dimensions, low=np.nan, high=np.nan)
        report.add(variant, "explained_variance_isotropic", isotropic, {}, variants.left_out)
    ratios = fisher_ratio(variants, permutations=few, seed=settings.seed, draws=draws)
    for metric, finding in zip(("fisher_ratio", "fisher_ratio_between_within"), ratios, strict=True):
        report.add(name, metric, finding, {"within species": finding.p_value}, variants.left_out)
    found_overlap = overlap(variants, permutations=few, seed=settings.seed, draws=draws)
    report.add(name, "overlap", found_overlap, {"residual": found_overlap.p_value}, variants.left_out)


def measure(
    encoder: ImageEncoder,
    dataset: str,
    *,
    split: str = "test",
    arguments: Mapping[str, Any] | None = None,
    traits: Sequence[str] = TRAITS,
    settings: Settings | None = None,
    cache: ArrayCache | None = None,
    batch_size: int = 256,
    limit: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Emergence:
    """Encodes the photos of a split of the synthetic tree and measures them; see `figures_of`.

    Args:
        encoder: the model.
        dataset: a directory that `bioclip-jax data build synthetic` made, or a data recipe such as `synthetic`.
        split: of the dataset.
        arguments: of the recipe.
        traits: the continuous traits to look at.
        settings: how much is drawn.
        cache: where features are kept, of a directory.
        batch_size: photos encoded at once.
        limit: at most so many photos, chosen at random.
        say: is given a line of progress now and then.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"max_images {limit} must be at least 1")
    splits = open_dataset(dataset, arguments)
    if split not in splits:
        raise UsageError(f"{dataset} has no split {split!r}, only {', '.join(splits)}")
    source = splits[split]
    data = dataset_hash(dataset, arguments or {}, {split: source})
    kept = cache if cache and has_manifest(dataset) else ArrayCache(None)
    say(f"encoding up to {len(source)} photos of {split}")
    samples = image_features(encoder, source, split, data=data, limit=limit, cache=kept, batch_size=batch_size)
    truth = Truth.of((source[int(row)].get("attributes", "") for row in samples.rows), samples.keys)
    found = figures_of(samples.features, truth, split=split, traits=traits, settings=settings, say=say)
    unreadable = dict(samples.unreadable)
    if unreadable:
        found.notes.append(f"{sum(unreadable.values())} photos could not be used: {unreadable}")
    return replace(found, data_hash=data, unreadable=unreadable)
