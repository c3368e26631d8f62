"""`bioclip-jax plan`: what a user types, sees, and is told."""

import importlib.util
import json
import re
from pathlib import Path

import pytest

from bioclip_jax.cli import main
from bioclip_jax.planning.machine import machine_of
from bioclip_jax.planning.question import Reply
from bioclip_jax.planning.topology import parse

pytestmark = pytest.mark.core

LENGTHS = ["--tokens", "bio=32", "replay=77"]


@pytest.fixture
def compiled(monkeypatch, tmp_path, made_up_compiler):
    """A made-up compiler in the place of the child process; its questions."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    compiler = made_up_compiler()

    def run(question, children):
        compiler.asked.append(question.config)
        return Reply(compiler.answer(question.config, machine_of(parse(question.topology))), 5_140_835_352)

    monkeypatch.setattr("bioclip_jax.planning.compilers._run", run)
    return compiler


def refused(capsys, arguments, code=2):
    """The one line that the command ends with."""
    with pytest.raises(SystemExit) as caught:
        main(["plan", *arguments])
    assert caught.value.code == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert "Traceback" not in "".join(lines)
    return lines[-1]


def test_topologies_are_planned_side_by_side(compiled, capsys):
    main(["plan", "bioclip2", "--topology", "v5e-256", "v5p-128", "h100x32", *LENGTHS])
    shown = capsys.readouterr().out
    assert "v5e:16x16: fits; 256 chips v5e" in shown
    assert "side by side" in shown
    assert "h100" in shown
    assert all(line == line.rstrip() for line in shown.splitlines())
    assert len(compiled.asked) == 3


def test_a_second_time_nothing_is_compiled(compiled, capsys):
    for _ in range(2):
        main(["plan", "bioclip2", "--topology", "v5e-256", *LENGTHS])
    assert len(compiled.asked) == 1
    main(["plan", "bioclip2", "--topology", "v5e-256", *LENGTHS, "--total-steps", "100"])
    assert len(compiled.asked) == 1
    main(["plan", "bioclip2", "--topology", "v5e-256", *LENGTHS, "--again"])
    assert len(compiled.asked) == 2
    main(["plan", "bioclip2", "--topology", "v5e-256", *LENGTHS, "--remat-policy", "mlp"])
    assert len(compiled.asked) == 3
    assert "v5e:16x16" in capsys.readouterr().out


def test_json_on_standard_output_is_alone_there(compiled, capsys):
    main(["plan", "bioclip2", "--topology", "v5e-256", "v5e-4", *LENGTHS, "--json", "-"])
    content = json.loads(capsys.readouterr().out)
    assert [one["topology"] for one in content] == ["v5e:16x16", "v5e:2x2"]
    assert [one["fits"] for one in content] == [True, False]
    assert content[1]["answer"]["needed"] > content[1]["answer"]["available"]


def test_json_goes_to_a_file_beside_the_text(compiled, capsys, tmp_path):
    main(["plan", "bioclip2", "--topology", "v5e-256", *LENGTHS, "--json", str(tmp_path / "plan.json")])
    assert json.loads((tmp_path / "plan.json").read_text())[0]["fits"]
    assert "v5e:16x16: fits" in capsys.readouterr().out


def test_a_search_finds_settings_and_then_the_largest_batch(compiled, capsys, tmp_path):
    main([
        "plan", "bioclip2", "--topology", "v5e-256", *LENGTHS, "--search", "settings", "batch", "--json",
        str(tmp_path / "plan.json"),
    ])  # fmt: skip
    (content,) = json.loads((tmp_path / "plan.json").read_text())
    assert list(content["tried"]) == ["settings", "batch"]
    settings = [one["config"]["remat_policy"] for one in content["tried"]["settings"] if one["fits"]]
    assert content["config"]["remat_policy"] in settings
    assert content["config"]["global_batch_size"] > 90_112
    assert content["fits"]
    shown = capsys.readouterr().out
    assert "search for the quickest settings that fit" in shown
    assert "search for the largest batch that fits" in shown


def test_prices_are_multiplied_and_one_that_is_not_listed_is_missed_at_once(compiled, capsys, tmp_path):
    (tmp_path / "prices.yaml").write_text("currency: EUR\nv5e: 1\n")
    prices = ["--prices", str(tmp_path / "prices.yaml")]
    main(["plan", "bioclip2", "--topology", "v5e-256", *LENGTHS, *prices])
    assert "EUR by the list given" in capsys.readouterr().out
    line = refused(capsys, ["bioclip2", "--topology", "v5p-128", *LENGTHS, *prices])
    assert "has no price of v5p" in line
    assert len(compiled.asked) == 1


def test_one_topology_that_is_refused_does_not_hide_the_others(compiled, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["plan", "bioclip2", "--topology", "v5e-256", "v5e:3x16", *LENGTHS])
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert "v5e:16x16: fits" in shown.out
    assert "global_batch_size 90112 does not divide over the 48 devices of v5e:3x16" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bioclip3", "--topology", "v5e-256"], "bioclip3"),
        (["bioclip2", "--topology", "v9x-256"], "v9x-256"),
        (["bioclip2", "--topology", "v5e-48", *LENGTHS], "v5e-48"),
        (["bioclip2", "--topology", "v5e-256", "--global-batch-size", "90000"], "90000 does not divide over the 256"),
        (["bioclip2", "--topology", "v5e-256", "--tokens", "bio"], "--tokens bio: expected a stream and a number"),
        (["bioclip2", "--topology", "v5e-256", "--tokens", "bio=x"], "--tokens bio=x: expected"),
        (["bioclip2", "--topology", "v5e-256", "--tokens", "bio=32", "bio=48"], "--tokens bio=48: bio stands there"),
        (["bioclip2", "--topology", "v5e-256", "--tokens", f"bio={'9' * 5000}"], ": expected a stream and a number"),
        (["bioclip2", "--topology", f"v5p:{'9' * 5000}x2x2"], "topology 'v5p:9999"),
        (["bioclip2", "--topology", f"h100x{'9' * 5000}"], "topology 'h100x9999"),
        (["bioclip2", "--topology", "v5e-256", "--mesh.fsdp", "3"], "mesh.fsdp is 3, which does not divide the 256"),
        (["bioclip2", "--topology", "v5e-256", "--mesh.fsdp", "0"], "mesh.fsdp is 0, which does not divide the 256"),
        (["bioclip2", "--topology", "v5e-256", "--mesh.data", "3"], "is not the 256 devices of v5e:16x16"),
        (["bioclip2", "--topology", "v5e-256", "--prices", "/dev/zero"], "too large"),
        (["bioclip2", "--topology", "v5e-256", "--json", "."], "--json . is a folder"),
        (["bioclip2", "--topology", "v5e-256", "--json", ""], "--json '' is a folder"),
        (["bioclip2", "--topology", "v5e-256", "--prices", "nowhere.yaml"], "--prices nowhere.yaml cannot be read"),
        (["bioclip2", "--topology", "v5e-256", "--jobs", "0"], "--jobs is 0"),
        (["bioclip2", "--topology", "v5e-256", "--decode-rate", "0"], "--decode-rate is 0"),
        (["bioclip2", "--topology", "h100x32", "--utilization", "0.6", "0.3"], "--utilization is 0.6 0.3"),
        (["bioclip2", "--topology", "v5e-256", "--json", "nowhere/plan.json"], "--json nowhere/plan.json: there is no"),
        ([], "name a config first"),
    ],
)
def test_bad_input_is_told_in_a_line(compiled, capsys, arguments, message):
    line = refused(capsys, arguments)
    assert line.startswith("error: ")
    assert message in line
    assert not compiled.asked


def test_help_names_the_flags(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["plan", "bioclip2", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    page = (Path(__file__).parents[2] / "docs" / "plan.md").read_text(encoding="utf-8")
    flags = set(re.findall(r"(?<![\w-])--[a-z][a-z_.-]*[a-z]", page)) - {"--statistics", "--grace-seconds"}  # of others
    assert {"--topology", "--tokens", "--search", "--prices", "--json", "--jobs", "--again"} <= flags
    assert all(flag in shown for flag in flags)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="the compiler for TPUs is installed")
def test_without_the_compiler_the_extra_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    line = refused(capsys, ["bioclip2", "--topology", "v5e-256", *LENGTHS], code=1)
    assert line.startswith("error: topology v5e:16x16: ")
    assert "pip install 'bioclip-jax[tpu]'" in line
