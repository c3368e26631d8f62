"""NeWT's protocol: for every task a random search over support vector machines, as the BioCLIP 2 evaluation runs it.

A task has photos of two classes. Its features are centred by the mean of the training rows and normalised. 100
candidates (C, gamma, kernel) are scored by the accuracy over five stratified folds, each standardised by its own
training rows; the best is fitted to all training rows and answers the test rows. This is scikit-learn's
`RandomizedSearchCV(make_pipeline(StandardScaler(), SVC()), n_iter=100, cv=5)`, candidate by candidate and fold by fold
(tasks: Van Horn et al. 2021; protocol: the reference implementation's `evaluation/newt.py`).

All candidates of a fold share one matrix of inner products, of which every kernel is a function.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.cache import digest
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.evaluation.scores import Scores
from bioclip_jax.evaluation.task import Context, Outcome, TaskSamples, task_figure
from bioclip_jax.evaluation.tasks.answers import Answers, SharedClasses, checked, cluster_numbers, prediction_rows
from bioclip_jax.evaluation.tasks.svm import KERNELS, Machines, fit, kernel_values

PROTOCOL = "svm_search"
VERSION = 1
"""Of what is kept in the cache."""
FOLDS = 5
COSTS = (1e-3, 1e1)
GAMMAS = (1e-4, 1e-3)
ROWS_STEP, ROWS_LEAST = 32, 128
"""Training rows are padded to a multiple, so that tasks share compiled programs."""


@dataclass(frozen=True)
class Candidates:
    """What a search tries: arrays `[n]`."""

    cost: np.ndarray
    gamma: np.ndarray
    kernel: np.ndarray
    """int64, places in `KERNELS`."""


def draw_candidates(seed: int, count: int = 100) -> Candidates:
    """scikit-learn's `ParameterSampler`: per candidate C and gamma log-uniform, then the kernel, from one stream."""
    stream = np.random.RandomState(seed)
    drawn = []
    for _ in range(count):
        cost, gamma = (np.exp(stream.uniform(np.log(low), np.log(high))) for low, high in (COSTS, GAMMAS))
        drawn.append((cost, gamma, stream.randint(len(KERNELS))))
    costs, gammas, kernels = zip(*drawn, strict=True)
    return Candidates(np.array(costs), np.array(gammas), np.array(kernels, np.int64))


def stratified_folds(labels: np.ndarray, folds: int = FOLDS) -> np.ndarray:
    """The fold that holds out each row, int64 `[n]`: scikit-learn's `StratifiedKFold` without shuffling.

    A fold's share of a class is what it gets when the sorted labels are dealt out in turn; classes sort by their first
    row. Shares go to the rows of the class in their order.
    """
    _, first, number = np.unique(labels, return_index=True, return_inverse=True)
    number = np.argsort(np.argsort(first))[number]
    dealt = np.sort(number)
    result = np.empty(len(labels), np.int64)
    for label in range(len(first)):
        shares = [np.count_nonzero(dealt[fold::folds] == label) for fold in range(folds)]
        result[number == label] = np.repeat(np.arange(folds), shares)
    return result


def centre_and_normalise(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtracts the mean of the training rows and gives every row length 1, in float32 as the reference does."""
    centre = train.mean(axis=0)
    both = [rows - centre for rows in (train, test)]
    norms = [np.linalg.norm(rows, axis=1, keepdims=True) for rows in both]
    tiny = np.float32(np.finfo(np.float32).tiny)
    first, second = (rows / np.maximum(norm, tiny) for rows, norm in zip(both, norms, strict=True))
    return first, second


def cannot_search(labels: np.ndarray) -> str:
    """Why scikit-learn's search would fail on training labels `[n]`, or ''."""
    _, sizes = np.unique(labels, return_counts=True)
    if len(sizes) != 2:
        return f"{len(sizes)} classes in training, not two"
    if sizes.max() < FOLDS:
        return f"no class has {FOLDS} training photos"
    if sizes.min() < 2:
        return "a class has a single training photo"
    return ""


@dataclass(frozen=True)
class Found:
    """What searches found on one task; the first axis is the search."""

    fold_scores: np.ndarray
    """float64 `[searches, candidates, folds]`: accuracy on the rows held out."""
    best: np.ndarray
    """int64 `[searches]`: the first candidate with the best mean."""
    decision: np.ndarray
    """float64 `[searches, m]` of the test rows; positive for the class that sorts last."""
    unsolved: int
    """Machines whose solver did not come to an end."""

    @property
    def predicted(self) -> np.ndarray:
        """bool `[searches, m]`, true for the class that sorts last; on the border that one too, as libsvm has it."""
        return self.decision >= 0


def search(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    searches: Sequence[Candidates],
    *,
    tolerance: float = 1e-3,
) -> Found:
    """Runs searches on one task.

    Args:
        train: float32 `[n, d]`, centred and normalised.
        labels: bool `[n]`, true for the class that sorts last; such that `cannot_search` finds nothing.
        test: float32 `[m, d]`, likewise.
        searches: with as many candidates each.
        tolerance: of the solver, scikit-learn's default.
    """
    # libsvm sorts rows by class and takes the last of equal ones; see `fit`.
    order = np.lexsort((np.arange(len(labels)), labels))[::-1]
    fold, labels = stratified_folds(labels)[order], labels[order]
    missing = max(ROWS_LEAST, -(-len(labels) // ROWS_STEP) * ROWS_STEP) - len(labels)
    features = np.pad(train[order], ((0, missing), (0, 0)))
    holds_out = np.pad(fold == np.arange(FOLDS + 1)[:, None], ((0, 0), (0, missing)))  # the last: nothing
    signs = np.pad(np.where(labels, -1.0, 1.0), (0, missing)) * ~holds_out
    cost, gamma, kernel = (
        np.concatenate([getattr(candidates, name) for candidates in searches]) for name in ("cost", "gamma", "kernel")
    )
    with jax.enable_x64(True):
        features = jax.device_put(features, _host())
        products = _inner_products(features, signs != 0)
        which, out = (grid.ravel() for grid in np.meshgrid(np.arange(len(kernel)), np.arange(FOLDS), indexing="ij"))
        tried = fit(products, signs, Machines(kernel[which], cost[which], gamma[which], out), tolerance=tolerance)
        right = ((tried.decision[:, : len(labels)] <= 0) == labels) & holds_out[out, : len(labels)]
        scores = (right.sum(axis=1) / holds_out[out].sum(axis=1)).reshape(len(searches), -1, FOLDS)
        best = scores.mean(axis=-1).argmax(axis=1)
        which = best + np.arange(len(searches)) * scores.shape[1]
        everything = np.full(len(which), FOLDS)
        chosen = fit(
            products, signs, Machines(kernel[which], cost[which], gamma[which], everything), tolerance=tolerance
        )
        asked = np.pad(test, ((0, -len(test) % ROWS_LEAST), (0, 0)))
        decision = _decide(
            features, signs[-1] != 0, asked, kernel[which], gamma[which], chosen.multipliers, chosen.bias
        )
        decision = -np.asarray(decision)[:, : len(test)]
    unsolved = int((~tried.solved).sum() + (~chosen.solved).sum())
    return Found(scores, best, decision, unsolved)


def _host() -> jax.Device:
    """The CPU: the solver takes many short steps in float64, which accelerators are slow at, or lack."""
    with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS can leave it out
        return jax.local_devices(backend="cpu")[0]
    return jax.local_devices()[0]


def _standardise(
    rows: Float[Array, "m d"], train: Float[Array, "n d"], member: Bool[Array, " n"]
) -> Float[Array, "m d"]:
    """By mean and deviation of the `member` rows of `train`; a constant column is not scaled.

    As in scikit-learn, statistics are float64, standardised rows of float32 features are float32, and constant is a
    variance within the rounding of its own computation.
    """
    count = member.sum()
    member = member.astype(jnp.float64)
    train = train.astype(jnp.float64)
    mean = (member @ train) / count
    variance = (member @ (train - mean) ** 2) / count
    eps = np.finfo(np.float64).eps
    constant = variance <= count * eps * variance + (count * mean * eps) ** 2
    scale = jnp.where(constant, 1.0, jnp.sqrt(variance))
    centred = jax.lax.reduce_precision(rows.astype(jnp.float64) - mean, 8, 23)
    return jax.lax.reduce_precision(centred / scale, 8, 23)


@jax.jit
def _inner_products(features: Float[Array, "n d"], members: Bool[Array, "sets n"]) -> Float[Array, "sets n n"]:
    """Of all rows, standardised by the members."""

    def one(member: Bool[Array, " n"]) -> Float[Array, "n n"]:
        rows = _standardise(features, features, member)
        return jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST)

    return jax.lax.map(one, members)


@jax.jit
def _decide(
    train: Float[Array, "n d"],
    member: Bool[Array, " n"],
    test: Float[Array, "m d"],
    kernel: Int[Array, " p"],
    gamma: Float[Array, " p"],
    multipliers: Float[Array, "p n"],
    bias: Float[Array, " p"],
) -> Float[Array, "p m"]:
    """What machines that were fitted to the members of `train` decide on `test`."""
    known, asked = (_standardise(rows, train, member) for rows in (train, test))
    products = jnp.matmul(asked, known.T, precision=jax.lax.Precision.HIGHEST)
    asked_norms, known_norms = ((rows**2).sum(axis=1) for rows in (asked, known))

    def one(machine: tuple[jax.Array, ...]) -> Float[Array, " m"]:
        kernel, gamma, multipliers, bias = machine
        return kernel_values(kernel, products, asked_norms, known_norms, gamma) @ multipliers + bias

    return jax.lax.map(one, (kernel, gamma, multipliers, bias))


@dataclass(frozen=True)
class SVMSearch:
    """Accuracy over the test photos of many tasks of two classes, each with its own support vector machine.

    `micro_accuracy` weighs photos alike, as the reference does; `macro_accuracy` is the mean of the tasks' accuracies.

    Variants: `paper` is the mean of searches with several seeds (main of the reference implementation), `paper v1` the
    search with the first seed (its v1.0.0). Where photos have `group_column`, also by group of tasks.
    """

    quick: ClassVar[bool] = False
    name: str
    train: str
    test: str
    column: str = "label"
    """Two classes within each task."""
    task_column: str = "task"
    group_column: str = "cluster"
    """Groups of tasks: figures of each are given where there is such a column."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the candidates."""
    candidates: int = 100

    @property
    def splits(self) -> tuple[str, ...]:
        """Both splits."""
        return (self.train, self.test)

    def measure(self, samples: Mapping[str, TaskSamples], context: Context) -> Outcome:
        """Accuracies of both variants."""
        if not self.seeds or self.candidates < 1:
            raise UserError(f"task {self.name}: at least one seed and one candidate are needed")
        for split in self.splits:
            checked(self.name, samples, split, self.task_column)
        train = checked(self.name, samples, self.train, self.column)
        test = checked(self.name, samples, self.test, self.column)
        if self.group_column in test.columns:
            checked(self.name, samples, self.test, self.group_column)
        shared = SharedClasses.of(self.name, train, test, self.column)
        tasks, left_out = self._tasks(train, test, shared)
        found = Outcome(notes=[*shared.notes, *_shortages(self.name, left_out)])
        if not tasks:
            raise UserError(f"task {self.name}: nothing can be measured; {'; '.join(found.notes)}")
        predicted = np.full((len(self.seeds), len(test)), -1, np.int64)
        searches = [draw_candidates(seed, self.candidates) for seed in self.seeds]
        unsolved = 0
        for turn, (known, asked) in enumerate(tasks.values()):
            if turn % 10 == 0:
                context.say(f"{self.name}: support vector machines, task {turn + 1} of {len(tasks)}")
            low, high = np.unique(shared.train[known])
            features = centre_and_normalise(train.unit_features[known], test.unit_features[asked])
            result = self._search(features, shared.train[known] == high, searches, context)
            predicted[:, asked] = np.where(result.predicted, high, low)
            unsolved += result.unsolved
        if unsolved:
            found.notes.append(f"{self.name}: the solver of {unsolved} support vector machines did not converge")
        self._report(found, test, shared, predicted, sum(map(len, left_out.values())), context)
        found.notes += [
            f"{self.name}: paper: seeds draw candidates only; of equal candidates the first drawn is taken, and many "
            "are equal: with small gamma and C they answer the larger class",
            f"{self.name}: paper v1: the search with seed {self.seeds[0]} alone",
        ]
        return found

    def _tasks(
        self, train: TaskSamples, test: TaskSamples, shared: SharedClasses
    ) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, list[str]]]:
        """Rows of training and test by task, and the tasks that cannot be measured by reason."""
        of_train, of_test = (np.array([str(v) for v in part.columns[self.task_column]]) for part in (train, test))
        tasks: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        left_out: dict[str, list[str]] = {}
        for task in dict.fromkeys([*of_train.tolist(), *of_test.tolist()]):
            known = np.flatnonzero((of_train == task) & (shared.train >= 0))
            asked = np.flatnonzero((of_test == task) & (shared.test >= 0))
            why = cannot_search(shared.train[known]) if task else "photos name no task"
            if not len(asked):
                why = why or "no test photos"
            if why:
                left_out.setdefault(why, []).append(task)
            else:
                tasks[task] = known, asked
        return tasks, left_out

    def _search(
        self,
        features: tuple[np.ndarray, np.ndarray],
        labels: np.ndarray,
        searches: Sequence[Candidates],
        context: Context,
    ) -> Found:
        """From the cache, or into it."""
        key = digest(PROTOCOL, VERSION, *features, labels, list(self.seeds), self.candidates)
        names = ("fold_scores", "best", "decision", "unsolved")
        kept = context.cache.get(key, set(names))
        if kept is not None:
            return Found(kept["fold_scores"], kept["best"], kept["decision"], int(kept["unsolved"]))
        result = search(features[0], labels, features[1], searches)
        context.cache.put(key, {name: np.asarray(getattr(result, name)) for name in names})
        return result

    def _report(
        self,
        found: Outcome,
        test: TaskSamples,
        shared: SharedClasses,
        predicted: np.ndarray,
        left_out: int,
        context: Context,
    ) -> None:
        """Figures and predictions, from class numbers `[seeds, n]` (-1: not asked)."""
        tasks = [str(task) for task in test.columns[self.task_column]]
        # A class is one of a task: without species it is what the bootstrap draws.
        classes = [f"{task}: {label}" for task, label in zip(tasks, test.columns[self.column], strict=True)]
        clusters = test.clusters(self.column) if test.taxa else classes
        scores = Scores(cluster_numbers(clusters), context.resamples, context.seed)
        asked = np.flatnonzero(predicted[0] >= 0)
        groups = np.array([str(value) for value in test.columns.get(self.group_column, [""] * len(test))])
        for variant, said in {"paper": predicted, "paper v1": predicted[:1]}.items():
            answers = Answers.of(shared.test, asked, said[:, asked])
            figure = task_figure(self, PROTOCOL, variant, "micro_accuracy", rank=self.column)
            self._add(scores, replace(figure, left_out=left_out), shared.test, said, asked, tasks)
            for group in dict.fromkeys(groups[asked].tolist()):
                if group:
                    of_group = replace(figure, variant=f"{variant}, by {self.group_column}", rank=group)
                    self._add(scores, of_group, shared.test, said, asked[groups[asked] == group], tasks)
            rows = prediction_rows(figure, test, self.column, shared.names, answers)
            found.predictions += [
                replace(row, rank=tasks[place], cluster=clusters[place]) for row, place in zip(rows, asked, strict=True)
            ]
        found.figures += scores.finish("")[0]

    def _add(
        self,
        scores: Scores,
        figure: Figure,
        true: np.ndarray,
        said: np.ndarray,
        rows: np.ndarray,
        tasks: Sequence[str],
    ) -> None:
        """Adds the accuracies of `said` `[seeds, n]` over `rows`: over all photos, and the mean over tasks."""
        answers = Answers.of(true, rows, said[:, rows])
        names, task, sizes = np.unique([tasks[row] for row in rows], return_inverse=True, return_counts=True)
        largest = np.zeros(len(names))
        kinds, of_kind = np.unique(np.stack([task, true[rows]]), axis=1, return_counts=True)
        np.maximum.at(largest, kinds[0], of_kind)
        right = said[:, rows] == true[rows]
        for metric, share in (
            ("micro_accuracy", np.full(len(rows), 1 / len(rows))),
            ("macro_accuracy", 1 / sizes[task] / len(names)),
        ):
            weights = np.zeros(len(true))
            weights[rows] = share
            scores.add(
                replace(
                    figure,
                    metric=metric,
                    samples=len(rows),
                    classes=2,
                    chance=0.5,
                    majority=float(share @ (largest / sizes)[task]),
                    spread=float((right @ share).std()) if len(right) > 1 else None,
                ),
                answers.correct,
                weights,
            )


def _shortages(name: str, left_out: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each reason to leave out tasks."""
    lines = []
    for why, tasks in left_out.items():
        some = ", ".join(tasks[:3]) + (", ..." if len(tasks) > 3 else "")
        lines.append(f"{name}: {len(tasks)} tasks were left out: {why}" + (f" ({some})" if some else ""))
    return lines
