"""Worker processes make the batches that threads make, keep off the devices, and never outlive the run."""

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from bioclip_jax.config import DataConfig
from bioclip_jax.pipeline.loader import make_loader
from bioclip_jax.pipeline.readers import open_dataset


def test_worker_processes_make_the_same_batches_without_starting_jax(synthetic):
    options = {"image_size": 16, "context_length": 77, "global_batch_size": 8, "seed": 0, "token_lengths": [{}]}
    threads = make_loader([synthetic], DataConfig(), **options)
    processes = make_loader([NoJax(synthetic)], DataConfig(processes=2, threads=1), **options)
    before = {process.pid for process in multiprocessing.active_children()}
    for ours, theirs in zip(processes.batches(3, 7), threads.batches(3, 7), strict=True):
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)
    stopped = processes.batches(0, 1000)
    next(stopped)
    stopped.close()
    assert {process.pid for process in multiprocessing.active_children()} <= before


KILLED = """
import sys
from bioclip_jax.config import DataConfig
from bioclip_jax.pipeline.loader import make_loader
from bioclip_jax.pipeline.readers import open_dataset

if __name__ == "__main__":
    source = open_dataset("synthetic", {"num_images": 40, "num_species": 20, "image_size": 32})["train"]
    options = {"image_size": 16, "context_length": 77, "global_batch_size": 8, "seed": 0, "token_lengths": [{}]}
    batches = make_loader([source], DataConfig(processes=2), **options).batches(0, 10_000)
    next(batches)
    print("ready", flush=True)
    next(batches)
    sys.stdin.read()
"""


def test_worker_processes_end_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, str(script)], **pipe) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        # It ends when the last process that holds the pipe does.
        assert process.communicate(timeout=60)[0] == b""


class NoJax:
    """A source that refuses to be read where JAX was started, or could take an accelerator."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        bridge = sys.modules.get("jax._src.xla_bridge")
        assert bridge is None or not bridge.backends_are_initialized()
        assert os.environ["JAX_PLATFORMS"] == "cpu"
        return self.source[index]


@pytest.fixture
def synthetic():
    return open_dataset("synthetic", {"num_images": 40, "num_species": 20, "image_size": 32})["train"]
