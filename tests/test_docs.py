"""What the documentation tells its readers to type works as it stands there."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from bioclip_jax.cli import main

ROOT = Path(__file__).parents[1]
CONFIG = """
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(16, VisionConfig(32, 16, 64, 2, 1), TextConfig(width=64, layers=1, heads=1)),
    data=DataConfig(dataset="synthetic", arguments=dict(num_images=64, num_species=20, image_size=32)),
    global_batch_size=16, total_steps=2, dtype="float32",
)
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, code) of the fenced blocks of a page, in order."""
    return re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def run_shell(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of a shell block, in this process: `bioclip-jax`, or pybioclip's `bioclip`."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "bioclip-jax":
        main(arguments)
        return
    assert program == "bioclip", line
    from bioclip.__main__ import main as pybioclip

    monkeypatch.setattr("sys.argv", [program, *arguments])
    pybioclip()


@pytest.fixture
def folder_of_a_reader(tmp_path, monkeypatch, photos):
    """A current folder with `photo.jpg`, a config and a run of it under `my/`, and its two exports."""
    import PIL.Image

    monkeypatch.chdir(tmp_path)
    PIL.Image.open(next((photos / "images").rglob("*.jpg"))).convert("RGB").save("photo.jpg")
    Path("my").mkdir()
    Path("my/config.py").write_text(CONFIG)
    main(["train", "my/config.py", "--work-dir", "my/run"])
    for to in ("open_clip", "hugging_face", "onnx"):
        main(["convert", "my/run", f"my/{to}", "--to", to])
    return tmp_path


def test_every_block_of_the_page_on_weights_runs(folder_of_a_reader, open_clip, monkeypatch, capsys):
    page = blocks("docs/weights.md")
    assert [language for language, _ in page].count("python") >= 3
    for number, (language, code) in enumerate(page):
        if language == "python":
            path = folder_of_a_reader / f"block_{number}.py"
            path.write_text(code)
            runpy.run_path(str(path))
        else:
            assert language == "sh"
            for line in code.replace("\\\n", " ").splitlines():
                if line.strip():
                    run_shell(line, monkeypatch)
    shown = capsys.readouterr().out
    assert "Corvus corax" in shown
    assert (folder_of_a_reader / "my" / "tuned" / "checkpoints").is_dir()
    assert (folder_of_a_reader / "features.json").stat().st_size > 100
    assert (folder_of_a_reader / "my" / "copy" / "model.safetensors").is_file()


def test_commands_that_the_page_names_in_passing_are_right():
    text = (ROOT / "docs" / "weights.md").read_text(encoding="utf-8")
    named = re.findall(r"`bioclip-jax convert ([^`]*)`", text)
    assert named == [f"my/run my/{to} --to {to}" for to in ("open_clip", "hugging_face", "onnx")]
