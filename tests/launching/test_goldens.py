"""What each target renders, pinned as text and judged by the linters of its kind.

`BIOCLIP_JAX_GOLDENS=write pytest tests/launching/test_goldens.py` renews the texts.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

GOLDENS = Path(__file__).parent / "goldens"
ROOT = Path(__file__).parents[2]
SITE = ROOT / "launch" / "site.example.yaml"
DATA = "--data.dataset gs://my-bucket/treeoflife --replay.dataset gs://my-bucket/laion"
BATCH = "--global-batch-size 32768 --replay-batch-size 4096"
CASES = {
    "gke_jobset": f"gke-jobset bioclip2 --topology v5e-256 --work-dir gs://my-bucket/runs/first {DATA} {BATCH}",
    "gke_jobset_slices": "gke-jobset CONFIG --topology 2xv6e-64 --work-dir gs://my-bucket/runs/first --spot "
    "--cache ram --cache-gigabytes 200 --host-network",
    "gke_xpk": "gke-xpk bioclip2 --topology 2xv5p-128 --work-dir gs://my-bucket/runs/first --storage runs "
    f"{DATA} {BATCH}",
    "tpu_vm": f"tpu-vm bioclip2 --topology v5e-16 --work-dir gs://my-bucket/runs/first {DATA} {BATCH}",
    "tpu_vm_slices": "tpu-vm CONFIG --topology 2xv6e-64 --work-dir gs://my-bucket/runs/first --spot --cache ram "
    "--cache-gigabytes 200",
    "slurm": f"slurm bioclip2 --nodes 4 --work-dir /shared/runs/first {DATA} {BATCH}",
    "slurm_sweep": "slurm GRID --nodes 1 --tasks node --at-once 2 --work-dir /shared/runs/sweep "
    "--image /shared/image.sif --container apptainer",
    "k8s_gpu": f"k8s-gpu bioclip2 --nodes 4 --work-dir gs://my-bucket/runs/first {DATA} {BATCH}",
    "k8s_gpu_sweep": "k8s-gpu GRID --nodes 1 --work-dir /disk/runs/sweep --volume-claim disk --volume-path /disk",
    "vm": f"vm bioclip2 --work-dir /disk/runs/first --image '' {DATA} {BATCH}",
    "vm_container": "vm CONFIG --gpus-per-node 2 --work-dir /disk/runs/first --image image "
    "--cache local-ssd --cache-gigabytes 500 --local-disk /ssd",
}
CONFIG = """\
from bioclip_jax.config import DataConfig, TrainConfig

config = TrainConfig(data=DataConfig("gs://my-bucket/data"), global_batch_size=1024)
"""
GRID = """\
from bioclip_jax.config import DataConfig, OptimizerConfig, TrainConfig

configs = {
    f"rate {rate:g}": TrainConfig(optimizer=OptimizerConfig(learning_rate=rate), global_batch_size=1024)
    for rate in (1e-3, 1e-4)
}
"""


def words_of(case: str, folder: Path) -> list[str]:
    """The arguments of a case, whose user's files are written to a folder."""
    words = [*shlex.split(CASES[case]), "--site", str(SITE)]
    for name, text in (("CONFIG", CONFIG), ("GRID", GRID)):
        path = folder / f"{name.lower()}.py"
        path.write_text(text)
        words = [str(path) if word == name else word for word in words]
    return words


@pytest.mark.parametrize("case", CASES)
def test_rendering_is_the_committed_one(case, render, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = render(*words_of(case, tmp_path)).replace(str(tmp_path), "/home/someone")
    path = GOLDENS / f"{case}.txt"
    if os.environ.get("BIOCLIP_JAX_GOLDENS") == "write":
        path.write_text(shown)
    assert shown == path.read_text()


def files_of(golden: Path) -> dict[str, str]:
    """The rendered files by name, cut out of what was shown."""
    parts = re.split(r"^# ---------- (.*)\n", golden.read_text(), flags=re.MULTILINE)[1:]
    return {name: text for name, text in zip(parts[::2], parts[1::2], strict=True) if "(--submit" not in name}


def test_shell_check_finds_nothing_in_any_script(tmp_path):
    scripts = []
    for golden in GOLDENS.glob("*.txt"):
        for name, text in files_of(golden).items():
            if name.endswith((".sh", ".sbatch")):
                scripts.append(tmp_path / f"{golden.stem}-{name}")
                scripts[-1].write_text(text)
    assert len(scripts) == 7
    program = Path(sys.executable).with_name("shellcheck")
    # SC1091: the prologue of the example reads a file that is not here.
    command = [program, "--exclude=SC1091", *scripts, ROOT / "launch" / "supervise.sh"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.stdout == ""
    assert checked.returncode == 0


@pytest.mark.skipif(platform.machine() != "x86_64", reason="hadolint comes for x86 only")
def test_hadolint_finds_nothing_in_the_dockerfile():
    program = Path(sys.executable).with_name("hadolint")
    checked = subprocess.run([program, ROOT / "launch" / "Dockerfile"], capture_output=True, text=True, check=False)
    assert checked.stdout == ""
    assert checked.returncode == 0


def test_dockerfile_copies_all_that_the_package_is_built_from():
    lines = (ROOT / "launch" / "Dockerfile").read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]}
    assert copied >= {"bioclip_jax", "configs", "data", "evals", "launch", "setup.py", "pyproject.toml", "MANIFEST.in"}
    assert all((ROOT / name).exists() for name in copied)
    assert not any(line.startswith("USER ") for line in lines)  # xpk gives a job no user, and TPU devices are root's
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in lines


def test_options_of_sbatch_are_known_stand_before_the_first_command_and_hold_no_blanks():
    known = (
        "job-name array nodes ntasks-per-node gpus-per-node cpus-per-task mem time partition account qos signal output"
    )
    for case in ("slurm", "slurm_sweep"):
        (text,) = files_of(GOLDENS / f"{case}.txt").values()
        head, _, body = text.partition("\n\n")
        first, *options = head.splitlines()
        assert first == "#!/bin/bash"
        parsed = dict(re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", line).groups() for line in options)
        assert parsed.keys() <= {*known.split(), "requeue", "open-mode"}
        assert "#SBATCH" not in body
        assert re.fullmatch(r"B:TERM@\d+", parsed["signal"])
        assert int(parsed["signal"].rpartition("@")[2]) > int(
            re.search(r"^GRACE_SECONDS=(\d+)$", body, re.MULTILINE)[1]
        )
