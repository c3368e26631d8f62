"""Measures NeWT's SVM search beside scikit-learn's `RandomizedSearchCV`, on the same drawn tasks.

    python tests/benchmarks/svm_search.py [--tasks 3] [--rows 200] [--width 768] [--seeds 3]

Both sides run every seed's 100 candidates with five folds, refit the best and answer as many test rows: seconds for a
task by the clock and of a core, medians over tasks, on which the sides take turns. scikit-learn runs with one process
and with two. How many of the choices and predictions are equal stands beside.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import sklearn
from scipy.stats import loguniform
from sklearn.model_selection import RandomizedSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from bioclip_jax.evaluation.tasks.svm import KERNELS
from bioclip_jax.evaluation.tasks.svm_search import centre_and_normalise, draw_candidates, search

Task = tuple[np.ndarray, np.ndarray, np.ndarray]
Answer = tuple[np.ndarray, np.ndarray]
DIRECTIONS = 40
"""In which drawn features mostly vary, as embeddings do."""


def draw_task(seed: int, rows: int, width: int) -> Task:
    """Training features, their labels and test features."""
    draw = np.random.default_rng(seed)
    labels = draw.permutation(np.arange(2 * rows) % 2)
    directions = draw.normal(size=(DIRECTIONS, width)) / np.arange(1, DIRECTIONS + 1)[:, None] ** 0.7
    features = draw.normal(size=(2 * rows, DIRECTIONS)) @ directions + 0.25 * draw.normal(size=(2 * rows, width)) + 1
    features += 0.05 * draw.exponential() * np.outer(2 * labels - 1, draw.normal(size=width))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    train, test = centre_and_normalise(features[:rows], features[rows:])
    return train, labels[:rows] == 1, test


def ours(task: Task, seeds: int) -> Answer:
    """Chosen candidates `[seeds]` and predictions `[seeds, m]`."""
    found = search(*task, [draw_candidates(seed) for seed in range(seeds)])
    return found.best, found.predicted


def theirs(task: Task, seeds: int, processes: int) -> Answer:
    """The same by scikit-learn."""
    train, labels, test = task
    space = {"svc__C": loguniform(1e-3, 1e1), "svc__kernel": list(KERNELS), "svc__gamma": loguniform(1e-4, 1e-3)}
    best, predicted = [], []
    for seed in range(seeds):
        model = make_pipeline(StandardScaler(), SVC())
        found = RandomizedSearchCV(model, space, n_iter=100, cv=5, n_jobs=processes, random_state=seed)
        found.fit(train, labels)
        best.append(found.best_index_)
        predicted.append(found.predict(test))
    return np.array(best), np.array(predicted)


def main() -> None:
    """Prints one line for each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"tasks": 3, "rows": 200, "width": 768, "seeds": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    print(f"{machine}, scikit-learn {sklearn.__version__}; {options.rows} x {options.width} training features")
    sides: dict[str, Callable[[Task], Answer]] = {
        "bioclip_jax": lambda task: ours(task, options.seeds),
        "scikit-learn, n_jobs = 1": lambda task: theirs(task, options.seeds, 1),
        "scikit-learn, n_jobs = 2": lambda task: theirs(task, options.seeds, 2),
    }
    start = time.perf_counter()
    ours(draw_task(0, options.rows, options.width), options.seeds)
    print(f"bioclip_jax, a first task with compilation: {time.perf_counter() - start:.2f} s")
    seconds = {side: [] for side in sides}
    processor = {side: [] for side in sides}
    equal = {side: [] for side in sides}
    for number in range(options.tasks):
        task = draw_task(number, options.rows, options.width)
        answers = {}
        for side, run in sides.items():
            start = time.perf_counter(), time.process_time()
            answers[side] = run(task)
            seconds[side].append(time.perf_counter() - start[0])
            processor[side].append(time.process_time() - start[1])
            equal[side].append([(a == b).mean() for a, b in zip(answers[side], answers["bioclip_jax"], strict=True)])
    mine = statistics.median(seconds["bioclip_jax"])
    for side in sides:
        median = statistics.median(seconds[side])
        # The processor time of child processes is not counted.
        used = "" if side.endswith("2") else f", {statistics.median(processor[side]):.2f} s of a core"
        best, predicted = np.mean(equal[side], axis=0)
        same = "" if side == "bioclip_jax" else f"; {best:.2%} of choices and {predicted:.2%} of predictions equal"
        print(f"{side:24}  {median:6.2f} s a task ({median / mine:.1f} times){used}{same}")


if __name__ == "__main__":
    main()
