"""Measures how fast the synthetic tree of life is drawn: images per second of one core's time, encoding included.

    python tests/benchmarks/drawing.py

Each size: 600 records to warm the cache of figures, then the median and the best of five runs.
"""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from pathlib import Path

import cv2

from bioclip_jax.pipeline.synthetic import synthetic_splits

RUNS = 5


def measure(image_size: int, images: int, num_species: int = 120) -> list[float]:
    """Images per second of each run."""
    source = synthetic_splits(
        num_images=10**9,
        num_species=num_species,
        image_size=image_size,
        seed=0,
        missing_ranks=0.11,
        missing_common_names=0.3,
        tail=1.0,
        unseen_share=0.1,
        test_images_per_species=10,
        variation=1.0,
    )["train"]
    for index in range(600):
        source[index]
    rates = []
    for run in range(RUNS):
        start = time.process_time()
        for index in range(1000 + run * images, 1000 + (run + 1) * images):
            source[index]
        rates.append(images / (time.process_time() - start))
    return rates


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> int:
    print(f"{processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, OpenCV {cv2.__version__}")
    for image_size, images in ((64, 2000), (224, 600)):
        rates = measure(image_size, images)
        print(f"{image_size:4d} px: median {statistics.median(rates):7.0f} images/s/core, best {max(rates):7.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
