"""Intra-species variation: does what tells variants of a species apart lie across what tells species apart?

The BioCLIP 2 paper names an explained-variance ratio (falling with scale) and a Fisher discriminant ratio (rising);
its exact formulas are not public. These are **our operational definitions**. With m_sv the mean feature of variant v of
species s, c_s = (m_s0 + m_s1) / 2 the species' centre, U_k the first k right singular vectors of the centred c, and
d_s = m_s1 - m_s0:

    explained variance   rho = mean over s of |U_k^T d_s|^2 / |d_s|^2; the variants' differences inside the species'
                         span. Noise in the means adds noise's own share of the span; freed of it,
                         sum_s (|U_k^T d_s|^2 - noise_U) / sum_s (|d_s|^2 - noise), where noise = tr S_0 / n_0 +
                         tr S_1 / n_1 with unbiased covariances (what all pairs of split halves give on average)
    Fisher ratio         mean over s of |m_s1 - m_s0|^2 / (tr S_s0 + tr S_s1), with biased covariances, or, between over
                         within, sum_v n_v |m_sv - m_s|^2 / sum |x - m_sv|^2 (Fisher 1936, traces for variances)
    overlap              |U_k^T V_m|_F^2 / min(k, m), the mean squared cosine of the principal angles between the span
                         of species' differences and V_m, that of the d_s (Bjorck & Golub 1973); 1 less it is often
                         called orthogonality

The centre weighs variants alike, so that noise in c_s and d_s is uncorrelated where variants have as many photos.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.bootstrap import interval
from bioclip_jax.evaluation.emergence.alignment import TINY, Finding
from bioclip_jax.evaluation.emergence.permutation import p_value, within_clades

ENERGY = 0.9
FEWEST_PHOTOS = 2
MOST_SPANS = 200
"""Resamples whose span is computed anew: each is an eigenvalue problem."""


@dataclass(frozen=True)
class Variants:
    """The means of two variants of every species that has enough photos of both, and the spread around them."""

    species: np.ndarray
    """int64 `[s]`: which species these are."""
    means: np.ndarray
    """float64 `[s, 2, d]`."""
    counts: np.ndarray
    """int64 `[s, 2]`: photos."""
    residuals: np.ndarray
    """float64 `[photos, d]`: photos less the mean of their species and variant."""
    group: np.ndarray
    """int64 `[photos]`: 2 * place in `species` + variant."""
    left_out: int
    """Species with too few photos of a variant."""

    @classmethod
    def of(
        cls, features: np.ndarray, species: np.ndarray, variant: np.ndarray, fewest: int = FEWEST_PHOTOS
    ) -> Variants:
        """Groups photos.

        Args:
            features: float `[n, d]`; they are L2-normalised here.
            species: int `[n]`.
            variant: int `[n]`, 0 or 1; -1 (not known) takes no part.
            fewest: photos that a variant of a species needs, at least 2.

        Raises:
            UserError: features are not finite, labels are of another shape or value, or fewer than 2 species are left.
        """
        features, species, variant = np.asarray(features, np.float64), np.asarray(species), np.asarray(variant)
        if features.ndim != 2 or species.shape != (len(features),) or variant.shape != (len(features),):
            raise UserError(
                f"features {list(features.shape)}, species {list(species.shape)} and variants {list(variant.shape)} "
                "do not belong together; features are [n, d], the others [n]"
            )
        if not np.isfinite(features).all():
            raise UserError("features of photos are NaN or infinite")
        if not np.isin(variant, (-1, 0, 1)).all():
            raise UserError(f"variants are 0, 1 or -1 (not known), not {np.setdiff1d(variant, (-1, 0, 1))[0]}")
        features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), TINY)
        names = np.unique(species)
        counts = np.stack([[np.sum((species == s) & (variant == v)) for v in (0, 1)] for s in names]).reshape(-1, 2)
        kept = np.flatnonzero((counts >= max(fewest, FEWEST_PHOTOS)).all(axis=1))
        if len(kept) < 2:
            raise UserError(f"{len(kept)} of {len(names)} species have {fewest} photos of both variants; 2 are needed")
        place = np.full(len(names), -1)
        place[kept] = np.arange(len(kept))
        of_photo = place[np.searchsorted(names, species)]
        used = (of_photo >= 0) & (variant >= 0)
        group = 2 * of_photo[used] + variant[used]
        sums = np.zeros((2 * len(kept), features.shape[1]))
        np.add.at(sums, group, features[used])
        means = sums / counts[kept].reshape(-1, 1)
        return cls(
            names[kept], means.reshape(len(kept), 2, -1), counts[kept], features[used] - means[group], group,
            len(names) - len(kept),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.species)

    @property
    def centres(self) -> np.ndarray:
        """float64 `[s, d]`."""
        return self.means.mean(axis=1)

    @property
    def differences(self) -> np.ndarray:
        """float64 `[s, d]`: variant 1 less variant 0."""
        return self.means[:, 1] - self.means[:, 0]

    def scatter(self, basis: np.ndarray | None = None) -> np.ndarray:
        """Sum of squared residuals (inside the span of `basis` `[d, k]`): float64 `[s, 2]`."""
        residuals = self.residuals if basis is None else self.residuals @ basis
        return np.bincount(self.group, (residuals**2).sum(axis=1), 2 * len(self)).reshape(-1, 2)

    def noise(self, basis: np.ndarray | None = None) -> np.ndarray:
        """What noise adds to the squared length of each difference, on average: float64 `[s]`."""
        return (self.scatter(basis) / (self.counts - 1) / self.counts).sum(axis=1)


def span(vectors: np.ndarray, directions: int | None = None, *, centre: bool = True) -> np.ndarray:
    """Orthonormal basis of the main directions of vectors `[s, d]`: float64 `[d, k]`.

    Args:
        vectors: the rows, such as species' centres.
        directions: k; None takes the fewest that hold 90 % of the energy (squared singular values).
        centre: subtract the mean first: differences between species, and not what all of them share.
    """
    vectors = np.asarray(vectors, np.float64)
    _, singular, right = np.linalg.svd(vectors - vectors.mean(axis=0) if centre else vectors, full_matrices=False)
    rank = int((singular > 1e-9 * max(singular[0], TINY)).sum())
    if not rank:
        raise UserError("there is no difference to span a space: all vectors are the same")
    if directions is None:
        energy = np.cumsum(singular**2) / (singular**2).sum()
        directions = int(np.searchsorted(energy, ENERGY - 1e-12)) + 1
    return right[: min(directions, rank)].T


def _resampled(values: np.ndarray, weights: np.ndarray, draws: np.ndarray | None) -> np.ndarray:
    """Sum of `values` over sum of `weights`, both `[s]`, in every resample; NaN where the latter is not above 0."""
    if draws is None or not len(draws):
        return np.zeros(0)
    below = draws @ weights
    return np.divide(draws @ values, below, out=np.full(len(draws), np.nan), where=below > 0)


@partial(jax.jit, static_argnames=("permutations", "species"))
def _random_directions(
    key: Array, root: Float[Array, "d d"], basis: Float[Array, "d k"], permutations: int, species: int
) -> Float[Array, " permutations"]:
    def one(key: Array) -> Array:
        drawn = jax.random.normal(key, (species, root.shape[0])) @ root
        return (((drawn @ basis) ** 2).sum(axis=1) / jnp.maximum((drawn**2).sum(axis=1), TINY)).mean()

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, jax.random.split(key, permutations), batch_size=8)


def _root_of_residuals(variants: Variants) -> np.ndarray:
    """R `[d, d]` with R^T R the covariance within species and variant: g @ R is drawn from it."""
    covariance = (
        variants.residuals.T @ variants.residuals / max(len(variants.residuals) - variants.means[..., 0].size, 1)
    )
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return (np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * vectors.T).astype(np.float32)


@dataclass(frozen=True)
class ExplainedVariance:
    """How much of the variants' differences lies in the span of the species' differences."""

    directions: int
    """k."""
    dimensions: int
    """d."""
    isotropic: Finding
    """rho; by chance, for directions that are alike in all dimensions: its mean is k / d."""
    residual: Finding
    """rho; by chance, for directions drawn from the covariance within species and variant."""
    corrected: Finding
    """Freed of noise, as a ratio of sums; NaN where noise is all there is. No null distribution of its own."""


def explained_variance(
    variants: Variants,
    directions: int | None = None,
    *,
    prototypes: np.ndarray | None = None,
    permutations: int = 999,
    seed: int = 0,
    draws: np.ndarray | None = None,
) -> ExplainedVariance:
    """rho, with two null distributions; p-values are the share of them that is as small or smaller.

    Resamples of species keep the span.

    Args:
        variants: of the photos.
        directions: k; None for 90 % of the energy.
        prototypes: what spans the species' differences, float `[s, d]`, such as text features; their centres if None.
        permutations: draws of the null distributions.
        seed: of them.
        draws: `draws_of_species(len(variants), ...)`, for intervals.
    """
    basis = span(variants.centres if prototypes is None else prototypes, directions)
    delta = variants.differences
    inside, whole = ((delta @ basis) ** 2).sum(axis=1), (delta**2).sum(axis=1)
    if (whole < TINY**2).any():
        raise UserError("the variants of a species have the same mean; there is no direction between them")
    ratio, ones = inside / whole, np.ones(len(variants))
    bounds = interval(_resampled(ratio, ones, draws))
    value = float(ratio.mean())
    nulls = []
    for place, root in enumerate((np.eye(len(basis), dtype=np.float32), _root_of_residuals(variants))):
        key = jax.random.fold_in(jax.random.key(seed), place)
        null = _random_directions(key, root, basis.astype(np.float32), permutations, len(variants))
        nulls.append(np.asarray(null, np.float64))
    isotropic, residual = (Finding(value, null, p_value(-value, -null), bounds.low, bounds.high) for null in nulls)
    above, below = inside - variants.noise(basis), whole - variants.noise()
    known = below.sum() > 0
    free = interval(_resampled(above, below, draws))
    corrected = Finding(
        float(above.sum() / below.sum()) if known else float("nan"), np.zeros(0), float("nan"), free.low, free.high
    )
    return ExplainedVariance(basis.shape[1], len(basis), isotropic, residual, corrected)


@partial(jax.jit, static_argnames="species")
def _fisher(
    centred: Float[Array, "photos d"], place: Int[Array, " photos"], labels: Int[Array, "rows photos"], species: int
) -> tuple[Float[Array, "rows species"], Float[Array, "rows species"]]:
    """Both forms of the ratio of every species, under every row of labels 0 and 1."""
    squares = (centred**2).sum(axis=1)
    total = jax.ops.segment_sum(squares, place, species)

    def one(labels: Array) -> tuple[Array, Array]:
        sums = jax.ops.segment_sum(centred, 2 * place + labels, 2 * species).reshape(species, 2, -1)
        counts = jax.ops.segment_sum(jnp.ones_like(squares), 2 * place + labels, 2 * species).reshape(species, 2)
        means = sums / jnp.maximum(counts, 1)[..., None]
        inside = jax.ops.segment_sum(squares, 2 * place + labels, 2 * species).reshape(species, 2)
        within = jnp.maximum(inside - counts * (means**2).sum(axis=-1), 0.0)
        apart = ((means[:, 1] - means[:, 0]) ** 2).sum(axis=-1)
        scatter = jnp.maximum(within.sum(axis=1), TINY)
        return apart / jnp.maximum((within / counts).sum(axis=1), TINY), (total - scatter) / scatter

    return jax.lax.map(one, labels, batch_size=4)


def fisher_ratio(
    variants: Variants, *, permutations: int = 199, seed: int = 0, draws: np.ndarray | None = None
) -> tuple[Finding, Finding]:
    """Fisher's ratio of the two variants, mean over species: as |m1 - m0|^2 / (tr S0 + tr S1), and as between / within.

    The null distribution exchanges variants among the photos of a species; its mean is not 0, since the means of few
    photos differ by noise.

    Args:
        variants: of the photos.
        permutations: of the null distribution.
        seed: of them.
        draws: `draws_of_species(len(variants), ...)`, for intervals.
    """
    place = variants.group // 2
    centres = np.zeros((len(variants), variants.means.shape[-1]))
    photos = variants.residuals + variants.means.reshape(-1, centres.shape[1])[variants.group]
    np.add.at(centres, place, photos)
    centred = photos - (centres / np.bincount(place)[:, None])[place]
    labels = (variants.group % 2).astype(np.int32)
    rows = np.concatenate([labels[None], labels[within_clades(place, permutations, seed)]])
    ratios = _fisher(centred.astype(np.float32), place.astype(np.int32), rows, len(variants))
    findings = []
    for ratio in ratios:
        of_species = np.asarray(ratio, np.float64)
        values = of_species.mean(axis=1)
        bounds = interval(_resampled(of_species[0], np.ones(len(variants)), draws))
        findings.append(
            Finding(float(values[0]), values[1:], p_value(float(values[0]), values[1:]), bounds.low, bounds.high)
        )
    return findings[0], findings[1]


def principal_angles(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Angles between two spans, orthonormal bases `[d, k]` and `[d, m]`: float64 `[min(k, m)]` in radians, rising."""
    return np.arccos(np.clip(np.linalg.svd(first.T @ second, compute_uv=False), 0.0, 1.0))


@partial(jax.jit, static_argnames="directions")
def _overlaps(vectors: Float[Array, "rows s d"], basis: Float[Array, "d k"], directions: int) -> Float[Array, " rows"]:
    """|U^T V|_F^2 with V the main directions of each row's vectors, by whichever Gram matrix is smaller."""

    def one(rows: Array) -> Array:
        if rows.shape[0] < rows.shape[1]:
            values, left = jnp.linalg.eigh(rows @ rows.T)
            # Few distinct rows, as in a resample, span less: what is not there overlaps with nothing.
            there = values[-directions:] > 1e-6 * values[-1]
            scale = jnp.where(there, 1.0 / jnp.sqrt(jnp.where(there, values[-directions:], 1.0)), 0.0)
            right = (left.T @ rows)[-directions:].T * scale
        else:
            right = jnp.linalg.eigh(rows.T @ rows)[1][:, -directions:]
        return ((basis.T @ right) ** 2).sum()

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(one, vectors)


def overlap(
    variants: Variants,
    directions: int | None = None,
    variant_directions: int | None = None,
    *,
    permutations: int = 199,
    seed: int = 0,
    draws: np.ndarray | None = None,
) -> Finding:
    """Mean squared cosine of the principal angles between species' and variants' differences, from 0 to 1.

    The null distribution has as many differences drawn from the covariance within species and variant; the p-value is
    the share of it that is as small or smaller. For directions that are alike in all dimensions, chance is
    max(k, m) / d. Noise in the differences draws it towards the null distribution. Resamples of species keep the span
    of the species and draw the differences anew, at most 200 times; since they hold fewer different species, which span
    less, they are moved so that their mean is the value.

    Args:
        variants: of the photos.
        directions: k, of the species; None for 90 % of the energy.
        variant_directions: m, of the variants; None for 90 % of the energy.
        permutations: draws of the null distribution.
        seed: of them.
        draws: `draws_of_species(len(variants), ...)`, for an interval.
    """
    basis = span(variants.centres, directions)
    most = span(variants.differences, variant_directions, centre=False).shape[1]
    smaller = min(basis.shape[1], most)
    root = _root_of_residuals(variants)
    drawn = np.random.default_rng(seed).standard_normal((permutations, len(variants), len(root)), np.float32) @ root
    delta = variants.differences.astype(np.float32)
    rows = np.concatenate([delta[None], drawn])
    values = np.asarray(_overlaps(rows, basis.astype(np.float32), most), np.float64) / smaller
    value, null = float(values[0]), values[1:]
    low = high = float("nan")
    if draws is not None and len(draws):
        again = np.sqrt(draws[:MOST_SPANS]).astype(np.float32)[..., None] * delta
        resampled = np.asarray(_overlaps(again, basis.astype(np.float32), most), np.float64) / smaller
        bounds = interval(resampled - resampled.mean() + value)
        low, high = max(bounds.low, 0.0), min(bounds.high, 1.0)
    return Finding(value, null, p_value(-value, -null), low, high)
