"""`bioclip-jax launch`: what it refuses, in which words, and what it submits."""

import shlex
from pathlib import Path

import pytest

from bioclip_jax.cli import main
from bioclip_jax.config import CLIPConfig, TrainConfig
from bioclip_jax.config_json import to_json
from bioclip_jax.errors import UsageError
from bioclip_jax.launching.environment import environment
from bioclip_jax.launching.grace import grace_seconds
from bioclip_jax.launching.hardware import Machines, TpuSlices
from bioclip_jax.launching.job import job_name, parse_work_dir, require_name
from bioclip_jax.launching.site import Site, parse_toleration, read_site

pytestmark = pytest.mark.core

SITE = Path(__file__).parents[2] / "launch" / "site.example.yaml"
TPU = "gke-jobset demo --topology v5e-16 --image image --work-dir gs://bucket/run --data.dataset gs://bucket/data"
DISK = TPU.replace("gs://bucket/run", "/disk/run")
SLURM = "slurm demo --work-dir /shared/run"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "name a target"),
        ("slrm demo", "did you mean slurm"),
        ("slurm", "name a config"),
        ("slurm nothing --work-dir /run", "no config is called 'nothing'"),
        ("gke-jobset demo --work-dir gs://bucket/run", "gke-jobset needs --topology"),
        (f"{TPU} --topology v9-16", "topology 'v9-16'"),
        (f"{TPU} --topology h100", "topology 'h100'"),
        (
            "slurm demo --topology v5e-16 --work-dir /run",
            "slurm runs on other hardware; gke-xpk, gke-jobset, tpu-vm, vm",
        ),
        ("vm demo --topology v5e-16 --work-dir /run", "is 4 machines; vm is one"),
        ("vm demo --nodes 2 --work-dir /run", "is 2 machines; vm is one"),
        ("vm scaling_emergence --work-dir /run", "runs one job"),
        (f"{TPU} --image ''", "gke-jobset needs --image, or image in your --site file"),
        (TPU.replace("gke-jobset", "tpu-vm"), "tpu-vm needs --project"),
        (DISK, "in no bucket"),
        (f"{TPU} --topology 2xv5e-4", "slices that work together have several hosts each"),
        (DISK.replace("gke-jobset", "tpu-vm") + " --project p --zone z", "would be on the disk of each TPU VM"),
        (f"{TPU} --data.dataset /data", "/data is read, and on no volume: --volume-path is not given"),
        (f"{DISK} --volume-claim disk --volume-path /other", "not below"),
        ("gke-jobset demo --topology v5e-16 --image image --work-dir s3://bucket/run", "neither a folder nor gs://"),
        ("slurm demo --work-dir gs://bucket/run", "slurm has no gs:// folders"),
        (f"{SLURM} --partition 'a b'", "--partition is 'a b'"),
        (f"{SLURM} --sbatch-options gres", "'gres' is no option"),
        (f"{SLURM} --container pyxis --data.dataset /data", "needs --image"),
        (f"{SLURM} --name Run", "--name is 'Run'"),
        (f"{SLURM} --global-batch-size 100", "global_batch_size 100 does not divide over the 8 devices of 1x8 GPUs"),
        (f"{SLURM} --global-batch-size 64 --micro-batches 16", "8 devices in 16 micro_batches each"),
        (f"{SLURM} --mesh.fsdp 3", "mesh.fsdp is 3, which does not divide the 8 devices"),
        (f"{SLURM} --nodes 2 --mesh.fsdp 16 --global-batch-size 64", "mesh.fsdp is 16"),
        (f"{SLURM} --mesh.data 4", "mesh.data 4 x mesh.fsdp 1 is not the 8 devices"),
        (f"{SLURM} --global-batch-size 1", "global_batch_size is 1"),
        (f"{TPU} --attention cudnn --dtype bfloat16", "attention cudnn needs NVIDIA GPUs; v5e:4x4 has none"),
        (f"{SLURM} --cache ram", "give both or neither"),
        (f"{SLURM} --cache ram --cache-gigabytes 10", "--cache is for datasets in object storage"),
        (f"{SLURM} --max-restarts -1", "--max-restarts is -1"),
        ("slurm demo --work-dir ''", "--work-dir is empty"),
        (f"{TPU} --spot --reservation ours", "--spot, and machines of the reservation ours"),
        (f"{TPU} --at-once 2", "--at-once and --tasks are slurm's"),
        (f"{TPU} --namespace My_Team", "namespace is 'My_Team'; names in Kubernetes"),
        (f"{TPU} --image 'two words'", "image is 'two words'"),
        (f"{TPU} --image=-v", "image is '-v'"),
        (f"{TPU} --volume-claim disk", "volume_path is ''"),
        (f"{TPU} --topology v5e:2x8", "no such slice can be had; there are 1x1"),
        (f"{TPU} --initial-weights my/weights", "initial_weights is my/weights, which is relative"),
        (TPU.replace("gke-jobset", "tpu-vm") + " --project p --zone z --out a,b", "gcloud takes no path with commas"),
        (f"{SLURM} --profile-steps 5", "--profile-steps is '5'"),
        (f"{SLURM} --nodes 0", "there has to be one node"),
        (f"{SLURM} --nodes 4 --topology h100x32", "give one of them"),
        (f"{SLURM} --spot", "--spot is for machines of a cloud"),
        (f"{TPU} --data.dataset my/data", "relative to a folder that a container does not have"),
        (f"{TPU} --site nowhere.yaml", "--site nowhere.yaml cannot be read"),
        (f"{TPU} --tolerations nonsense", "'nonsense' has to be KEY:EFFECT"),
    ],
)
def test_wrong_usage_is_one_line_that_names_it(command, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["launch", *shlex.split(command)])
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]


def test_help_names_every_target_and_says_that_local_is_one(capsys):
    main(["launch", "--help"])
    shown = capsys.readouterr().out
    assert all(
        f"\n  {name} " in shown for name in ("gke-xpk", "gke-jobset", "tpu-vm", "slurm", "k8s-gpu", "vm", "local")
    )


def test_fields_of_the_config_come_with_and_without_dashes(rendered):
    before = rendered(*shlex.split(f"{SLURM} --total-steps 7 --name a"))["a.sbatch"]
    after = rendered(*shlex.split(f"{SLURM} --name b -- --total-steps 7"))["b.sbatch"]
    assert "train demo --work-dir /shared/run --total-steps 7)" in before
    assert "train demo --work-dir /shared/run --total-steps 7)" in after


def test_work_directory_of_another_config_is_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text(to_json(TrainConfig(seed=1)))
    with pytest.raises(SystemExit) as stopped:
        main(["launch", "slurm", "demo", "--work-dir", str(tmp_path)])
    assert stopped.value.code == 2
    assert "holds a run whose" in capsys.readouterr().err


def test_flags_win_over_the_site_and_all_its_keys_are_flags(rendered):
    arguments = shlex.split(f"{SLURM} --site {SITE} --partition other --environment A=1 'B=c d' --name run")
    script = rendered(*arguments)["run.sbatch"]
    assert "#SBATCH --partition=other" in script
    assert "#SBATCH --account=my-account" in script
    assert "export A=1\nexport B='c d'\n" in script


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """An empty path, on which a test puts the engine's tool."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.chdir(tmp_path)

    def make(name: str, body: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o700)

    return make


def test_submit_hands_the_written_file_to_the_engine(engine, capfd, tmp_path):
    engine("sbatch", 'read -r first <"$1"; echo "Submitted $1 $first"')
    main(["launch", *SLURM.split(), "--name", "run", "--submit"])
    assert "Submitted launch-run/run.sbatch #!/bin/bash" in capfd.readouterr().out
    assert "#SBATCH" in (tmp_path / "launch-run" / "run.sbatch").read_text()


def test_nothing_is_written_or_started_without_being_asked(engine, tmp_path):
    engine("sbatch", "touch started")
    main(["launch", *SLURM.split()])
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_engine_that_is_not_there_is_one_line_that_says_how_to_get_it(engine, capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["launch", *TPU.split(), "--submit"])
    assert stopped.value.code == 1
    assert "error: kubectl is not on the path, and --submit needs it; https://" in capsys.readouterr().err
    assert not list(tmp_path.glob("launch-*"))


def test_words_of_the_engine_go_through_as_they_are(engine, capfd):
    engine("gcloud", "echo 'ERROR: Quota TPUS exceeded in region' >&2; exit 3")
    with pytest.raises(SystemExit) as stopped:
        main(["launch", *TPU.replace("gke-jobset", "tpu-vm").split(), "--project", "p", "--zone", "z", "--submit"])
    assert stopped.value.code == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[-2:] == [
        "ERROR: Quota TPUS exceeded in region",
        "error: gcloud ended with exit code 3; what it said stands above",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("imagee: x", "unknown key 'imagee'; did you mean image"),
        ("zone: 3", "zone: expected str, got 3; put it in quotes"),
        ("time_limit: 24:00:00", "put it in quotes"),
        ("environment: {A: 1}", "environment: A: 1 is not a text; put it in quotes"),
        ("environment: [A]", "environment: expected NAME: VALUE lines"),
        ("environment: {'A B': x}", "'A B' is no name of a variable"),
        ("prologue: module load cuda", "prologue: expected a list"),
        ("spot: yes", "unknown key 'spot'"),
        ("gpus_per_node: many", "gpus_per_node: expected int, got 'many'"),
        ("container: docker", "container: expected one of none, pyxis, apptainer"),
        ("image: [", "line 1"),
        ("- image", "expected lines such as `image: NAME`"),
        ("image: a\nqueue: b\nimage: c", "line 3: image stands there twice"),
        ("image: !!python/object:os.system x", "could not determine a constructor"),
        ('zone: "a\\nb"', "one line without control characters"),
    ],
)
def test_site_file_that_is_wrong_is_refused_by_the_key(content, message, tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(content)
    with pytest.raises(UsageError, match=r"site\.yaml|one line|no name") as refused:
        read_site(path)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_example_site_has_no_unknown_key_and_an_empty_one_is_the_default(tmp_path):
    assert read_site(SITE).partition == "gpu"
    empty = tmp_path / "site.yaml"
    empty.write_text("# image: none yet\n")
    assert read_site(empty) == Site()


def test_tolerations_are_those_of_kubernetes():
    assert parse_toleration("a.b/c:NoSchedule") == {"key": "a.b/c", "operator": "Exists", "effect": "NoSchedule"}
    assert parse_toleration("a=b:NoExecute") == {"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"}


@pytest.mark.parametrize(
    ("slices", "hosts", "per_host", "devices", "cloud", "xpk"),
    [
        (TpuSlices("v5e", (16, 16)), 64, 4, 256, "v5litepod-256", "v5litepod-256"),
        (TpuSlices("v5e", (2, 4)), 1, 8, 8, "v5litepod-8", "v5litepod-8"),
        (TpuSlices("v5p", (4, 4, 4), 2), 16, 4, 128, "v5p-128", "v5p-128"),
        (TpuSlices("v6e", (1, 1)), 1, 1, 1, "v6e-1", "v6e-1"),
        (TpuSlices("v4", (2, 2, 1)), 1, 4, 4, "v4-8", "v4-8"),
        (TpuSlices("tpu7x", (2, 2, 4)), 4, 4, 32, None, "tpu7x-32"),
    ],
)
def test_slices_have_the_hosts_and_names_of_their_makers(slices, hosts, per_host, devices, cloud, xpk):
    assert (slices.hosts, slices.chips_per_host, slices.devices, slices.xpk_type) == (hosts, per_host, devices, xpk)
    if cloud:
        assert slices.accelerator_type == cloud
    else:
        with pytest.raises(UsageError, match="GKE only"):
            _ = slices.accelerator_type
    assert Machines(4, 8).devices == 32


@pytest.mark.parametrize(
    ("generation", "shape"),
    [("v5e", (1, 2)), ("v5e", (2, 8)), ("v5e", (4, 2)), ("v6e", (16, 32)), ("v5p", (4, 2, 2)), ("v4", (1, 1, 1))],
)
def test_slices_that_nobody_sells_are_refused(generation, shape):
    with pytest.raises(UsageError, match=r"no such slice can be had; there are .*2x2"):
        TpuSlices(generation, shape)


def test_slice_whose_name_would_mean_another_shape_is_named_by_its_own_or_refused():
    flat = TpuSlices("v5p", (4, 4, 16))
    assert flat.gke_topology == "4x4x16"
    assert flat.xpk_type == "v5p-4x4x16"
    with pytest.raises(UsageError, match="v5p-512 is a slice of as many chips, but more cubic"):
        _ = flat.accelerator_type
    assert TpuSlices("v5p", (4, 8, 8)).xpk_type == "v5p-512"
    assert TpuSlices("v5p", (4, 4, 12)).accelerator_type == "v5p-384"


def test_grace_period_grows_with_the_checkpoint_unless_it_is_given(rendered):
    assert grace_seconds(TrainConfig(model=CLIPConfig.vit_l14())) == 240
    assert grace_seconds(TrainConfig(model=CLIPConfig.vit_h14())) == 360
    assert "\nGRACE_SECONDS=150\n" in rendered(*SLURM.split(), "--name", "a")["a.sbatch"]
    given = rendered(*SLURM.split(), "--name", "b", "--grace-seconds", "600")["b.sbatch"]
    assert "\nGRACE_SECONDS=600\n" in given
    assert "#SBATCH --signal=B:TERM@660\n" in given


def test_work_directories_are_folders_or_buckets():
    assert parse_work_dir("/shared/run/").folder == "/shared/run"
    found = parse_work_dir("gs://my-bucket/a//b")
    assert (found.folder, found.mount, found.url) == ("/gcs/my-bucket/a/b", "/gcs/my-bucket", "gs://my-bucket/a/b")
    assert (found.visible, parse_work_dir("/a/b").visible) == ("/gcs/my-bucket", "/a")
    assert parse_work_dir("/a").visible == "/a"  # no container can have another's root
    for wrong in (
        "gs://bucket",
        "gs://bucket/",
        "gs://b/a",
        "gs://bucket/../x",
        "gs://Bucket/x",
        "az://x/y",
        "/a\nb",
        "/",
        "",
    ):
        with pytest.raises(UsageError, match="--work-dir"):
            parse_work_dir(wrong)


def test_names_are_valid_everywhere():
    for text in ("bioclip2", "My Config_1", "1x", "ä", "-", "x" * 200, "a" * 39 + "-b"):
        assert require_name(job_name(text)) == job_name(text)
    assert job_name("x" * 200) != job_name("x" * 199)


def test_gpus_by_their_name_are_nodes_with_what_serves_their_kind(render):
    shown = render(*shlex.split("slurm bioclip2 --topology h100x32 --micro-batches 4 --work-dir /shared/run"))
    assert "#SBATCH --nodes=4\n#SBATCH --ntasks-per-node=8\n#SBATCH --gpus-per-node=8\n" in shown
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1" in shown
    assert environment(Machines(1, 8, "a100-80"), {"NCCL_NVLS_ENABLE": "0"})["NCCL_NVLS_ENABLE"] == "0"
    assert "CUDA_DEVICE_MAX_CONNECTIONS" not in environment(Machines(1, 8, "a100-80"), {})
    assert environment(TpuSlices("v5e", (4, 4)), {}) == {"PYTHONUNBUFFERED": "1", "JAX_PLATFORMS": "tpu,cpu"}


def test_machine_with_processors_only_is_one_device(render):
    shown = render(*shlex.split("vm demo --gpus-per-node 0 --work-dir /disk/run --total-steps 3"))
    assert "COMMAND=(bioclip-jax train demo --work-dir /disk/run --total-steps 3)" in shown
    assert "NCCL" not in shown
