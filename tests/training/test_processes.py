"""Two processes are one run: the same figures, one agreed end, and nobody who waits for the dead.

The processes are on this machine and exchange by Gloo, as hosts would by their network.
"""

import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from bioclip_jax.training.checkpointing import finished_steps
from bioclip_jax.training.metrics import TIMINGS, read_metrics

STEPS = 8
CONFIG = """
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(8, VisionConfig(16, 8, 16, 1, 2), TextConfig(width=16, layers=1, heads=2)),
    data=DataConfig(dataset={dataset!r}, text_types=("sci",), prefetch_batches=1, threads=1),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    checkpoint=CheckpointConfig(every_steps=3, keep=5),
    global_batch_size=8,
    total_steps=8,
    dtype="float32",
    log_every=1,
)
"""
DATA = '''
"""Organisms that a process with FAILS=start cannot open, and with FAILS=INDEX not read from there on."""
import os

from bioclip_jax.errors import UserError
from bioclip_jax.recipes import load_recipe


class Organisms:
    def __init__(self, records):
        self.records = records
        self.read = 0

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.read += 1
        if self.read > int(os.environ.get("FAILS", "1000000")):
            raise UserError("the disk is gone")
        return self.records[index]


def source():
    if os.environ.get("FAILS") == "start":
        raise UserError("the disk is not there")
    records = load_recipe("data", "synthetic").source(num_images=40, num_species=10, image_size=16)["train"]
    return {"train": Organisms([records[index] for index in range(40)])}
'''


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The file of a config."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "organisms.py").write_text(DATA)
    (folder / "config.py").write_text(CONFIG.format(dataset=str(folder / "organisms.py")))
    return folder / "config.py"


class Run:
    """Processes that train together, with a file for what each of them says."""

    def __init__(self, recipe, work_dirs, folder, *flags, devices=1, environments=({}, {})):
        count = len(work_dirs)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        self.outputs = [folder / f"process{index}.{port}.txt" for index in range(count)]
        self.processes = []
        for index, work_dir in enumerate(work_dirs):
            command = [sys.executable, "-m", "bioclip_jax.cli", "train", str(recipe), "--work-dir", str(work_dir)]
            if count > 1:
                command += ["--coordinator", f"127.0.0.1:{port}", "--num-processes", str(count)]
                command += ["--process-id", str(index)]
            environment = os.environ | {
                "JAX_NUM_CPU_DEVICES": str(devices),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "BIOCLIP_JAX_PEER_SECONDS": "12",
            }
            with self.outputs[index].open("w") as file:
                self.processes.append(
                    subprocess.Popen(
                        [*command, *flags],
                        env=environment | environments[index],
                        stdout=subprocess.DEVNULL,
                        stderr=subprocess.PIPE if index == 0 else file,
                        text=True,
                    )
                )

    def after(self, step):
        """Waits until the first process says that a step is done."""
        said = []
        for line in self.processes[0].stderr:
            said.append(line)
            if line.startswith(f"step {step}/"):
                return self
        raise AssertionError(f"it ended before step {step}: {''.join(said)}")

    def ends(self):
        """The exit codes, and what each process said last."""
        errors = [self.processes[0].communicate(timeout=240)[1]]
        codes = [process.wait(timeout=60) for process in self.processes]
        return codes, errors + [output.read_text() for output in self.outputs[1:]]


def figures(work_dir):
    rows = read_metrics(work_dir)
    assert [row["step"] for row in rows] == list(range(STEPS))
    names = sorted(rows[0].keys() - set(TIMINGS) - {"replaced_samples"})
    return np.array([[row[name] for name in names] for row in rows])


def finished(run):
    codes, errors = run.ends()
    assert set(codes) == {0}, errors


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """The figures of one process with two devices."""
    folder = tmp_path_factory.mktemp("alone")
    finished(Run(recipe, [folder / "run"], folder, devices=2))
    return figures(folder / "run")


@pytest.mark.slow
def test_terminated_processes_end_together_and_one_process_continues_with_the_same_figures(recipe, alone, tmp_path):
    work_dir = tmp_path / "run"
    run = Run(recipe, [work_dir] * 2, tmp_path).after(2)
    run.processes[1].send_signal(signal.SIGTERM)
    codes, errors = run.ends()
    assert codes == [42, 42], errors
    assert all("saved; run the same command to continue" in text for text in errors)
    stopped_at = finished_steps(work_dir)[-1]
    assert stopped_at == len(read_metrics(work_dir)) < STEPS
    finished(Run(recipe, [work_dir], tmp_path, devices=2))
    np.testing.assert_allclose(figures(work_dir), alone, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_data_that_fail_in_one_process_end_both_with_everything_saved(recipe, alone, tmp_path):
    work_dir = tmp_path / "run"
    codes, errors = Run(recipe, [work_dir] * 2, tmp_path, environments=({}, {"FAILS": "19"})).ends()
    assert codes == [1, 1], errors
    assert "error: another process stopped: see its output" in errors[0]
    assert "error: the disk is gone" in errors[1]
    assert finished_steps(work_dir)[-1] == len(read_metrics(work_dir)) == 4  # 4 of 8 rows are this process's
    finished(Run(recipe, [work_dir], tmp_path, devices=2))
    np.testing.assert_allclose(figures(work_dir), alone, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.full  # the rehearsal of tests/launching kills one, too
@pytest.mark.parametrize("victim", [0, 1])
def test_peer_of_a_killed_process_asks_to_be_started_again(recipe, alone, tmp_path, victim):
    work_dir = tmp_path / "run"
    run = Run(recipe, [work_dir] * 2, tmp_path).after(5)
    run.processes[victim].kill()
    codes, errors = run.ends()
    assert codes[1 - victim] == 42, errors
    assert f"error: process {victim} " in errors[1 - victim]
    assert "start all processes again" in errors[1 - victim]
    assert "Traceback" not in errors[1 - victim]
    finished(Run(recipe, [work_dir] * 2, tmp_path))
    np.testing.assert_allclose(figures(work_dir), alone, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.full
def test_interrupted_processes_exit_as_one_process_does(recipe, tmp_path):
    run = Run(recipe, [tmp_path / "run"] * 2, tmp_path).after(2)
    for process in run.processes:
        process.send_signal(signal.SIGINT)
    codes, errors = run.ends()
    assert codes == [130, 130], errors


@pytest.mark.slow
def test_nobody_waits_for_a_process_that_cannot_start(recipe, tmp_path):
    codes, errors = Run(recipe, [tmp_path / "run"] * 2, tmp_path, environments=({}, {"FAILS": "start"})).ends()
    assert codes == [1, 1], errors
    assert all("the disk is not there" in text for text in errors)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_work_directory_that_is_not_shared_is_refused(recipe, tmp_path):
    codes, errors = Run(recipe, [tmp_path / "a", tmp_path / "b"], tmp_path).ends()
    assert codes == [1, 1], errors
    assert all("is not shared between the hosts" in text for text in errors)


@pytest.mark.slow
@pytest.mark.full
def test_two_processes_of_two_devices_compute_what_one_of_four_does(recipe, tmp_path):
    environment = {"JAX_ENABLE_X64": "1"}
    flags = ("--dtype", "float64", "--mesh.fsdp", "2", "--profile-steps", "3:1", "--checkpoint.every-minutes", "1e-9")
    finished(Run(recipe, [tmp_path / "one"], tmp_path, *flags, devices=4, environments=[environment]))
    finished(Run(recipe, [tmp_path / "two"] * 2, tmp_path, *flags, devices=2, environments=[environment] * 2))
    np.testing.assert_allclose(figures(tmp_path / "two"), figures(tmp_path / "one"), rtol=1e-10)
    assert list((tmp_path / "two" / "profile").rglob("*.xplane.pb"))
    assert set(finished_steps(tmp_path / "two")) > {3, 6, 8}  # and some by time
