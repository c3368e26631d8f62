"""What every test may rely on: four CPU devices, a folder of photos, a stock open_clip, peak memory."""

import contextlib
import csv
import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

# Before anything imports jax; workers and subprocesses inherit it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test asks the network; read when huggingface_hub is imported
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")
# Four devices share a few cores: threads within an operation could all wait for a device that waits for a thread.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
# What one test, process or run of the suite has compiled, the next one finds.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# A shell has what it starts in the background ignore Ctrl-C, `nohup` the end of the terminal; so would the processes
# that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


PHOTO_COLUMNS = ("kingdom", "phylum", "class", "order", "family", "genus", "species", "scientific_name", "common_name")


@pytest.fixture(scope="module")
def as_users_compile() -> Iterator[None]:
    """XLA's optimisations, which `make test` leaves out to compile sooner: for tests of numbers to many digits."""
    import jax

    left_out = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()  # what other tests compiled is not taken
    yield
    jax.config.update("jax_disable_most_optimizations", left_out)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `metadata.csv` (columns filepath, split, and PHOTO_COLUMNS) and the images it names.

    These are the photos that BIOCLIP_JAX_PHOTOS names, or drawn ones. The splits are train, test and test_unseen.
    """
    if "BIOCLIP_JAX_PHOTOS" in os.environ:
        folder = Path(os.environ["BIOCLIP_JAX_PHOTOS"])
        assert (folder / "metadata.csv").is_file(), f"BIOCLIP_JAX_PHOTOS={folder} holds no metadata.csv"
        return folder
    folder = tmp_path_factory.mktemp("photos")
    draw_photos(folder, images_per_split=120)
    return folder


def draw_photos(folder: Path, images_per_split: int) -> None:
    """Writes organisms of the synthetic tree as a photo table."""
    from bioclip_jax.recipes import load_recipe

    splits = load_recipe("data", "synthetic").source(num_images=images_per_split, num_species=40, image_size=64)
    (folder / "images").mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("filepath", "split", *PHOTO_COLUMNS))
        for split, source in splits.items():
            for index in range(min(len(source), images_per_split)):
                record = source[index]
                path = f"images/{split}_{index:04}{image_suffix(record['image'])}"
                (folder / path).write_bytes(record["image"])
                table.writerow((path, split, *(record[column] for column in PHOTO_COLUMNS)))


def image_suffix(data: bytes) -> str:
    """The file name's ending that fits the encoded bytes."""
    return ".jpg" if data.startswith(b"\xff\xd8") else ".png" if data.startswith(b"\x89PNG") else ".webp"


@contextlib.contextmanager
def stock_open_clip() -> Iterator[ModuleType]:
    """The stock `open_clip` package, also where PyTorch is the CPU build.

    open_clip imports torchvision, whose published Linux wheels hold operators compiled for CUDA. Beside a CPU build of
    PyTorch they do not load, and the import stops at the two operators that it describes to the compiler. Declaring
    those two, without a body, lets it go on: open_clip uses torchvision's image transforms, which are Python.
    """
    import torch

    declarations = torch.library.Library("torchvision", "FRAGMENT")
    folder = Path(importlib.util.find_spec("torchvision").submodule_search_locations[0])
    try:
        for extension in folder.glob("_C*.so"):
            torch.ops.load_library(extension)
    except OSError:
        for operator in ("nms", "qnms"):
            declarations.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip

    yield open_clip  # the declarations last as long as this generator


@pytest.fixture(scope="session")
def open_clip() -> Iterator[ModuleType]:
    """The stock `open_clip` package: see `stock_open_clip`."""
    with stock_open_clip() as package:
        yield package


# Not getrusage's ru_maxrss: a new process begins with that of the process that started it, here a pytest of any size.
PRINT_PEAK = """
import re
from pathlib import Path
print(1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]))
"""


@pytest.fixture(scope="session")
def peak_memory() -> Callable[..., int]:
    """Runs Python code in a process of its own, and returns its peak memory in bytes (mapped files count); for Linux.

    Called as peak_memory(code, *arguments), which are the code's `sys.argv[1:]`.
    """

    def run(code: str, *arguments: str) -> int:
        command = [sys.executable, "-c", code + PRINT_PEAK, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.split()[-1])

    return run
