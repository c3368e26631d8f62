"""Inter-species alignment: does the arrangement of species in feature space follow a trait or habitat?

Three questions of the species' mean embeddings, each a statistic with a null distribution made of surrogate traits
(`permutation`) and an interval by a bootstrap over species:

    mantel    does the whole geometry follow it? Spearman correlation of two distance matrices (Mantel 1967; as
              representational similarity analysis, Kriegeskorte et al. 2008), also with phylogeny partialled out
    readout   can it be read off linearly, in clades that the readout has never seen?
    axis      does it order the species along the first principal axis, as beak size does Darwin's finches in the
              BioCLIP 2 paper (figure 1)?

A trait is float `[species]` or `[species, traits]` (compared by Euclidean distance), or int of these shapes (states,
such as habitats: distance is the number of those that differ; of a lineage, that of the ranks).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.bootstrap import Bootstrap, interval
from bioclip_jax.evaluation.emergence.permutation import p_value
from bioclip_jax.heads import normalise

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Of the ridge, times the mean eigenvalue of the training species' Gram matrix."""
FEWEST_SPECIES = 8
TINY = 1e-12


@dataclass(frozen=True)
class Finding:
    """A statistic, what it is by chance, and its 95 % interval."""

    value: float
    null: np.ndarray = field(repr=False)
    """float64 `[permutations]`: the statistic where there is nothing to find."""
    p_value: float
    """One-sided: the share of the null distribution that is at least as extreme in the direction that is asked for."""
    low: float = float("nan")
    high: float = float("nan")

    @property
    def chance(self) -> float:
        """The mean of the null distribution."""
        return float(np.mean(self.null)) if len(self.null) else float("nan")


def species_means(features: np.ndarray, species: np.ndarray) -> np.ndarray:
    """The mean of each species' L2-normalised features: float32 `[species, d]`.

    Args:
        features: float `[n, d]`.
        species: int `[n]`, from 0 without gaps.
    """
    units = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), TINY)
    sums = np.zeros((int(species.max()) + 1, features.shape[1]))
    np.add.at(sums, species, units)
    sizes = np.bincount(species, minlength=len(sums))
    if (sizes == 0).any():
        raise UserError(f"{(sizes == 0).sum()} of {len(sizes)} species have no photo")
    return (sums / sizes[:, None]).astype(np.float32)


def draws_of_species(species: int, resamples: int, seed: int = 0) -> np.ndarray:
    """How often each resample draws each species: float64 `[resamples, species]`."""
    if not resamples:
        return np.zeros((0, species))
    return Bootstrap(np.arange(species), resamples=resamples, seed=seed).each(lambda counts: counts)


def _checked(embeddings: np.ndarray, trait: np.ndarray, surrogates: np.ndarray) -> np.ndarray:
    """The trait and its surrogates `[1 + permutations, species, ...]`; raises `UserError` where they are no use."""
    trait, surrogates = np.asarray(trait), np.asarray(surrogates)
    if len(trait) != len(embeddings):
        raise UserError(f"{len(trait)} species have a trait, but {len(embeddings)} have features")
    if len(trait) < FEWEST_SPECIES:
        raise UserError(f"{len(trait)} species are too few to say anything; {FEWEST_SPECIES} are the fewest")
    if not np.isfinite(embeddings).all():
        raise UserError("features of species are NaN or infinite")
    if trait.dtype.kind == "f" and not np.isfinite(trait).all():
        raise UserError("the trait of some species is NaN or infinite; leave those species out")
    if (trait == trait[:1]).all():
        raise UserError("the trait is the same in all species")
    if surrogates.shape[1:] != trait.shape:
        raise UserError(f"surrogates {list(surrogates.shape)} are not of the trait's shape, {list(trait.shape)}")
    return np.concatenate([trait[None], surrogates]).astype(np.int32 if trait.dtype.kind in "iub" else np.float32)


def _finding(values: np.ndarray, resampled: np.ndarray) -> Finding:
    bounds = interval(np.asarray(resampled, np.float64))
    value, null = float(values[0]), np.asarray(values[1:], np.float64)
    return Finding(value, null, p_value(value, null) if len(null) else float("nan"), bounds.low, bounds.high)


# Mantel's statistic


def _ranks(values: Float[Array, " m"]) -> Float[Array, " m"]:
    """Ranks, equal values sharing the mean one, centred and of norm 1: a dot product is Spearman's correlation."""
    ordered = jnp.sort(values)
    ranks = jnp.searchsorted(ordered, values, side="left") + jnp.searchsorted(ordered, values, side="right")
    centred = ranks - ranks.mean()
    return centred / jnp.maximum(jnp.linalg.norm(centred), TINY)


def _distances(trait: Array) -> Float[Array, "species species"]:
    columns = trait.reshape(trait.shape[0], -1)
    if jnp.issubdtype(trait.dtype, jnp.integer):
        return (columns[:, None] != columns[None]).sum(axis=-1).astype(jnp.float32)
    return jnp.linalg.norm(columns[:, None] - columns[None], axis=-1)


def _without(ranks: Float[Array, " m"], control: Float[Array, " m"]) -> Float[Array, " m"]:
    """What `control` (of norm 1, or zero) does not explain of `ranks`, of norm 1 again."""
    rest = ranks - (ranks @ control) * control
    norm = jnp.linalg.norm(rest)
    return jnp.where(norm > 1e-5, rest / jnp.maximum(norm, TINY), 0.0)


@jax.jit
def _mantel(
    embeddings: Float[Array, "species d"],
    traits: Array,
    control: Float[Array, "species species"],
    draws: Float[Array, "resamples species"],
) -> tuple[Array, Array]:
    first, second = np.triu_indices(embeddings.shape[0], 1)
    with jax.default_matmul_precision("highest"):
        unit = normalise(embeddings)
        known = _ranks(control[first, second])
        ours = _without(_ranks((1.0 - unit @ unit.T)[first, second]), known)

        def theirs(trait: Array) -> Array:
            return _without(_ranks(_distances(trait)[first, second]), known)

        values = jax.lax.map(lambda trait: ours @ theirs(trait), traits, batch_size=16)
        of_trait = theirs(traits[0])
        resampled = jax.lax.map(
            lambda counts: _correlation(ours, of_trait, counts[first] * counts[second]), draws, batch_size=16
        )
    return values, resampled


def _correlation(x: Float[Array, " m"], y: Float[Array, " m"], weights: Float[Array, " m"]) -> Float[Array, ""]:
    weights = weights / weights.sum()
    x, y = x - weights @ x, y - weights @ y
    return (weights @ (x * y)) / jnp.maximum(jnp.sqrt((weights @ x**2) * (weights @ y**2)), TINY)


def mantel(
    embeddings: np.ndarray,
    trait: np.ndarray,
    surrogates: np.ndarray,
    *,
    control: np.ndarray | None = None,
    draws: np.ndarray | None = None,
) -> Finding:
    """Spearman's correlation of two distances over pairs of species: of embeddings (cosine) and of a trait.

    With `control` both are ranked and freed of what the ranks of a third distance explain (partial Mantel; Smouse et
    al. 1986). In a resample a species that is drawn twice makes its pairs count twice and none with itself; ranks stay
    those of all species.

    Args:
        embeddings: float `[species, d]`, such as `species_means`.
        trait: float or int, `[species]` or `[species, traits]`.
        surrogates: `[permutations, *trait.shape]`, of `permutation`.
        control: float `[species, species]`, such as phylogenetic distance.
        draws: `draws_of_species`, for an interval.
    """
    traits = _checked(embeddings, trait, surrogates)
    species = len(embeddings)
    nothing = np.zeros((species, species), np.float32)
    values, resampled = _mantel(
        np.asarray(embeddings, np.float32),
        traits,
        nothing if control is None else np.asarray(control, np.float32),
        np.zeros((0, species), np.float32) if draws is None else np.asarray(draws, np.float32),
    )
    return _finding(np.asarray(values), np.asarray(resampled))


# Linear readout


@jax.jit
def _held_out(
    embeddings: Float[Array, "species d"], targets: Float[Array, "species columns"], trained: Bool[Array, " species"]
) -> Float[Array, "species columns"]:
    """Ridge regression learnt from the species in `trained`, its penalty for each column by leave-one-out there.

    In the eigenvectors of the Gram matrix, H = Q diag(e / (e + penalty)) Q^T, and the residual left out is
    r / (1 - h - 1/n) (Hastie, Tibshirani & Friedman, 7.52, with the intercept).
    """
    weights = trained.astype(embeddings.dtype)
    count = weights.sum()
    centred = embeddings - weights @ embeddings / count
    mean = weights @ targets / count
    known = (targets - mean) * weights[:, None]
    gram = centred @ centred.T
    eigenvalues, vectors = jnp.linalg.eigh(gram * weights[:, None] * weights[None])
    eigenvalues = jnp.maximum(eigenvalues, 0.0)
    rotated = vectors.T @ known

    def one(penalty: float) -> tuple[Array, Array]:
        inverse = 1.0 / (eigenvalues + penalty * jnp.maximum(eigenvalues.sum() / count, TINY))
        leverage = (vectors**2) @ (eigenvalues * inverse) + 1.0 / count
        residual = known - vectors @ ((eigenvalues * inverse)[:, None] * rotated)
        error = weights @ (residual / jnp.maximum(1.0 - leverage, 1e-6)[:, None]) ** 2
        return error, gram @ (weights[:, None] * (vectors @ (inverse[:, None] * rotated)))

    errors, predictions = jax.lax.map(one, jnp.asarray(PENALTIES, embeddings.dtype))
    best = jnp.argmin(errors, axis=0)
    return mean + jnp.take_along_axis(predictions, best[None, None], axis=0)[0]


@partial(jax.jit, static_argnames="states")
def _readout(
    embeddings: Float[Array, "species d"],
    traits: Array,
    folds: Bool[Array, "folds species"],
    states: int,
) -> tuple[Float[Array, "traits species"], Float[Array, "traits species"]]:
    """Per trait and species: 1 where its state is named rightly, and 1; or the squared error, and that of the mean."""
    targets = jax.nn.one_hot(traits, states) if states else traits[..., None]
    columns = jnp.moveaxis(targets, 0, 1).reshape(embeddings.shape[0], -1)

    def fold(found: tuple[Array, Array], held: Array) -> tuple[tuple[Array, Array], None]:
        weights = (~held).astype(columns.dtype)
        new = _held_out(embeddings, columns, ~held), weights @ columns / weights.sum() + jnp.zeros_like(columns)
        return jax.tree.map(lambda old, part: jnp.where(held[:, None], part, old), found, new), None

    with jax.default_matmul_precision("highest"):
        start = (jnp.zeros_like(columns), jnp.zeros_like(columns))
        (found, mean), _ = jax.lax.scan(fold, start, folds)
    found, mean = (jnp.moveaxis(part.reshape(targets.shape[1], -1, targets.shape[2]), 1, 0) for part in (found, mean))
    if states:
        return (found.argmax(axis=-1) == traits).astype(jnp.float32), jnp.ones(traits.shape)
    return (found[..., 0] - traits) ** 2, (mean[..., 0] - traits) ** 2


def readout(
    embeddings: np.ndarray,
    trait: np.ndarray,
    surrogates: np.ndarray,
    clades: np.ndarray,
    *,
    draws: np.ndarray | None = None,
) -> Finding:
    """What a ridge regression from species' mean embeddings says of a trait in clades left out of its training.

    A continuous trait: R^2 = 1 - sum (y - y^)^2 / sum (y - m)^2, with m the mean of the training species of y's fold,
    so that a readout that knows nothing has 0 or less. States: balanced accuracy, the mean over states of the share of
    their species that is named rightly; a state that lives in one clade alone cannot be named there.

    Args:
        embeddings: float `[species, d]`.
        trait: float or int `[species]`.
        surrogates: `[permutations, species]`; they go through the same folds.
        clades: int `[species]`: each is left out once.
        draws: `draws_of_species`, for an interval.
    """
    traits = _checked(embeddings, trait, surrogates)
    if traits.ndim > 2:
        raise UserError("a readout is of one trait, not of several")
    names, place = np.unique(np.asarray(clades), return_inverse=True)
    if len(names) < 2:
        raise UserError("all species are of one clade; none can be left out")
    states = 0
    if traits.dtype == np.int32:
        states = len(np.unique(traits))
        traits = np.searchsorted(np.unique(traits), traits).astype(np.int32)
    folds = place[None] == np.arange(len(names))[:, None]
    good, base = (
        np.asarray(part, np.float64) for part in _readout(np.asarray(embeddings, np.float32), traits, folds, states)
    )

    def statistic(good: np.ndarray, base: np.ndarray, states_of: np.ndarray, counts: np.ndarray) -> np.ndarray:
        if not states:
            return 1.0 - (counts @ good) / np.maximum(counts @ base, TINY)
        members = (states_of[:, None] == np.arange(states)).astype(np.float64)
        shown = counts @ members
        recall = np.divide(counts @ (good[:, None] * members), shown, out=np.full_like(shown, np.nan), where=shown > 0)
        return np.nanmean(recall, axis=1)

    ones = np.ones((1, len(embeddings)))
    values = [statistic(*row, ones)[0] for row in zip(good, base, traits, strict=True)]
    resampled = np.zeros(0) if draws is None or not len(draws) else statistic(good[0], base[0], traits[0], draws)
    return _finding(np.array(values), resampled)


# The first principal axis


@dataclass(frozen=True)
class Axis:
    """Where species lie on the first principal axis of their mean embeddings."""

    positions: np.ndarray
    """float64 `[species]`, turned so that they rise with the trait."""
    trait: np.ndarray
    """float64 `[species]`."""
    explained: float
    """The axis' share of the variance between species."""
    finding: Finding
    """Spearman's correlation of positions and trait; the null distribution is of its absolute value."""


@jax.jit
def _against_first(
    rows: Float[Array, "rows species"], draws: Float[Array, "resamples species"]
) -> tuple[Float[Array, " rows-1"], Float[Array, " resamples"]]:
    """Spearman's correlation of every row with the first one; and that of the second, in every resample."""
    ranks = jax.vmap(_ranks)(rows)
    return ranks[1:] @ ranks[0], jax.vmap(_correlation, (None, None, 0))(ranks[0], ranks[1], draws)


def first_axis(
    embeddings: np.ndarray, trait: np.ndarray, surrogates: np.ndarray, *, draws: np.ndarray | None = None
) -> Axis:
    """Spearman's correlation of a continuous trait with the first principal axis of the species' mean embeddings.

    An axis has no direction, so its absolute value is tested. Resamples keep the axis, its direction and the ranks.

    Args:
        embeddings: float `[species, d]`.
        trait: float `[species]`.
        surrogates: float `[permutations, species]`.
        draws: `draws_of_species`, for an interval.
    """
    traits = _checked(embeddings, trait, surrogates)
    centred = np.asarray(embeddings, np.float64) - np.mean(embeddings, axis=0, dtype=np.float64)
    left, singular, _ = np.linalg.svd(centred, full_matrices=False)
    positions = left[:, 0] * singular[0]
    counts = np.zeros((0, len(positions))) if draws is None else draws
    rows = np.concatenate([positions[None], traits]).astype(np.float32)
    correlations, again = (np.asarray(part, np.float64) for part in _against_first(rows, counts.astype(np.float32)))
    sign = -1.0 if correlations[0] < 0 else 1.0
    explained = float(singular[0] ** 2 / max(float((singular**2).sum()), TINY))
    return Axis(
        sign * positions, np.asarray(trait, np.float64), explained, _finding(np.abs(correlations), sign * again)
    )
