"""The rendered scripts, run for real with stand-ins for srun, docker, gcsfuse and the trainer on the path."""

import shlex
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bioclip_jax.launching import jobset, machine, slurm, tpu_vm, xpk
from bioclip_jax.launching.hardware import Machines, TpuSlices
from bioclip_jax.launching.job import Cache, Job, WorkDir
from bioclip_jax.launching.rendering import Rendering
from bioclip_jax.launching.site import Site

pytestmark = pytest.mark.core

PROGRAMS = "srun scancel scontrol docker gcsfuse gcloud systemctl bioclip-jax mountpoint fusermount".split()
FOLDER = WorkDir("/shared/run")
TPUS = TpuSlices("v5e", (4, 4))
BUCKET = WorkDir("/gcs/my-bucket/run", "my-bucket", "/gcs/my-bucket")


class World:
    """A machine on which only the stand-ins do anything."""

    def __init__(self, folder: Path):
        self.folder = folder
        bin_folder = folder / "bin"
        bin_folder.mkdir(parents=True)
        fake = Path(__file__).with_name("fakes.sh")
        for name in PROGRAMS:
            shutil.copy(fake, bin_folder / name)
            (bin_folder / name).chmod(stat.S_IRWXU)
        path = f"{bin_folder}:/usr/bin:/bin"
        self.environment = {"FAKE": str(folder), "PATH": path, "RESTART_SECONDS": "0", "SLURM_JOB_ID": "7"}

    def ends(self, program: str, *codes: object) -> None:
        (self.folder / f"{program}.codes").write_text("".join(f"{code}\n" for code in codes))

    def says(self, program: str, text: str) -> None:
        (self.folder / f"{program}.says").write_text(text)

    def start(self, script: str, **environment: str) -> subprocess.Popen[str]:
        path = self.folder / "script.sh"
        path.write_text(script)
        return subprocess.Popen(
            ["bash", str(path)],
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, script: str, **environment: str) -> int:
        process = self.start(script, **environment)
        self.output = "".join(process.communicate(timeout=60))
        return process.returncode

    def calls(self, program: str) -> list[list[str]]:
        path = self.folder / "calls"
        records = path.read_bytes().decode().split("\x1e\0")[:-1] if path.exists() else []
        found = [record.split("\0")[:-1] for record in records]
        return [words[1:] for words in found if words[0] == program]

    def variables(self, program: str) -> dict[str, str]:
        content = (self.folder / f"{program}.environment").read_bytes().decode()
        return dict(line.split("=", 1) for line in content.split("\0") if line)


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path / "world")


def job(**changes: object) -> Job:
    return Job(**{"name": "run", "config": "bioclip2", "work_dir": FOLDER, "max_restarts": 3, **changes})


def text(rendering: Rendering, ending: str) -> str:
    (found,) = [file.text for file in rendering.files if file.name.endswith(ending)]
    return found


def slurm_script(one: Job | None = None, site: Site = Site()) -> str:
    return text(slurm.render([one or job()], Machines(2, 8), site), ".sbatch")


def vm_script(one: Job | None = None, site: Site = Site()) -> str:
    rendering = machine.render(one or job(), Machines(1, 2), site, Path("/launch"))
    return text(rendering, ".sh")


SCRIPTS = {"slurm": (slurm_script, "srun"), "vm": (vm_script, "bioclip-jax")}


@pytest.mark.parametrize("target", SCRIPTS)
@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [
        ([0], 0, 1),
        ([42, "KILL", 0], 0, 3),
        ([1], 1, 1),
        ([2], 2, 1),
        ([42, 1], 1, 2),
        ([127], 127, 1),
        ([128], 128, 1),  # containerd: it could not be started
        ([42] * 9, 1, 4),
    ],
)
def test_exit_codes_decide_whether_a_job_is_started_again(target, codes, code, starts, world):
    script, program = SCRIPTS[target]
    world.ends(program, *codes)
    assert world.run(script()) == code
    assert len(world.calls(program)) == starts
    assert not world.calls("scontrol")


@pytest.mark.parametrize("target", SCRIPTS)
def test_sigterm_reaches_the_command_and_its_save_is_waited_for(target, world):
    script, program = SCRIPTS[target]
    world.ends(program, "WAIT", 0)
    world.says("scontrol", "JobId=7 JobState=RUNNING Requeue=1")
    process = world.start(script())
    lines = [process.stdout.readline()]
    while lines[-1] != "started\n":
        lines.append(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 42
    assert "saving\nsaved\n" in output
    assert len(world.calls(program)) == 1
    if target == "slurm":
        assert world.calls("scancel") == [["--signal=TERM", "7"]]
        assert world.calls("scontrol")[-1] == ["requeue", "7"]


@pytest.mark.parametrize(("state", "count"), [("CANCELLED", "0"), ("RUNNING", "3")])
def test_slurm_does_not_queue_a_job_again_that_was_cancelled_or_restarted_too_often(state, count, world):
    world.ends("srun", "WAIT")
    world.says("scontrol", f"JobId=7 JobState={state} Requeue=1")
    process = world.start(slurm_script(), SLURM_RESTART_COUNT=count)
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert ["requeue", "7"] not in world.calls("scontrol")


def test_every_job_of_a_slurm_array_runs_its_own_command(world):
    jobs = [job(name=f"run-{name}", variant=name, work_dir=WorkDir(f"/shared/{name}")) for name in ("a", "b")]
    script = text(slurm.render(jobs, Machines(1, 1), Site()), ".sbatch")
    assert world.run(script, SLURM_ARRAY_TASK_ID="1") == 0
    (call,) = world.calls("srun")
    assert call[-5:] == ["bioclip-jax", "train", "bioclip2:b", "--work-dir", "/shared/b"]


def test_last_job_of_a_slurm_array_does_not_speak_for_the_whole_array(world):
    # Its SLURM_JOB_ID is the array's, by which scancel and scontrol would reach all jobs of it.
    world.ends("srun", "WAIT")
    world.says("scontrol", "JobId=7 JobState=RUNNING Requeue=1")
    process = world.start(slurm_script(), SLURM_ARRAY_JOB_ID="7", SLURM_ARRAY_TASK_ID="1")
    assert process.stdout.readline() == "started\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert world.calls("scancel") == [["--signal=TERM", "7_1"]]
    assert world.calls("scontrol") == [["show", "job", "7_1"], ["requeue", "7_1"]]


def test_slurm_cache_lies_in_memory_and_is_removed_after_the_run(world):
    script = slurm_script(job(cache=Cache("ram", 10, {"data": 1.0})))
    world.says("scontrol", "JobId=7 JobState=RUNNING Requeue=1")
    assert world.run(script, SLURM_JOB_NUM_NODES="2") == 0
    first, last = world.calls("srun")
    assert first[-4:] == ["--data.cache-folder", "/dev/shm/bioclip-jax-7/data", "--data.cache-bytes", "9000000000"]
    assert last == ["--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "rm", "-rf", "--", "/dev/shm/bioclip-jax-7"]


def test_slurm_cache_of_a_cancelled_job_is_removed_where_the_script_runs(world, tmp_path):
    (tmp_path / "disk/bioclip-jax-7").mkdir(parents=True)
    script = slurm_script(job(cache=Cache("local-ssd", 10, {"data": 1.0})), Site(local_disk=f"{tmp_path}/disk"))
    world.says("scontrol", "JobId=7 JobState=COMPLETING")
    assert world.run(script, SLURM_JOB_NUM_NODES="2") == 0
    assert len(world.calls("srun")) == 1
    assert list((tmp_path / "disk").iterdir()) == []


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("us-docker.pkg.dev/p/image:1", "us-docker.pkg.dev#p/image:1"),
        ("localhost:5000/image", "localhost:5000#image"),
        ("team/image:1", "team/image:1"),
        ("image", "image"),
        ("/shared/image.sqsh", "/shared/image.sqsh"),
        ("./image.sqsh", "./image.sqsh"),
        ("registry.example#team/image:1", "registry.example#team/image:1"),
    ],
)
def test_pyxis_finds_an_image_by_the_name_that_docker_has_for_it(image, name):
    script = slurm_script(job(), Site(container="pyxis", image=image))
    assert f"--container-image={shlex.quote(name)} " in script


def test_slurm_container_sees_the_folders_and_the_cache(world, tmp_path):
    folder = WorkDir(f"{tmp_path}/runs/first")
    one = job(work_dir=folder, cache=Cache("local-ssd", 10, {"data": 1.0}), reads=("/data",))
    site = Site(container="pyxis", image="registry.example#team/image:1", local_disk="/ssd")
    assert world.run(slurm_script(one, site), SLURM_JOB_NUM_NODES="2") == 0
    call = world.calls("srun")[0]
    assert call[2:4] == [
        "--container-image=registry.example#team/image:1",
        f"--container-mounts={tmp_path}/runs:{tmp_path}/runs,/data:/data,/ssd:/ssd",
    ]
    assert (tmp_path / "runs").is_dir()


def test_slurm_container_of_an_array_sees_what_any_of_its_jobs_reads():
    jobs = [job(name=f"run-{name}", work_dir=WorkDir(f"/runs/{name}"), reads=(f"/data/{name}",)) for name in "ab"]
    script = text(slurm.render(jobs, Machines(1, 1), Site(container="apptainer", image="i.sif")), ".sbatch")
    assert "--nv --bind /runs:/runs --bind /data/a:/data/a --bind /data/b:/data/b i.sif" in script


def test_container_on_a_machine_gets_bucket_cache_config_and_variables(world, tmp_path):
    one = job(
        environment={"A": "b c"},
        work_dir=WorkDir(f"{tmp_path}/gcs/my-bucket/run", "my-bucket", f"{tmp_path}/gcs/my-bucket"),
        cache=Cache("local-ssd", 10, {"data": 1.0}),
        config="/home/me/config.py",
        config_text="config = ...",
        reads=("/data",),
    )
    world.ends("mountpoint", 1)
    site = Site(image="image", local_disk=str(tmp_path))
    assert world.run(vm_script(one, site)) == 0
    (mount,) = world.calls("gcsfuse")
    assert world.calls("fusermount")[-1] == ["-u", mount[-1]]
    assert mount[-2:] == ["my-bucket", f"{tmp_path}/gcs/my-bucket"]
    assert {"--metadata-cache-ttl-secs=0", "--rename-dir-limit=200000", "--implicit-dirs=true"} <= set(mount)
    run = world.calls("docker")[-1]
    assert run[:4] == ["run", "--rm", "--name", "run"]
    assert {
        "--init",
        "--gpus=all",
        "A",
        f"{tmp_path}/run:/cache",
        "/home/me/config.py:/home/me/config.py:ro",
        "/data:/data:ro",
    } <= set(run)
    assert run[run.index("image") + 1 :][:3] == ["bioclip-jax", "train", "/home/me/config.py"]
    assert world.variables("docker")["A"] == "b c"


def test_tpu_vm_starts_a_unit_that_runs_the_container(world, tmp_path):
    one = job(work_dir=BUCKET, config="/home/me/config.py", config_text="config = 'END_OF_FILE'\nEND_OF_FILE\n")
    site = Site(project="p", zone="z", image="registry.example:5000/team/image:1", startup=("touch $FAKE/started_up",))
    script = text(tpu_vm.render(one, TPUS, site), ".startup.sh")
    machine_folder = tmp_path / "machine"
    (machine_folder / "etc/systemd/system").mkdir(parents=True)
    script = script.replace("/opt/", f"{machine_folder}/opt/").replace("/etc/systemd", f"{machine_folder}/etc/systemd")
    assert world.run(script) == 0
    assert (world.folder / "started_up").exists()
    assert world.calls("gcloud") == [["--quiet", "auth", "configure-docker", "registry.example:5000"]]
    unit = "bioclip-jax-run.service"
    assert world.calls("systemctl") == [["daemon-reload"], ["restart", "--no-block", unit]]
    folder = machine_folder / "opt/bioclip-jax"
    assert (folder / "run.py").read_text() == one.config_text
    assert f"{folder}/run.sh" in (machine_folder / "etc/systemd/system" / unit).read_text()
    assert world.run((folder / "run.sh").read_text()) == 0
    run = world.calls("docker")[-1]
    assert {"--privileged", "--network=host", "/gcs/my-bucket:/gcs/my-bucket"} <= set(run)


@pytest.mark.parametrize(
    ("image", "asked"),
    [("image:1.2", []), ("team/image:1.2", []), ("registry.example/image", [("registry.example",)])],
)
def test_tpu_vm_logs_docker_in_to_the_images_own_registry_and_goes_on_without(image, asked, world):
    world.ends("gcloud", 1)
    script = text(tpu_vm.render(job(work_dir=BUCKET), TPUS, Site(project="p", zone="z", image=image)), ".startup.sh")
    before, _, _ = script.partition("mkdir -p")
    assert world.run(f"{before}echo went on") == 0
    assert "went on" in world.output
    assert [tuple(words[3:]) for words in world.calls("gcloud")] == asked


def test_machine_without_gcsfuse_says_in_one_line_what_is_missing(world, tmp_path):
    (world.folder / "bin" / "gcsfuse").unlink()
    world.ends("mountpoint", 1)
    one = job(work_dir=WorkDir(f"{tmp_path}/gcs/my-bucket/run", "my-bucket", f"{tmp_path}/gcs/my-bucket"))
    assert world.run(vm_script(one, Site(image="image"))) == 1
    (line,) = world.output.splitlines()
    assert line.startswith("error: the work directory is in a bucket, and gcsfuse is not installed; install it")
    assert not world.calls("docker")


HOSTILE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\x1e"), max_size=30)
FIXED = [
    "",
    " ",
    "a b",
    "$(touch x)",
    "`id`",
    "'",
    '"',
    "\\",
    "*",
    "a\nb",
    "$HOME",
    "--",
    "!",
    "; exit 1",
    "#",
    "~",
    "$(HOME)",
    "%n",
    "{folder}",
]
KEPT = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def hostile_job(values: list[str]) -> Job:
    """A job whose folder, fields, variant and environment are such values."""
    folder = "".join(letter for letter in values[0] if letter.isprintable() and letter not in ":/")
    fields = tuple(word for value in values for word in ("--data.split", value))
    return job(
        work_dir=WorkDir(f"/shared/in {folder}"),
        fields=fields,
        variant=values[1],
        config="/home/it's me/a b.py",
        environment={"A_1": values[2]},
    )


def fresh(world: World) -> World:
    (world.folder / "calls").unlink(missing_ok=True)
    return world


@KEPT
@given(values=st.lists(HOSTILE | st.sampled_from(FIXED), min_size=3, max_size=3))
def test_hostile_values_come_out_of_every_script_as_they_went_in(values, world):
    one = hostile_job(values)
    assert fresh(world).run(slurm_script(one)) == 0
    assert world.calls("srun")[0][2:] == list(one.command())
    assert world.variables("srun")["A_1"] == values[2]
    assert fresh(world).run(vm_script(one)) == 0
    assert world.calls("bioclip-jax") == [list(one.command()[1:])]
    assert world.variables("bioclip-jax")["A_1"] == values[2]
    site = Site(project="p", zone="z", cluster="c", image="i")
    ((*_, command),) = xpk.render(one, TPUS, site).commands
    assert command.isprintable()
    assert fresh(world).run(command.removeprefix("--command=")) == 0
    assert world.calls("bioclip-jax") == [list(one.command()[1:])]
    assert world.variables("bioclip-jax")["A_1"] == values[2]


def test_fixed_hostile_values_come_out_as_they_went_in(world):
    environment = {f"V{place}": value for place, value in enumerate(FIXED)}
    one = job(fields=tuple(FIXED), variant="it's", environment=environment)
    assert world.run(slurm_script(one)) == 0
    assert world.calls("srun")[0][2:] == list(one.command())
    assert environment.items() <= world.variables("srun").items()
    assert fresh(world).run(vm_script(one, Site(image="image"))) == 0
    assert world.calls("docker")[-1][-len(one.command()) :] == list(one.command())
    assert environment.items() <= world.variables("docker").items()
    site = Site(project="p", zone="z", cluster="c", image="i")
    own = Job("run", "/c.py", FOLDER, tuple(FIXED), config_text="it's\n$(mine)\n", environment=environment)
    ((*_, command),) = xpk.render(own, TPUS, site).commands_in("/elsewhere")
    place = world.folder / "config.py"
    assert fresh(world).run(command.removeprefix("--command=").replace(xpk.CONFIG, str(place))) == 0
    assert place.read_text() == own.config_text
    assert world.calls("bioclip-jax") == [list(own.command(str(place))[1:])]


def kubernetes_reads(text: str) -> str:
    """What a container gets: $$(NAME) is the literal $(NAME)."""
    return text.replace("$$(", "$(")


@KEPT
@given(values=st.lists(HOSTILE | st.sampled_from(FIXED), min_size=3, max_size=3))
def test_hostile_values_come_out_of_yaml_as_they_went_in(values):
    import yaml

    one = hostile_job(values)
    tree = jobset.job_set(one, Machines(2, 8), Site(volume_claim="disk", volume_path="/shared"))
    read = yaml.safe_load(jobset.to_yaml([tree]))
    assert read == tree
    (container,) = read["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert [kubernetes_reads(word) for word in container["args"]] == list(one.command())
    assert kubernetes_reads(container["env"][0]["value"]) == values[2]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd here")
def test_systemd_takes_the_unit_also_in_a_folder_with_a_strange_name(tmp_path):
    folder = tmp_path / "a b'c%d$e"
    folder.mkdir()
    rendering = machine.render(job(), Machines(1, 1), Site(), folder)
    for file in rendering.files:
        (folder / file.name).write_text(file.text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(folder / "run.service")], capture_output=True, text=True, check=False
    )
    assert verified.returncode == 0
    assert not verified.stderr
