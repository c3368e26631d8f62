"""A dataset as large as TreeOfLife-200M: 24,236 files and 214 million records, of which one file is real.

What is looked at is a process of its own (`tests/benchmarks/loader_child.py`).
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).parents[1] / "benchmarks" / "loader_child.py"
RECORDS = 24_236 * 8_830
FAR_STEP = 777_777_777
MOST_MEGABYTES, MOST_DESCRIPTORS = 2000, 4096

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks at a process by /proc")


def child(*arguments):
    """What the process found out, from its last line."""
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["arrayrecord", "tars"])
def many(request, tmp_path_factory):
    """Where the files are."""
    return child("make", request.param, tmp_path_factory.mktemp("many") / "data")["data"]


def test_batches_at_a_far_step_of_a_full_scale_set_take_little_memory_and_few_descriptors(many):
    # So many batches meet more files than may be open. What the process may open is more, too, where the system allows.
    found = child("first-batch", many, "--step", FAR_STEP, "--batches", 14, "--image-size", 32)
    print(f"opened in {found['opened']:.1f} s, first batch of 512 after {found['first']:.1f} s")
    assert found["records"] == RECORDS
    assert found["peak"] <= MOST_MEGABYTES
    assert found["descriptors"] <= MOST_DESCRIPTORS


def test_a_full_scale_set_is_read_where_256_descriptors_are_all_there_are(many):
    found = child("first-batch", many, "--step", FAR_STEP, "--batches", 2, "--image-size", 32, "--descriptors", 256)
    assert found["descriptors"] <= found["allowed"] == 256


def test_batches_do_not_stay_in_memory(tmp_path):
    data = child("make", "arrayrecord", tmp_path / "data", "--shards", 2)["data"]
    # 1,800 batches of 8 x 64 x 64 x 3 bytes are 177 MB.
    found = child("memory", data, "--batches", 2000, "--rows", 8, "--image-size", 64)
    after = dict(zip(found["batches"], found["resident"], strict=True))
    assert after[2000] - after[200] < 40
