"""`bioclip-jax plan` with the compiler for TPUs, at tiny depth."""

import json

import pytest

from bioclip_jax.cli import main

pytestmark = pytest.mark.tpu

CONFIG = """
from bioclip_jax.config import *

config = TrainConfig(
    model=CLIPConfig(
        64, VisionConfig(32, 16, 128, layers=1, heads=2), TextConfig(width=64, layers=1, heads=1, vocab_size=512)
    ),
    data=DataConfig(dataset="photos-that-are-not-here"),
    mesh=MeshConfig(shard_optimizer=True),
    global_batch_size=64,
    remat_policy="context",
)
"""


def test_a_config_is_planned_from_the_command_line_and_known_afterwards(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "config.py").write_text(CONFIG)
    arguments = ["plan", str(tmp_path / "config.py"), "--topology", "v5e-8", "--tokens", "bio=32"]
    main([*arguments, "--json", str(tmp_path / "plan.json")])
    (plan,) = json.loads((tmp_path / "plan.json").read_text())
    assert plan["fits"]
    memory = plan["answer"]["memory"]
    assert sum(memory[name] for name in memory if name not in ("peak", "total")) == memory["total"]
    assert plan["answer"]["needed"] == memory["total"]
    assert plan["answer"]["gradient_dtype"] == "f32"
    assert {"vision attention", "text mlp", "optimizer"} <= set(plan["answer"]["parts"])
    shown = capsys.readouterr().out
    assert "v5e:2x4: fits; 8 chips v5e, 1 host" in shown

    def refuse(question, children):
        raise AssertionError("nothing has to be compiled")

    monkeypatch.setattr("bioclip_jax.planning.compilers._run", refuse)
    main(arguments)
    assert capsys.readouterr().out == shown


def test_a_slice_that_nobody_builds_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "config.py").write_text(CONFIG)
    with pytest.raises(SystemExit) as caught:
        main(["plan", str(tmp_path / "config.py"), "--topology", "v5e:3x16", "--global-batch-size", "48"])
    assert caught.value.code == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: topology v5e:3x16: ")
    assert "not divisible" in line
