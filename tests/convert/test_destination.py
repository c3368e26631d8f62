"""A destination is whole or absent, whatever happens while it is written."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bioclip_jax.cli import main
from bioclip_jax.convert import destination
from bioclip_jax.convert.destination import new_folder
from bioclip_jax.errors import UsageError, UserError

pytestmark = pytest.mark.core


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_only_when_it_is_finished(tmp_path):
    with new_folder(tmp_path / "a" / "out") as folder:
        (folder / "model.json").write_text("{}")
        assert not (tmp_path / "a" / "out").exists()
    assert names(tmp_path / "a") == ["out"]
    assert names(tmp_path / "a" / "out") == ["model.json"]


@pytest.mark.parametrize("error", [UserError("x"), KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failure_leaves_what_was_there(tmp_path, error):
    with new_folder(tmp_path / "out") as folder:
        (folder / "model.json").write_text("first")

    def fail():
        with new_folder(tmp_path / "out", overwrite=True) as folder:
            (folder / "model.json").write_text("second")
            raise error

    with pytest.raises((UserError, KeyboardInterrupt)):
        fail()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "model.json").read_text() == "first"


def test_an_existing_model_is_replaced_only_when_asked_for(tmp_path, write, capsys):
    write(tmp_path / "model")
    convert = ["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--to"]
    main([*convert, "open_clip"])
    with pytest.raises(SystemExit) as exit_info:
        main([*convert, "hugging_face"])
    assert exit_info.value.code == 2
    assert "replace it with --overwrite" in capsys.readouterr().err
    main([*convert, "hugging_face", "--overwrite"])
    assert "open_clip_config.json" not in names(tmp_path / "out")
    assert names(tmp_path) == ["model", "out"]


def test_a_model_can_be_written_over_itself(tmp_path, write):
    write(tmp_path / "model")
    main(["convert", str(tmp_path / "model"), str(tmp_path / "model"), "--to", "hugging_face", "--overwrite"])
    assert "model.safetensors" in names(tmp_path / "model")


def test_nothing_that_convert_did_not_write_is_replaced(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "model.json").write_text("{}")
    (tmp_path / "file").write_text("precious")
    for name in ("full", "run", "file"):
        with pytest.raises(UsageError), new_folder(tmp_path / name, overwrite=True):
            pass
    assert (tmp_path / "full" / "thesis.txt").read_text() == (tmp_path / "file").read_text() == "precious"
    assert (tmp_path / "run" / "checkpoints").is_dir()


@pytest.mark.parametrize("kind", ["downloaded", "notes"])
def test_a_model_with_files_of_others_beside_it_is_not_replaced(tmp_path, write, kind):
    folder = write(tmp_path / "model")
    (folder / {"downloaded": ".git", "notes": "notes.txt"}[kind]).write_text("precious")
    with pytest.raises(UsageError, match="holds something else"):
        write(folder, overwrite=True)
    assert (folder / "open_clip_config.json").is_file()
    assert names(tmp_path) == ["model"]


def test_a_destination_around_the_model_itself_is_refused(tmp_path, write, monkeypatch, capsys):
    write(tmp_path / "around")
    write(tmp_path / "around" / "weights")  # as an Orbax folder has one
    around = str(tmp_path / "around")
    with pytest.raises(SystemExit):
        main(["convert", f"{around}/weights", around, "--to", "open_clip", "--overwrite"])
    assert "is around the model itself" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "around")
    for place in (".", "..", "/"):
        with pytest.raises(UsageError, match="is the current folder or one around it"), new_folder(Path(place)):
            pass


def test_devices_and_pipes_are_no_place_for_a_model(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is a file"), new_folder(tmp_path / "pipe", overwrite=True):
        pass
    assert names(tmp_path) == ["pipe"]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_failure_of_the_last_step_puts_back_what_was_there(tmp_path, monkeypatch, can_exchange):
    with new_folder(tmp_path / "out") as folder:
        (folder / "model.json").write_text("first")
    if not can_exchange:
        monkeypatch.setattr(destination, "_exchange", lambda one, other: False)
    with new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "model.json").write_text("second")
    assert (tmp_path / "out" / "model.json").read_text() == "second"

    rename = Path.rename

    def fail(self, target):
        if self.name == ".out.partial":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(destination, "_exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(UserError, match="Input/output error"), new_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "model.json").write_text("third")
    assert (tmp_path / "out" / "model.json").read_text() == "second"
    assert names(tmp_path) == ["out"]


def test_two_processes_do_not_write_the_same_folder(tmp_path):
    with (
        new_folder(tmp_path / "out"),
        pytest.raises(UserError, match="another process is writing there now"),
        new_folder(tmp_path / "out"),
    ):
        pass


def test_a_process_killed_between_the_two_renamings_loses_nothing(tmp_path):
    with new_folder(tmp_path / "out") as folder:
        (folder / "model.json").write_text("first")
    (tmp_path / "out").rename(tmp_path / ".out.replaced")
    (tmp_path / ".out.partial").mkdir()
    with pytest.raises(UsageError, match="holds a model"), new_folder(tmp_path / "out"):
        pass
    assert (tmp_path / "out" / "model.json").read_text() == "first"


def test_a_killed_conversion_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path, write):
    write(tmp_path / "model")
    with new_folder(tmp_path / "out") as folder:
        (folder / "model.json").write_text("first")
    code = (
        "import sys, time; from pathlib import Path; from bioclip_jax.convert.destination import new_folder\n"
        "with new_folder(Path(sys.argv[1]), overwrite=True) as folder:\n"
        "    (folder / 'half').write_text('x'); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out")])
    deadline = time.monotonic() + 60
    while not (tmp_path / ".out.partial" / "half").exists() and time.monotonic() < deadline:
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "out" / "model.json").read_text() == "first"
    main(["convert", str(tmp_path / "model"), str(tmp_path / "out"), "--to", "open_clip", "--overwrite"])
    assert names(tmp_path) == ["model", "out"]
    assert "open_clip_config.json" in names(tmp_path / "out")
