"""Linear-dropout-linear probes of labels of 0 and 1: BioCLIP 2's protocol for FishNet and AwA2.

Two linear layers without a non-linearity, dropout between them, binary cross-entropy, Adam, and a learning rate that
falls in steps (`evaluation/fishnet.py` and `awa2.py` of the reference implementation). There, the classifier is never
put into evaluation mode, so dropout is active in the test, and a label is said where the *logit* is above 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.bootstrap import Bootstrap, interval
from bioclip_jax.evaluation.rows import Figure, Prediction
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples, task_figure
from bioclip_jax.evaluation.tasks.answers import checked, cluster_numbers

PROTOCOL = "probe"
DROPOUT = 0.5
THRESHOLDS = {"paper": 0.5, "corrected": 0.0}
"""Of logits: 0.5 is a probability of 0.62, 0 one of 0.5."""


class Weights(NamedTuple):
    """Of both layers; with a leading axis, of several probes."""

    hidden_weight: Float[Array, "d hidden"]
    hidden_bias: Float[Array, " hidden"]
    output_weight: Float[Array, "hidden labels"]
    output_bias: Float[Array, " labels"]


class Schedule(NamedTuple):
    """How a probe is trained."""

    learning_rate: float
    batch_size: int = 256
    epochs: int = 50
    step_epochs: int = 20
    step_factor: float = 0.5


_product = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames=("width", "hidden", "labels"))
def initial_weights(key: jax.Array, width: int, hidden: int, labels: int) -> Weights:
    """Uniform within 1 / sqrt(inputs of the layer), weights and biases: the distribution of PyTorch's `Linear`."""
    keys = jax.random.split(key, 4)

    def draw(key: jax.Array, shape: tuple[int, ...], inputs: int) -> jax.Array:
        return jax.random.uniform(key, shape, minval=-1, maxval=1) / np.sqrt(np.float32(inputs))

    return Weights(
        draw(keys[0], (width, hidden), width),
        draw(keys[1], (hidden,), width),
        draw(keys[2], (hidden, labels), hidden),
        draw(keys[3], (labels,), hidden),
    )


def _dropout_factors(key: jax.Array, rows: int, hidden: int) -> Float[Array, "rows hidden"]:
    """2 with probability 1/2, else 0: one random bit for each."""
    words = jax.random.bits(key, (rows, -(-hidden // 32)), jnp.uint32)
    bits = words[:, :, None] >> jnp.arange(32, dtype=jnp.uint32) & 1
    return bits.reshape(rows, -1)[:, :hidden].astype(jnp.float32) / DROPOUT


def _loss_and_gradient(
    weights: Weights, x: Float[Array, "b d"], y: Float[Array, "b labels"], valid: Bool[Array, " b"], factors: jax.Array
) -> tuple[Float[Array, ""], Weights]:
    """Mean binary cross-entropy over the valid rows and all labels, and its gradient, written out.

    On CPUs the largest product runs half as fast with an operand read across its rows, so that one is transposed first.
    """
    hidden = (_product(x, weights.hidden_weight) + weights.hidden_bias) * factors
    logits = _product(hidden, weights.output_weight) + weights.output_bias
    share = valid[:, None] / (valid.sum() * y.shape[1])
    loss = ((jax.nn.softplus(logits) - logits * y) * share).sum()
    at_logits = (jax.nn.sigmoid(logits) - y) * share
    at_hidden = _product(at_logits, weights.output_weight.T) * factors
    gradient = Weights(
        _product(jax.lax.optimization_barrier(x.T), at_hidden),
        at_hidden.sum(axis=0),
        _product(at_logits.T, hidden).T,
        at_logits.sum(axis=0),
    )
    return loss, gradient


@partial(jax.jit, static_argnames=("schedule", "dropout", "shuffle"))
def train(
    weights: Weights,
    x: Float[Array, "n d"],
    y: Float[Array, "n labels"],
    keys: jax.Array,
    *,
    schedule: Schedule,
    dropout: bool = True,
    shuffle: bool = True,
) -> tuple[Weights, Float[Array, "seeds steps"]]:
    """Trains one probe for each of `keys`.

    Args:
        weights: to start from, with a leading axis of seeds.
        x: features.
        y: labels, 0 or 1.
        keys: `[seeds]`, of batches and dropout.
        schedule: of learning.
        dropout: drop half of the hidden units in every step.
        shuffle: draw the rows' order anew in every epoch; else they stand as given. The last batch may be smaller.

    Returns:
        The weights, and the loss of every step.
    """
    batches = -(-len(x) // schedule.batch_size)
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)

    def step(state: tuple, rows: Int[Array, " b"], key: jax.Array, learning_rate: jax.Array) -> tuple:
        weights, moments = state
        valid = rows < len(x)
        rows = jnp.minimum(rows, len(x) - 1)
        hidden = weights.hidden_bias.shape[0]
        factors = _dropout_factors(key, len(rows), hidden) if dropout else jnp.ones(())
        loss, gradient = _loss_and_gradient(weights, x[rows], y[rows], valid, factors)
        updates, moments = adam.update(gradient, moments)
        weights = jax.tree.map(lambda weight, update: weight - learning_rate * update, weights, updates)
        return (weights, moments), loss

    def one_probe(start: tuple[Weights, jax.Array]) -> tuple[Weights, jax.Array]:
        weights, key = start

        def epoch(state: tuple, number: jax.Array) -> tuple:
            order_key, steps_key = jax.random.split(jax.random.fold_in(key, number))
            order = jax.random.permutation(order_key, len(x)) if shuffle else jnp.arange(len(x))
            order = jnp.pad(order, (0, batches * schedule.batch_size - len(x)), constant_values=len(x))
            rate = schedule.learning_rate * schedule.step_factor ** (number // schedule.step_epochs)
            inputs = order.reshape(batches, -1), jax.random.split(steps_key, batches)
            return jax.lax.scan(lambda state, given: step(state, *given, rate), state, inputs)

        numbers = jnp.arange(schedule.epochs)
        losses: jax.Array
        (weights, _), losses = jax.lax.scan(epoch, (weights, adam.init(weights)), numbers)
        return weights, losses.ravel()

    return _each_probe(one_probe, (weights, keys))


@partial(jax.jit, static_argnames="dropout")
def probe_logits(
    weights: Weights, x: Float[Array, "n d"], keys: jax.Array, *, dropout: bool
) -> Float[Array, "seeds n labels"]:
    """What trained probes say, with the hidden units dropped as in training, or all of them."""

    def one_probe(given: tuple[Weights, jax.Array]) -> jax.Array:
        weights, key = given
        hidden = _product(x, weights.hidden_weight) + weights.hidden_bias
        if dropout:
            hidden = hidden * _dropout_factors(key, *hidden.shape)
        return _product(hidden, weights.output_weight) + weights.output_bias

    return _each_probe(one_probe, (weights, keys))


def _each_probe(function: Callable[[Any], Any], inputs: Any) -> Any:
    """Probes at once on an accelerator; one after the other on CPUs, where products of batches of matrices are slow."""
    return jax.lax.map(function, inputs) if jax.default_backend() == "cpu" else jax.vmap(function)(inputs)


class LabelCounts(NamedTuple):
    """What an F1 score is made of, by label."""

    true_positives: np.ndarray
    positives: np.ndarray
    """Said and true ones together: 2 true positives + false positives + false negatives."""

    @classmethod
    def of(cls, true: np.ndarray, said: np.ndarray) -> LabelCounts:
        """Photo by photo, bool: `true` `[n, labels]`, `said` `[..., n, labels]`; both fields are `[..., n, labels]`."""
        return cls((said & true).astype(np.float64), said.astype(np.float64) + true)

    def f1(self) -> np.ndarray:
        """2 tp / (2 tp + fp + fn); 0 for a label that nothing has and nothing says (scikit-learn's zero_division=0)."""
        below = np.broadcast_to(self.positives, self.true_positives.shape)
        return np.divide(2 * self.true_positives, below, out=np.zeros(below.shape), where=below > 0)


def f1_scores(true: np.ndarray, said: np.ndarray) -> np.ndarray:
    """F1 of every label: float64 `[..., labels]` of `true` `[n, labels]` and `said` `[..., n, labels]`, bool."""
    counts = LabelCounts.of(true, said)
    return LabelCounts(counts.true_positives.sum(axis=-2), counts.positives.sum(axis=-2)).f1()


def _resampled_means(bootstrap: Bootstrap, values: np.ndarray) -> np.ndarray:
    """Means of `[n, figures]` in every resample; `[0, figures]` where there are none."""
    if not bootstrap.resamples:
        return np.zeros((0, values.shape[1]))
    return bootstrap.ratios(values, np.ones_like(values))


@dataclass(frozen=True)
class Probe:
    """Trained once for each seed, tested in both variants; figures are means over seeds.

    Variants: `paper` tests with dropout active and says a label where its logit is above 0.5 (main of the reference
    implementation), `paper v1` does so with the first seed only (its v1.0.0); `corrected` tests without dropout and
    says a label where its probability is above 0.5.

    Metrics: `exact_match`, all labels right (FishNet), and `label_accuracy`, the share of labels that are; or
    `f1_first2`, the mean F1 of the first two labels, and `macro_f1`, of all (AwA2: the published code's figure is
    `f1_first2`).
    """

    quick: ClassVar[bool] = False
    name: str
    train: str
    test: str
    column: str = "labels"
    metric: str = "exact_match"
    """`exact_match` or `f1`."""
    learning_rate: float = 1e-4
    hidden: int = 512
    batch_size: int = 256
    epochs: int = 50
    step_epochs: int = 20
    """The learning rate falls after so many epochs, by `step_factor`."""
    step_factor: float = 0.5
    seeds: tuple[int, ...] = (0, 1, 2)
    cluster_column: str = "class"
    """What the bootstrap draws, where there is no taxonomy; without such a column photos are drawn one by one."""

    def __post_init__(self) -> None:
        if self.metric not in ("exact_match", "f1"):
            raise UsageError(f"task {self.name}: metric {self.metric!r} is neither exact_match nor f1")
        if min(self.hidden, self.batch_size, self.epochs, self.step_epochs, len(self.seeds)) < 1:
            raise UsageError(f"task {self.name}: hidden, batch_size, epochs, step_epochs and seeds must be at least 1")

    @property
    def splits(self) -> tuple[str, ...]:
        """Both splits."""
        return (self.train, self.test)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Trains, and measures both variants."""
        train_part, labels = self._labelled(samples, self.train)
        test_part, true = self._labelled(samples, self.test)
        if labels.shape[1] != true.shape[1]:
            raise UserError(
                f"task {self.name}: split {self.train} has {labels.shape[1]} labels, {self.test} has {true.shape[1]}"
            )
        context.say(f"{self.name}: training {len(self.seeds)} probes on {len(labels)} photos")
        logits = self._logits(train_part.features, labels, test_part.features)
        found = Outcome()
        clusters = self._clusters(test_part)
        bootstrap = Bootstrap(cluster_numbers(clusters), resamples=context.resamples, seed=context.seed)
        said_by = {variant: values > THRESHOLDS[variant] for variant, values in logits.items()}
        said_by = {"paper": said_by["paper"], "paper v1": said_by["paper"][:1], "corrected": said_by["corrected"]}
        for variant, said in said_by.items():
            figures = self._exact_match if self.metric == "exact_match" else self._f1
            found.figures += figures(variant, true, said, bootstrap)
            found.predictions += self._predictions(variant, test_part, clusters, true, said)
        found.notes.append(f"{self.name}: paper: dropout is active in the test; a label is said where its logit > 0.5")
        found.notes.append(f"{self.name}: paper v1: the probe with seed {self.seeds[0]} alone")
        if self.metric == "f1":
            found.notes.append(f"{self.name}: paper: f1_first2 is the mean F1 of the first two labels only")
            found.notes += self._empty_labels(true, logits)
        return found

    def _labelled(self, samples: Mapping[str, TaskSamples], split: str) -> tuple[TaskSamples, np.ndarray]:
        part = checked(self.name, samples, split, self.column)
        labels = np.asarray(part.columns[self.column])
        if labels.ndim != 2 or not labels.shape[1] or not np.isin(labels, (0, 1)).all():
            raise UserError(
                f"task {self.name}: labels {self.column!r} of split {split} must be 0 or 1, photos by labels; "
                f"they are {labels.dtype} of shape {labels.shape}"
            )
        return part, labels.astype(bool)

    def _logits(self, x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> dict[str, np.ndarray]:
        """By variant: float32 `[seeds, n, labels]`."""
        if x.shape[1] != x_test.shape[1]:
            raise UserError(f"task {self.name}: features are {x.shape[1]} wide in training, {x_test.shape[1]} in test")
        keys = jnp.stack([jax.random.split(jax.random.key(seed), 3) for seed in self.seeds])
        start = jax.vmap(lambda key: initial_weights(key, x.shape[1], self.hidden, y.shape[1]))(keys[:, 0])
        schedule = Schedule(self.learning_rate, self.batch_size, self.epochs, self.step_epochs, self.step_factor)
        weights, _ = train(start, x, y.astype(np.float32), keys[:, 1], schedule=schedule)
        logits = {
            variant: np.asarray(probe_logits(weights, x_test, keys[:, 2], dropout=variant == "paper"))
            for variant in THRESHOLDS
        }
        if not all(np.isfinite(values).all() for values in logits.values()):
            raise UserError(f"task {self.name}: training diverged at learning rate {self.learning_rate}")
        return logits

    def _clusters(self, part: TaskSamples) -> tuple[str, ...]:
        if part.taxa or self.cluster_column in part.columns:
            return part.clusters(self.cluster_column)
        return ("",) * len(part)

    def _figure(self, variant: str, metric: str, true: np.ndarray, by_seed: np.ndarray, bootstrap: Bootstrap) -> Figure:
        spread = float(by_seed.std()) if len(by_seed) > 1 else None
        return task_figure(
            self,
            PROTOCOL,
            variant,
            metric,
            rank=self.column,
            value=round(float(by_seed.mean()), 12),
            spread=spread,
            samples=len(true),
            classes=true.shape[1],
            clusters=bootstrap.clusters,
        )

    def _exact_match(self, variant: str, true: np.ndarray, said: np.ndarray, bootstrap: Bootstrap) -> list[Figure]:
        """And the accuracy of single labels, of which each may be right without the others."""
        _, sizes = np.unique(true, axis=0, return_counts=True)
        positive = true.mean(axis=0)
        figures = []
        for metric, right, chance, majority in (
            ("exact_match", (said == true).all(axis=2), 0.5 ** true.shape[1], sizes.max() / len(true)),
            ("label_accuracy", (said == true).mean(axis=2), 0.5, np.maximum(positive, 1 - positive).mean()),
        ):
            figure = self._figure(variant, metric, true, right.mean(axis=1), bootstrap)
            bounds = interval(_resampled_means(bootstrap, right.mean(axis=0)[:, None]))
            figure = replace(figure, low=bounds.low, high=bounds.high, chance=chance, majority=float(majority))
            figures.append(figure)
        return figures

    def _f1(self, variant: str, true: np.ndarray, said: np.ndarray, bootstrap: Bootstrap) -> list[Figure]:
        """Intervals resample both counts of every label; that they are means, not sums, cancels in F1."""
        counts = LabelCounts.of(true, said)
        by_label = f1_scores(true, said)
        flat = [values.transpose(1, 0, 2).reshape(len(true), -1) for values in counts]
        drawn = LabelCounts(*(_resampled_means(bootstrap, values) for values in flat))
        resampled = drawn.f1().reshape(-1, *by_label.shape)
        figures = []
        for metric, labels in (("f1_first2", slice(0, 2)), ("macro_f1", slice(None))):
            figure = self._figure(variant, metric, true, by_label[:, labels].mean(axis=1), bootstrap)
            bounds = interval(resampled[:, :, labels].mean(axis=(1, 2)))
            figures.append(replace(figure, low=bounds.low, high=bounds.high))
        return figures

    def _empty_labels(self, true: np.ndarray, logits: Mapping[str, np.ndarray]) -> list[str]:
        lines = []
        for variant, values in logits.items():
            empty = ~true.any(axis=0) & ~(values > THRESHOLDS[variant]).any(axis=1)
            if count := int(empty.any(axis=0).sum()):
                lines.append(
                    f"{self.name}: {variant}: {count} of {true.shape[1]} labels count as F1 = 0 in some seed, "
                    "because no test photo has them and none was said to"
                )
        return lines

    def _predictions(
        self, variant: str, part: TaskSamples, clusters: tuple[str, ...], true: np.ndarray, said: np.ndarray
    ) -> list[Prediction]:
        """Labels as a text of 0s and 1s, as most seeds said; where F1 is measured, `correct` is the share of labels."""
        right = said == true
        correct = right.all(axis=2).mean(axis=0) if self.metric == "exact_match" else right.mean(axis=(0, 2))
        most = said.mean(axis=0) > 0.5
        texts = ["".join(row) for row in np.where(true, "1", "0")], ["".join(row) for row in np.where(most, "1", "0")]
        return [
            Prediction(
                learner="model",
                protocol=PROTOCOL,
                variant=variant,
                split=self.name,
                rank=self.column,
                key=part.keys[row],
                cluster=clusters[row],
                true=texts[0][row],
                predicted=texts[1][row],
                correct=float(correct[row]),
                score=None,
            )
            for row in range(len(part))
        ]
