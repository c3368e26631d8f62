"""Commands as a user types them: what they print, and how they fail. Each failure is one line and no traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bioclip_jax.cli import COMMANDS, main

pytestmark = pytest.mark.core

CONFIG = """
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=1, heads=2)),
    data=DataConfig(dataset="synthetic", arguments=dict(num_images=64, num_species=20, image_size=32)),
    global_batch_size=16, total_steps=2, dtype="float32",
)
configs = {"large": config}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "small.py"
    path.write_text(CONFIG)
    return path


def fails(capsys, arguments, code, message):
    """Asserts that a command exits with `code` and one line on standard error that contains `message`."""
    with pytest.raises(SystemExit) as exit_info:
        main([str(argument) for argument in arguments])
    errors = capsys.readouterr().err
    assert exit_info.value.code == code, errors
    assert message in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1


def test_help_names_every_command(capsys):
    main(["--help"])
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


OF_A_CONFIG = ("train", "plan", "launch")
"""Their flags are those of a config, which has to be named first."""


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in OF_A_CONFIG])
def test_every_command_has_its_own_help(command, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main([*command.split(), "--help"])
    assert exit_info.value.code == 0
    assert "usage: bioclip-jax " + command in capsys.readouterr().out


@pytest.mark.parametrize("command", OF_A_CONFIG)
def test_help_knows_the_fields_of_a_config_once_it_is_named(command, config, capsys):
    main([command, "--help"])
    shown = capsys.readouterr().out
    assert "usage: bioclip-jax " + command in shown
    assert "CONFIG" in shown
    target = ["slurm"] if command == "launch" else []
    with pytest.raises(SystemExit) as exit_info:
        main([command, *target, str(config), "--help"])
    assert exit_info.value.code == 0
    # `launch` has many flags of its own, and says where the config's are listed.
    assert ("`bioclip-jax train CONFIG" if target else "--optimizer.learning-rate") in capsys.readouterr().out


def test_help_and_version_import_no_jax():
    for arguments in (
        ["--help"],
        ["--version"],
        ["eval", "--help"],
        ["train", "demo", "--help"],
        ["plan", "demo", "--help"],
        ["launch", "slurm", "demo", "--help"],
        ["launch", "local", "--help"],
    ):
        code = (
            "import sys\nfrom bioclip_jax.cli import main\n"
            f"try:\n    main({arguments!r})\nexcept SystemExit:\n    pass\nassert 'jax' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_dry_run_says_what_would_be_trained(config, tmp_path, capsys):
    main(["train", str(config), "--work-dir", str(tmp_path / "run"), "--dry-run", "--total-steps", "7"])
    shown = capsys.readouterr().out
    assert "64 records of split train in synthetic" in shown
    assert "7 steps of 16 pairs" in shown
    assert not (tmp_path / "run").exists()


def test_grid_variant_is_chosen_by_name(config, tmp_path, capsys):
    main(["train", f"{config}:large", "--work-dir", str(tmp_path / "run"), "--dry-run"])
    assert "2 steps" in capsys.readouterr().out
    fails(capsys, ["train", f"{config}:small", "--work-dir", "x"], 2, "it has large")


def test_wrong_commands_configs_and_models(config, tmp_path, capsys):
    fails(capsys, ["trian"], 2, "the commands are data build")
    fails(capsys, ["train", "nothing", "--work-dir", "x"], 2, "no config is called 'nothing'")
    fails(capsys, ["train", tmp_path / "absent.py", "--work-dir", "x"], 2, "absent.py")
    (tmp_path / "broken.py").write_text("import bioclip_jax.config\n\n1 / 0\n")
    fails(capsys, ["train", tmp_path / "broken.py", "--work-dir", "x"], 2, "line 3")
    (tmp_path / "other.py").write_text("config = 5\n")
    fails(capsys, ["train", tmp_path / "other.py", "--work-dir", "x"], 2, "not a bioclip_jax.config.TrainConfig")
    fails(capsys, ["eval", tmp_path / "absent", "synthetic"], 2, "no model at")
    fails(capsys, ["eval", tmp_path], 2, "name at least one benchmark")
    fails(capsys, ["convert", tmp_path, tmp_path / "out", "--to", "orbax"], 2, "is no model")
    fails(capsys, ["report", tmp_path / "absent.sqlite"], 2, "absent.sqlite")
    fails(capsys, ["data", "build", "nothing", tmp_path / "out"], 2, "nothing")
    fails(capsys, ["data", "verify", tmp_path / "absent"], 2, "absent")


def test_wrong_training_arguments(config, tmp_path, capsys):
    train = ["train", config, "--work-dir", tmp_path / "run"]
    fails(capsys, [*train, "--data.dataset", tmp_path / "absent"], 2, "takes no arguments (got num_images")
    fails(capsys, ["train", "demo", *train[2:], "--data.dataset", tmp_path / "absent"], 2, "no such directory")
    fails(capsys, [*train, "--data.split", "validation"], 2, "'validation' is not one of train, test")
    fails(capsys, [*train, "--global-batch-size", "100"], 1, "larger than the 64 records")
    fails(capsys, [*train, "--global-batch-size", "6"], 2, "does not divide over 4 devices")
    fails(capsys, [*train, "--mesh.fsdp", "3"], 2, "does not divide the 4 devices")
    fails(capsys, [*train, "--attention", "cudnn", "--dtype", "bfloat16"], 2, "needs an NVIDIA GPU")
    fails(capsys, [*train, "--dtype", "float64"], 2, "JAX_ENABLE_X64=1")
    fails(capsys, [*train, "--model.text.vocab-size", "1000"], 2, "vocab_size is 1000")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    fails(capsys, ["train", config, "--work-dir", tmp_path / "full"], 2, "is not empty and holds no run")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "precious"
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    fails(capsys, ["train", config, "--work-dir", tmp_path / "damaged"], 1, "cannot be read as a run's config")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model.vision.heads 0", "model.vision.heads is 0"),
        ("--model.vision.patch-size 0", "model.vision.patch_size is 0"),
        ("--checkpoint.every-steps 0", "checkpoint.every_steps is 0"),
        ("--checkpoint.keep 0", "checkpoint.keep is 0"),
        ("--seed -1", "seed is -1"),
        ("--data.crop-scale 0.9 0.5", "data.crop_scale is (0.9, 0.5)"),
        ("--data.crop-ratio 0 1", "data.crop_ratio is (0.0, 1.0)"),
        ("--data.threads 0", "data.threads is 0"),
        ("--optimizer.max-logit-scale 0", "optimizer.max_logit_scale is 0"),
        ("--optimizer.b2 1", "optimizer.b2 is 1"),
        ("--total-steps 0", "total_steps is 0"),
        ("--attention cudnn", "cudnn computes in bfloat16, not in float32"),
    ],
)
def test_fields_of_a_config_that_make_no_sense_are_refused(config, tmp_path, capsys, flags, message):
    fails(capsys, ["train", config, "--work-dir", tmp_path / "run", *flags.split()], 2, message)


def test_output_that_cannot_be_written_is_one_line(config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    show = ["data", "show", "synthetic", "--num-images", "20", "--num-species", "20", "--rows", "1", "--columns", "2"]
    fails(capsys, [*show, "--out", tmp_path / "absent" / "sheet.png"], 1, "No such file or directory")
    golden = Path(__file__).parent / "goldens" / "tiny_clip"
    fails(capsys, ["convert", golden, tmp_path / "file", "--to", "open_clip"], 2, "file is a file")
    fails(capsys, ["convert", golden, tmp_path / "file" / "x", "--to", "open_clip"], 1, "cannot be written")


def test_run_without_a_finished_checkpoint_cannot_be_opened(config, tmp_path, capsys):
    from bioclip_jax.config import TrainConfig
    from bioclip_jax.config_json import to_json

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(to_json(TrainConfig()))
    fails(capsys, ["convert", tmp_path / "run", tmp_path / "out", "--to", "orbax"], 1, "has no finished checkpoint yet")


def test_unknown_field_in_a_runs_config_is_named(config, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"colour": "green"}))
    fails(capsys, ["train", config, "--work-dir", tmp_path / "run"], 1, "unknown field 'colour'")


def test_a_dataset_is_not_built_over_itself(tmp_path, capsys):
    main(["data", "build", "synthetic", str(tmp_path / "d"), "--num-images", "20", "--num-species", "20"])
    with pytest.raises(SystemExit) as stopped:
        main(["data", "build", str(tmp_path / "d"), f"{tmp_path}/./d", "--overwrite"])
    assert stopped.value.code == 2
    assert "is the dataset that is to be read" in capsys.readouterr().err
    assert (tmp_path / "d" / "manifest.json").is_file()


def test_workers_are_not_for_beam(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["data", "build", "synthetic", str(tmp_path / "d"), "--beam", "--workers", "2"])
    assert "not for --beam" in capsys.readouterr().err
