"""Measures how soon the command line answers: whole processes, from start to end.

python tests/benchmarks/help.py
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time

RUNS = 9


def main() -> int:
    print(f"Python {platform.python_version()}, median and best of {RUNS} runs")
    for arguments in (["--help"], ["train", "demo", "--help"], ["eval", "--help"]):
        seconds = []
        for _ in range(RUNS):
            start = time.perf_counter()
            command = [sys.executable, "-m", "bioclip_jax.cli", *arguments]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - start)
        print(f"{' '.join(arguments):20} {statistics.median(seconds):.2f} s  (best {min(seconds):.2f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
