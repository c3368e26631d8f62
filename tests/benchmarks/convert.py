"""Measures conversions of weights as whole processes: seconds, and peak memory as a share of the weights.

python tests/benchmarks/convert.py [--model ViT-L-14] [--runs 3]

Weights are random, in a temporary folder that takes four times their size. Files are read from the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bioclip_jax.config import Preprocessing
from bioclip_jax.convert import open_clip
from bioclip_jax.convert.model_names import named_config
from bioclip_jax.convert.names import expected_shapes
from bioclip_jax.convert.safetensors_files import SafetensorsWriter
from bioclip_jax.convert.tensors import Spec

STEPS = (("model", "hugging_face"), ("hugging_face", "open_clip"), ("model", "orbax"), ("orbax", "open_clip"))


def write_random(folder: Path, model: str) -> int:
    """Writes an OpenCLIP folder with random weights and returns their bytes."""
    config = named_config(model, replay_projector=False)
    shapes = expected_shapes(config, "open_clip")
    writer = SafetensorsWriter(folder / open_clip.WEIGHTS_NAME, {key: Spec("float32", s) for key, s in shapes.items()})
    generator = np.random.default_rng(0)
    for key, shape in shapes.items():
        writer.write(key, generator.standard_normal(shape, np.float32) if shape else np.float32(4.6))
    writer.close()
    open_clip.write_config(folder, config, Preprocessing())
    return (folder / open_clip.WEIGHTS_NAME).stat().st_size


# Not getrusage's ru_maxrss, which a child process inherits from this one.
CONVERT = """
import re, sys
from pathlib import Path
from bioclip_jax.cli import main
main(["convert", *sys.argv[1:]])
print("peak", 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]))
"""


def measure(arguments: list[str]) -> tuple[float, int]:
    """Seconds and peak bytes (maximum resident set, mapped files included) of one conversion."""
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-c", CONVERT, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - start, int(shown.stdout.split()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="ViT-L-14")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="convert-"))
    try:
        (folder / "model").mkdir()
        size = write_random(folder / "model", options.model)
        print(
            f"{options.model}, {size / 1e9:.2f} GB; Python {platform.python_version()}, median of {options.runs} runs"
        )
        results: dict[tuple[str, str], list[tuple[float, int]]] = {step: [] for step in STEPS}
        for _ in range(options.runs):
            for source, to in STEPS:
                arguments = [str(folder / source), str(folder / to), "--to", to, "--overwrite"]
                results[source, to].append(measure(arguments))
        for (source, to), runs in results.items():
            seconds, peaks = zip(*runs, strict=True)
            name = f"{'open_clip' if source == 'model' else source} -> {to}"
            spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
            share = max(peaks) / size
            print(f"{name:28} {statistics.median(seconds):5.1f} s ({spread})  peak {share:.2f} x the weights")
    finally:
        shutil.rmtree(folder)
    print(json.dumps({"cpus": os.cpu_count(), "machine": platform.processor() or platform.machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
