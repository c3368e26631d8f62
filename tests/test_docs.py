"""What the documentation tells its readers to type works as it stands there."""

import csv
import io
import json
import re
import runpy
import shlex
import tarfile
from pathlib import Path

import pytest

from bioclip_jax.cli import main
from bioclip_jax.config_json import to_json
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.training.metrics import read_metrics

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


@pytest.mark.slow
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


def write_tar(path, samples):
    """Members as webdataset's writer leaves them: by name, each with an extended header for its time of change."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in sorted(members.items()):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime = len(data), 1700000000.5
                tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder_with_tars(tmp_path, monkeypatch, photos):
    """A current folder with ten tars of ten photos each, two tars of LAION, and three photos to be measured on."""
    monkeypatch.chdir(tmp_path)
    Path("my").mkdir()
    Path("evaluation").mkdir()
    with (photos / "metadata.csv").open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))[:100]
    files = [(photos / row["filepath"]).read_bytes() for row in rows]
    texts = [{f"{kind}.txt": caption(Taxon.from_record(row), kind).encode() for kind in ALL_TEXT_TYPES} for row in rows]
    samples = [
        (f"00000000-0000-4000-8000-{place:012}", {"jpg": image, **text})
        for place, (image, text) in enumerate(zip(files, texts, strict=True))
    ]
    samples[50] = (samples[50][0], samples[7][1])  # a photo that is there twice
    for shard in range(10):
        write_tar(Path(f"tars/train/shard-{shard:06}.tar"), samples[10 * shard : 10 * shard + 10])
    for shard in range(2):
        pairs = [
            (f"{shard:05}{place:04}", {"jpg": files[place], "json": b"{}", "txt": f"a thing, number {place}".encode()})
            for place in range(8)
        ]
        write_tar(Path(f"laion/{shard:05}.tar"), pairs)
    for place in (0, 33, 99):
        Path(f"evaluation/{place}.jpg").write_bytes(files[place])
    return tmp_path


@pytest.mark.slow
def test_every_block_of_the_page_from_tars_to_a_trained_step_runs(folder_with_tars, capsys):
    for language, code in blocks("docs/treeoflife.md"):
        if language == "python":
            Path("my/config.py").write_text(code)
            continue
        assert language == "sh"
        for line in code.splitlines():
            main(shlex.split(line.removeprefix("bioclip-jax "), comments=True))
    shown = capsys.readouterr().out
    assert "10 records" in shown or "100 records" in shown
    for run in ("my/first", "my/run"):
        rows = read_metrics(Path(run))
        assert [row["step"] for row in rows] == [0, 1]
        assert all(row["loss"] > 0 and row["replay_loss"] > 0 for row in rows)
    with Path("my/data/rejected.csv").open(newline="", encoding="utf-8") as table:
        rejected = {row["key"][-2:]: row["reason"] for row in csv.DictReader(table)}
    assert rejected.keys() >= {"00", "33", "50", "99"}
    assert rejected["50"] == "duplicate image"
    built = open_dataset("my/data")["train"]
    keys = [built[place]["key"] for place in range(len(built))]
    assert len(keys) == 100 - len(rejected)
    assert keys != sorted(keys)
    assert json.loads(Path("my/data/manifest.json").read_text())["splits"]["train"]["records"] == len(keys)
    assert {path.name for path in Path("my").glob("*")} >= {"sheet.png", "statistics.html"}


@pytest.mark.slow
def test_every_line_for_a_curious_laptop_user_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ((language, code),) = blocks("docs/training.md")
    assert language == "sh"
    for line in code.splitlines():
        run_shell(line, monkeypatch)
    plan = capsys.readouterr().out
    assert len(read_metrics(Path("my/run"))) == 6
    quoted = re.findall(
        r"^    (training .*|schedule .*|compute .*)$", (ROOT / "docs/training.md").read_text(), re.MULTILINE
    )
    assert len(quoted) == 3
    for line in quoted:
        assert line in plan


def test_every_ablation_of_the_published_recipe_is_one_flag_away(monkeypatch, capsys):
    monkeypatch.setattr("bioclip_jax.training.describe.describe", to_json)
    recipe = runpy.run_path(str(ROOT / "configs" / "bioclip2.py"))
    flags = re.findall(r"^    .{33}(--.*)$", recipe["__doc__"], re.MULTILINE)
    assert len(flags) == 15
    for flag in flags:
        main(["train", "bioclip2", "--dry-run", *shlex.split(flag)])
        changed = json.loads(capsys.readouterr().out)
        assert changed != json.loads(to_json(recipe["config"])), flag
