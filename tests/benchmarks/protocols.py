"""Measures evaluation protocols beside the obvious PyTorch or scikit-learn way, on the same features and device.

    python tests/benchmarks/protocols.py [--only NAME ...] [--images 10000] [--width 768] [--runs 3]

simple_shot   1 and 5 shots, 5 folds, one class for 25 images; theirs: NumPy and scikit-learn's NearestCentroid, fold by
              fold
kmeans        semi-supervised k-means, 3 seeds, one cluster for 50 images; theirs: PyTorch, seed by seed, distances by
              `torch.cdist`, those of k-means++ to all centres anew at each draw as the reference computes them
fishnet, awa2 linear-dropout-linear probes of 9 and 85 labels, 3 seeds, 5 epochs of the protocol's 50; theirs: PyTorch
              modules, Adam and a DataLoader, seed by seed

Features are random. Sides are measured in turns in one process; rows are medians over runs. The first run of each side,
in which JAX compiles, is shown but not counted. Where others use the machine, the time of the cores tells more than
seconds. What both sides found is compared where it must agree.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from sklearn.neighbors import NearestCentroid
from torch import nn

from bioclip_jax.evaluation.few_shot import Folds, pool_folds, simple_shot
from bioclip_jax.evaluation.tasks.kmeans import cluster
from bioclip_jax.evaluation.tasks.probe import Schedule, initial_weights, probe_logits, train

SEEDS = (0, 1, 2)
EPOCHS = 5


class Comparison(NamedTuple):
    """Two ways to the same answer."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agreement: Callable[[Any, Any], str]


def clustered(images: int, width: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit features float32 `[images, width]` about class centres, and labels."""
    generator = np.random.default_rng(0)
    labels = np.concatenate([np.arange(classes).repeat(6), generator.integers(0, classes, images - 6 * classes)])
    features = generator.normal(size=(classes, width))[labels] + 1.5 * generator.normal(size=(images, width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def compare_simple_shot(images: int, width: int) -> Comparison:
    """All folds of both numbers of shots, drawing included on both sides."""
    features, labels = clustered(images, width, images // 25)

    def ours() -> list[np.ndarray]:
        return [simple_shot(features, features, folds) for folds in pool_folds(labels, (1, 5)).values()]

    def theirs() -> list[np.ndarray]:
        return [sklearn_simple_shot(features, labels, folds) for folds in pool_folds(labels, (1, 5)).values()]

    def agreement(first: list[np.ndarray], second: list[np.ndarray]) -> str:
        same = np.mean([np.mean(a == b) for a, b in zip(first, second, strict=True)])
        return f"{100 * same:.3f} % of predictions are the same"

    return Comparison(ours, theirs, agreement)


def sklearn_simple_shot(features: np.ndarray, labels: np.ndarray, folds: Folds) -> np.ndarray:
    """Fold by fold."""
    warnings.simplefilter("ignore")  # of one support for a class
    predicted = []
    for support, query in zip(folds.support, folds.query, strict=True):
        centre = features[support].mean(axis=0)
        shown, asked = features[support] - centre, features[query] - centre
        shown /= np.linalg.norm(shown, axis=1, keepdims=True)
        asked /= np.linalg.norm(asked, axis=1, keepdims=True)
        predicted.append(NearestCentroid().fit(shown, labels[support]).predict(asked))
    return np.stack(predicted)


def compare_kmeans(images: int, width: int) -> Comparison:
    """Half of the classes are old, and 4 of 5 of their images labelled."""
    clusters = images // 50
    features, labels = clustered(images, width, clusters)
    known = (labels < clusters // 2) & (np.random.default_rng(1).random(images) < 0.8)
    given = features[known], labels[known], features[~known], clusters

    def ours() -> np.ndarray:
        return cluster(*given, seeds=SEEDS).labels

    def theirs() -> np.ndarray:
        return np.stack([torch_kmeans(*given, seed) for seed in SEEDS])

    return Comparison(ours, theirs, lambda a, b: f"{100 * np.mean(a == b):.3f} % of labels are the same")


def torch_kmeans(labelled: np.ndarray, classes: np.ndarray, unlabelled: np.ndarray, k: int, seed: int) -> np.ndarray:
    """One seed."""
    shown, targets, x = torch.from_numpy(labelled), torch.from_numpy(classes), torch.from_numpy(unlabelled)
    centres = torch.stack([shown[targets == label].mean(0) for label in range(int(targets.max()) + 1)])
    generator = np.random.RandomState(seed)
    while len(centres) < k:
        squared = (torch.cdist(x, centres) ** 2).min(dim=1).values
        cumulative = torch.cumsum(squared / squared.sum(), dim=0)
        row = (cumulative >= generator.rand()).nonzero()[0, 0]
        centres = torch.cat([centres, x[row : row + 1]])
    everything = torch.cat([shown, x])
    best, best_labels = np.inf, targets
    for _ in range(10):
        distances = torch.cdist(x, centres) ** 2
        nearest, assigned = distances.min(dim=1)
        inertia = float(nearest.sum() + ((shown - centres[targets]) ** 2).sum())
        labels = torch.cat([targets, assigned])
        updated = torch.stack([everything[labels == number].mean(0) for number in range(k)])
        moved = float(((updated - centres) ** 2).sum(1).sqrt().sum())
        centres = updated
        if inertia < best:
            best, best_labels = inertia, labels
        if moved**2 < 1e-4:
            break
    return best_labels.numpy()


def compare_probe(images: int, width: int, labels: int, learning_rate: float) -> Comparison:
    """Training, and logits of as many images again with dropout active and without."""
    generator = np.random.default_rng(0)
    x, x_test = generator.normal(size=(2, images, width)).astype(np.float32)
    directions = generator.normal(size=(width, labels))
    y, y_test = ((features @ directions > 0).astype(np.float32) for features in (x, x_test))

    def ours() -> float:
        keys = jnp.stack([jax.random.split(jax.random.key(seed), 3) for seed in SEEDS])
        start = jax.vmap(lambda key: initial_weights(key, width, 512, labels))(keys[:, 0])
        weights, _ = train(start, x, y, keys[:, 1], schedule=Schedule(learning_rate, epochs=EPOCHS))
        by_way = [np.asarray(probe_logits(weights, x_test, keys[:, 2], dropout=way)) for way in (True, False)]
        return float(((by_way[1] > 0) == y_test).mean())

    def theirs() -> float:
        return float(np.mean([torch_probe(x, y, x_test, y_test, learning_rate, seed) for seed in SEEDS]))

    return Comparison(ours, theirs, lambda a, b: f"labels right: ours {100 * a:.2f} %, theirs {100 * b:.2f} %")


def torch_probe(
    x: np.ndarray, y: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, learning_rate: float, seed: int
) -> float:
    """One seed."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], 512), nn.Dropout(0.5), nn.Linear(512, y.shape[1]))
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 20, 0.5)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    loader = torch.utils.data.DataLoader(data, batch_size=256, shuffle=True)
    criterion = nn.BCEWithLogitsLoss()
    for _ in range(EPOCHS):
        for features, labels in loader:
            loss = criterion(model(features), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
    with torch.no_grad():
        model(torch.from_numpy(x_test))
        logits = model.eval()(torch.from_numpy(x_test)).numpy()
    return float(((logits > 0) == y_test).mean())


COMPARISONS: dict[str, Callable[[int, int], Comparison]] = {
    "simple_shot": compare_simple_shot,
    "kmeans": compare_kmeans,
    "fishnet": lambda images, width: compare_probe(images, width, 9, 1e-4),
    "awa2": lambda images, width: compare_probe(images, width, 85, 1e-5),
}


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds, seconds of all cores' time, and what came out."""
    start, start_of_cores = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - start, time.process_time() - start_of_cores, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores; JAX {jax.__version__}")
    print(f"on {jax.default_backend()}, PyTorch {torch.__version__}; {arguments.images} images, {arguments.width} wide")
    for name in arguments.only:
        comparison = COMPARISONS[name](arguments.images, arguments.width)
        first, _, ours = timed(comparison.ours)
        _, _, theirs = timed(comparison.theirs)
        turns = [(timed(comparison.ours)[:2], timed(comparison.theirs)[:2]) for _ in range(arguments.runs)]
        (wall, cores), (wall_theirs, cores_theirs) = np.median(turns, axis=0)
        ratio, ratio_of_cores = np.median([np.divide(other, own) for own, other in turns], axis=0)
        print(
            f"{name:12} ours {wall:.2f} s (first {first:.2f} s), theirs {wall_theirs:.2f} s: {ratio:.1f} times as fast"
        )
        print(f"{'':12} of all cores {cores:.2f} s, theirs {cores_theirs:.2f} s: {ratio_of_cores:.1f} times")
        print(f"{'':12} {comparison.agreement(ours, theirs)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
