"""Renders by the command line what the tests of this folder look at."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bioclip_jax.cli import main

SITE = Path(__file__).parents[2] / "launch" / "site.example.yaml"

Render = Callable[..., str]


@pytest.fixture
def render(capsys, monkeypatch) -> Render:
    """Calls `bioclip-jax launch` in this process and returns what it shows, the same on every machine."""
    monkeypatch.setattr("sys.executable", "/opt/venv/bin/python")
    monkeypatch.setenv("HOME", "/home/someone")

    def call(*arguments: str) -> str:
        capsys.readouterr()
        main(["launch", *map(str, arguments)])
        return capsys.readouterr().out

    return call


@pytest.fixture
def rendered(render, tmp_path) -> Callable[..., dict[str, str]]:
    """The same, but returns the written files by name."""

    def call(*arguments: str) -> dict[str, str]:
        folder = tmp_path / "rendered"
        target, config, *rest = arguments
        render(target, config, "--out", folder, *rest)
        return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}

    return call
