"""The SVM search equals scikit-learn's: candidates, folds, choices and predictions."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.evaluation.task import Context, TaskSamples
from bioclip_jax.evaluation.tasks import svm_search
from bioclip_jax.evaluation.tasks.svm import KERNELS, Machines, fit
from bioclip_jax.evaluation.tasks.svm_search import (
    SVMSearch,
    centre_and_normalise,
    draw_candidates,
    search,
    stratified_folds,
)

pytestmark = pytest.mark.usefixtures("as_users_compile")

GOLDENS = Path(__file__).parents[1] / "goldens/evaluation"
SEEDS = (0, 1, 2)
TASKS = range(7)


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDENS / "newt.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def expected():
    return json.loads((GOLDENS / "newt.json").read_text())


def search_golden(golden, task, **options):
    features = centre_and_normalise(golden[f"task{task}_x_train"], golden[f"task{task}_x_test"])
    labels = golden[f"task{task}_y_train"] == 1
    return search(features[0], labels, features[1], [draw_candidates(seed) for seed in SEEDS], **options)


def furthest(found, wanted):
    """By row, relative to its largest value."""
    return (np.abs(found - wanted).max(axis=1) / np.abs(wanted).max(axis=1)).max()


def test_candidates_equal_the_reference(golden):
    for run, seed in enumerate(SEEDS):
        drawn = draw_candidates(seed)
        np.testing.assert_allclose(drawn.cost, golden["candidate_C"][run], rtol=1e-12)
        np.testing.assert_allclose(drawn.gamma, golden["candidate_gamma"][run], rtol=1e-12)
        np.testing.assert_array_equal(drawn.kernel, golden["candidate_kernel"][run])


def test_folds_equal_scikit_learn(golden):
    for task in TASKS:
        np.testing.assert_array_equal(stratified_folds(golden[f"task{task}_y_train"]), golden[f"task{task}_fold"])


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_folds_of_small_classes_equal_scikit_learn():
    from sklearn.model_selection import StratifiedKFold

    draw = np.random.default_rng(0)
    for _ in range(20):
        labels = draw.permutation(np.repeat([7, 3], [draw.integers(5, 40), draw.integers(2, 9)]))
        folds = stratified_folds(labels)
        for fold, (_, held_out) in enumerate(StratifiedKFold(5).split(labels, labels)):
            np.testing.assert_array_equal(np.flatnonzero(folds == fold), held_out)


def test_choices_scores_and_predictions_equal_the_reference(golden, expected):
    right = []
    for task in TASKS:
        found = search_golden(golden, task)
        wanted = {name: golden[f"task{task}_{name}"] for name in ("best_index", "pred", "decision", "cv_mean")}
        np.testing.assert_array_equal(found.best, wanted["best_index"])
        np.testing.assert_array_equal(found.predicted, wanted["pred"] == 1)
        assert furthest(found.decision, wanted["decision"]) < 2e-5
        same = found.fold_scores.mean(axis=-1) == wanted["cv_mean"]
        assert same[golden[f"task{task}_cv_closest"] > 5e-3].all()
        assert same.mean() > 0.99
        assert not found.unsolved
        right.append(found.predicted == (golden[f"task{task}_y_test"] == 1))
    assert np.concatenate(right, axis=1).mean(axis=1).tolist() == expected["micro_accuracy_per_run"]


def test_a_smaller_tolerance_leads_to_what_libsvm_finds_with_it(golden):
    found = search_golden(golden, 2, tolerance=1e-6)
    np.testing.assert_array_equal(found.best, golden["task2_best_index"])
    assert furthest(found.decision, golden["task2_decision_tight"]) < 2e-5
    assert furthest(found.decision, golden["task2_decision"]) > 1e-4


@pytest.fixture(scope="module")
def machines():
    """Inner products of 60 rows, signs of two sets of rows, and machines of all kernels, in float64."""
    draw = np.random.default_rng(3)
    rows = draw.normal(size=(60, 40))
    signs = np.where(rows[:, 0] + draw.normal(size=60) > 0.3, 1.0, -1.0) * np.ones((2, 1))
    signs[0, ::4] = 0
    kernel, cost, which = (
        grid.ravel() for grid in np.meshgrid(np.arange(4), [0.01, 0.1, 1.0, 10.0], [0, 1], indexing="ij")
    )
    return (rows @ rows.T)[None].repeat(2, axis=0), signs, Machines(kernel, cost, np.full(len(kernel), 0.02), which)


def test_solutions_are_optimal(machines):
    products, signs, wanted = machines
    with jax.enable_x64(True):
        solution = fit(jax.numpy.asarray(products), signs, wanted, tolerance=1e-8)
    assert solution.solved.all()
    norms = np.diagonal(products[0])
    kernels = {
        "rbf": lambda p, gamma: np.exp(-gamma * (norms[:, None] + norms - 2 * p)),
        "linear": lambda p, gamma: p,
        "sigmoid": lambda p, gamma: np.tanh(gamma * p),
        "poly": lambda p, gamma: (gamma * p) ** 3,
    }
    free = 0
    for place, (kernel, cost, gamma, rows) in enumerate(zip(*wanted, strict=True)):
        y, b = signs[rows], solution.multipliers[place]
        assert abs(b.sum()) < 1e-12
        assert (b * y >= 0).all()
        assert (np.abs(b) <= cost).all()
        assert not b[y == 0].any()
        decision = kernels[KERNELS[kernel]](products[0], gamma) @ b + solution.bias[place]
        np.testing.assert_allclose(solution.decision[place], decision, rtol=0, atol=1e-10)
        margin = (y * decision)[y != 0]
        inside = ((np.abs(b) > 0) & (np.abs(b) < cost))[y != 0]
        np.testing.assert_allclose(margin[inside], 1, atol=1e-8)
        if inside.any():
            assert (margin[(b == 0)[y != 0]] > 1 - 1e-8).all()
            assert (margin[(np.abs(b) == cost)[y != 0]] < 1 + 1e-8).all()
        free += inside.sum()
    assert free > 100


def test_a_bound_that_is_never_reached_changes_nothing(machines):
    products, signs, wanted = machines
    with jax.enable_x64(True):
        products = jax.numpy.asarray(products)
        together = fit(products, signs, wanted)
        reused = 0
        for place in np.flatnonzero(wanted.kernel == KERNELS.index("linear")):
            alone = fit(products, signs, Machines(*(array[[place]] for array in wanted)))
            for one, other in zip(alone, together, strict=True):
                np.testing.assert_array_equal(one[0], other[place])
            reused += alone.largest[0] < wanted.cost[place]
    assert reused > 2


def test_machines_that_do_not_converge_are_told(machines):
    products, signs, wanted = machines
    with jax.enable_x64(True):
        solution = fit(jax.numpy.asarray(products), signs, wanted, max_steps=3)
    assert not solution.solved.any()
    assert (solution.steps == 3).all()


def test_decisions_equal_scikit_learn_where_all_kernels_are_alive():
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC

    draw = np.random.default_rng(5)
    labels = draw.random(70) < 0.4
    rows = draw.normal(size=(110, 400)).astype(np.float32)
    rows[:70, :80] += labels[:, None]
    rows[:, 7] = 0.25  # a constant column
    train, test = rows[:70], rows[70:]
    for kernel in range(4):
        one = svm_search.Candidates(np.array([3.0]), np.array([5e-4]), np.array([kernel]))
        judge = make_pipeline(StandardScaler(), SVC(C=3.0, gamma=5e-4, kernel=KERNELS[kernel])).fit(train, labels)
        decision = search(train, labels, test, [one]).decision
        assert furthest(decision, judge.decision_function(test)[None]) < 2e-5


@pytest.fixture(scope="module")
def samples(golden):
    """The golden tasks as photos, and four that cannot be measured."""
    parts = {}
    for split in ("train", "test"):
        features = [golden[f"task{task}_x_{split}"] for task in TASKS]
        width = max(part.shape[1] for part in features)
        features = [np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in features]
        labels = [golden[f"task{task}_y_{split}"] for task in TASKS]
        tasks = [np.full(len(part), f"task {task}") for task, part in enumerate(labels)]
        groups = [np.full(len(part), "even" if not task % 2 else "odd") for task, part in enumerate(labels)]
        for task, few in {"one class": [1] * 6, "single": [0] * 6 + [1], "few": [0, 1] * 4}.items():
            features.append(np.ones((len(few), width), np.float32))
            labels.append(np.array(few))
            tasks.append(np.full(len(few), task))
            groups.append(np.full(len(few), "odd"))
        if split == "test":
            features.append(np.ones((2, width), np.float32))
            labels.append(np.array([0, 1]))
            tasks.append(np.full(2, "asked only"))
            groups.append(np.full(2, ""))
        columns = {"label": labels, "task": tasks, "cluster": groups}
        rows = np.concatenate(features)
        keys = tuple(f"{split}/{row}.jpg" for row in range(len(rows)))
        parts[split] = TaskSamples(split, keys, rows, {name: np.concatenate(part) for name, part in columns.items()})
    return parts


def context(folder=None, resamples=20, said=None):
    return Context(
        encode_text=lambda texts: None,
        resamples=resamples,
        cache=ArrayCache(folder),
        say=lambda line: None if said is None else said.append(line),
    )


def test_task_gives_the_references_figures_and_finds_them_in_the_cache(samples, expected, tmp_path, monkeypatch):
    said = []
    task = SVMSearch("newt", "train", "test")
    found = task.measure(samples, context(tmp_path, said=said))
    figures = {(f.variant, f.rank): f for f in found.figures if f.metric == "micro_accuracy"}
    paper, first = figures["paper", "label"], figures["paper v1", "label"]
    assert paper.value == pytest.approx(expected["mean"], abs=1e-12)
    assert paper.spread == pytest.approx(expected["std"], abs=1e-12)
    assert first.value == pytest.approx(expected["v1_accuracy"], abs=1e-12)
    assert first.spread is None
    assert paper.low < paper.value < paper.high
    assert paper.samples == sum(part["test"] for part in expected["per_task"]) == 481
    assert (paper.left_out, paper.chance, paper.clusters) == (4, 0.5, 14)
    odd, even = (figures["paper, by cluster", group] for group in ("odd", "even"))
    assert odd.samples + even.samples == paper.samples
    assert odd.value * odd.samples + even.value * even.samples == pytest.approx(paper.value * paper.samples)
    assert len(found.predictions) == 2 * paper.samples
    assert {row.rank for row in found.predictions} == {f"task {task}" for task in TASKS}
    correct = [row.correct for row in found.predictions if row.variant == "paper"]
    assert np.mean(correct) == pytest.approx(paper.value)
    macro = next(f for f in found.figures if (f.variant, f.rank, f.metric) == ("paper", "label", "macro_accuracy"))
    by_task = [
        [row.correct for row in found.predictions if (row.variant, row.rank) == ("paper", t)]
        for t in (f"task {task}" for task in TASKS)
    ]
    assert macro.value == pytest.approx(np.mean([np.mean(right) for right in by_task]))
    assert macro.value != pytest.approx(paper.value)
    assert macro.low < macro.value < macro.high
    lines = "\n".join(found.notes)
    for why in (
        "newt: 1 tasks were left out: 1 classes in training, not two (one class)",
        "newt: 1 tasks were left out: a class has a single training photo (single)",
        "newt: 1 tasks were left out: no class has 5 training photos (few)",
        "newt: 1 tasks were left out: 0 classes in training, not two (asked only)",
    ):
        assert why in lines
    assert said == ["newt: support vector machines, task 1 of 7"]

    def never(*_arguments):
        raise AssertionError("searched again")

    monkeypatch.setattr(svm_search, "search", never)
    again = task.measure(samples, context(tmp_path))
    assert again.figures == found.figures


def test_bad_input_is_told_in_one_line(samples):
    task = SVMSearch("newt", "train", "test")
    broken = samples["train"].features.copy()
    broken[3] = np.nan
    train = TaskSamples("train", samples["train"].keys, broken, samples["train"].columns)
    with pytest.raises(UserError, match=f"1 of {len(broken)} photos of split train have features that are not finite"):
        task.measure({**samples, "train": train}, context())
    with pytest.raises(UserError, match="has no labels 'subtask'"):
        SVMSearch("newt", "train", "test", task_column="subtask").measure(samples, context())
    with pytest.raises(UserError, match="at least one seed"):
        SVMSearch("newt", "train", "test", seeds=()).measure(samples, context())
    columns = {**samples["train"].columns, "task": np.full(len(train), "elsewhere")}
    moved = TaskSamples("train", train.keys, samples["train"].features, columns)
    with pytest.raises(UserError, match=r"nothing can be measured; .*no test photos"):
        task.measure({**samples, "train": moved}, context())


def test_photos_that_all_look_alike_give_answers_and_no_nan():
    rows = np.full((30, 6), 0.5, np.float32)
    labels = np.arange(30) % 3 == 0
    found = search(*centre_and_normalise(rows, rows)[:1], labels, rows[:4] - 0.5, [draw_candidates(0, 12)])
    assert np.isfinite(found.decision).all()
    assert not found.predicted.any()
    assert found.best.tolist() == [0]
    np.testing.assert_allclose(found.fold_scores, 2 / 3)
