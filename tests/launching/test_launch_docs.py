"""Every command of the pages on launching renders, as it stands there."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from bioclip_jax.launching.targets import TARGETS

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "launch.md", *(ROOT / "docs" / "launch" / f"{target}.md" for target in TARGETS)]


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_a_page_renders(page, render, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "launch" / "site.example.yaml", "site.yaml")
    found = commands(page)
    assert found
    for program, command, *arguments in found:
        assert (program, command) == ("bioclip-jax", "launch")
        if page.stem in TARGETS:
            assert arguments[0] == page.stem
        shown = render(*(word for word in arguments if word != "--submit"))
        assert "train" in shown
        assert "# ---------- to start it" in shown


def test_table_names_every_target_and_its_page():
    table = (ROOT / "docs" / "launch.md").read_text(encoding="utf-8")
    for target in [*TARGETS, "local"]:
        assert f"[`{target}`](launch/{target}.md)" in table
