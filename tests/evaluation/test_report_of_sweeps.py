"""Several training runs on one page: what differs between them, and how they ended."""

import csv
import json
import shutil

import pytest

from bioclip_jax.cli import main

pytestmark = pytest.mark.core


@pytest.fixture
def sweep(tmp_path):
    """A folder with two runs of other seeds and losses, and a stray folder."""
    for seed, name in ((1, "first"), (2, "second")):
        folder = tmp_path / "sweep" / name
        folder.mkdir(parents=True)
        config = {"seed": seed, "loss": {"kind": ["softmax", "sigmoid"][seed - 1]}, "total_steps": 80, "data": {}}
        (folder / "config.json").write_text(json.dumps(config))
        rows = [{"step": step, "loss": seed + (step == 79), "goodput": step / 100} for step in range(80)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    figures = [{"step": step, "organisms/seen/zero_shot/species": step / 100} for step in (39, 79)]
    (tmp_path / "sweep/second/evaluations.jsonl").write_text("\n".join([*map(json.dumps, figures), '{"st']))
    (tmp_path / "sweep" / "data").mkdir()
    return tmp_path / "sweep"


def test_sweep_is_a_table_of_the_fields_that_differ_and_of_last_figures(sweep, tmp_path):
    main(["report", str(sweep), "--out", str(tmp_path / "page.html"), "--csv", str(tmp_path / "table.csv")])
    with (tmp_path / "table.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert first == {
        "run": "first",
        "seed": "1",
        "loss.kind": "softmax",
        "steps": "80",
        "loss": "1.5",  # the mean of the last two
        "goodput": "0.79",
        "organisms/seen/zero_shot/species": "",
    }
    assert second["organisms/seen/zero_shot/species"] == "0.79"
    page = (tmp_path / "page.html").read_text()
    assert "<h2>2 runs</h2>" in page
    assert "<td>sigmoid</td>" in page
    assert "Training of first" in page
    assert "Training of second" in page


def test_runs_may_be_named_one_by_one(sweep, tmp_path):
    main(["report", str(sweep / "second"), str(sweep / "first"), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert page.index('<td class="text">second</td>') < page.index('<td class="text">first</td>')


def test_names_of_any_form_are_text_and_no_formula(sweep, tmp_path):
    hostile = "<script>alert(1)</script>\udcff"
    (sweep / "second").rename(sweep / "=1+1")
    config = sweep / "=1+1" / "config.json"
    config.write_text(config.read_text().replace("sigmoid", hostile.replace("/", "\\/").replace("\udcff", "\\udcff")))
    main(["report", str(sweep), "--out", str(tmp_path / "page.html"), "--csv", str(tmp_path / "table.csv")])
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert rows["'=1+1"]["loss.kind"] == "<script>alert(1)</script>\N{REPLACEMENT CHARACTER}"


def test_runs_are_in_the_order_of_their_numbers_and_those_of_one_name_are_told_apart(sweep, tmp_path):
    (sweep / "first").rename(sweep / "width-128")
    (sweep / "second").rename(sweep / "width-64")
    shutil.copytree(sweep / "width-64", tmp_path / "other" / "width-64")
    (tmp_path / "other/width-64/config.json").write_text("{}")
    out = tmp_path / "table.csv"
    main(["report", str(sweep), str(tmp_path / "other"), "--out", str(tmp_path / "page.html"), "--csv", str(out)])
    names = [line.partition(",")[0] for line in out.read_text().splitlines()[1:]]
    assert names == [str(sweep / "width-64"), "width-128", str(tmp_path / "other" / "width-64")]
    assert f"Training of {sweep / 'width-64'}" in (tmp_path / "page.html").read_text()


def test_single_run_has_no_such_table(sweep, tmp_path):
    main(["report", str(sweep / "first"), "--out", str(tmp_path / "page.html")])
    assert "1 runs" not in (tmp_path / "page.html").read_text()
    assert "Training, 80 steps." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "holds neither results.sqlite nor metrics.jsonl"),
        (["gs://bucket/sweep"], "RESULTS gs://bucket/sweep is in an object store"),
        (["{sweep}", "--out", "s3://bucket/page.html"], "--out s3://bucket/page.html is in an object store"),
        (["{sweep}", "--csv", "{empty}"], "cannot be written"),
    ],
)
def test_what_cannot_be_gathered_or_written_is_one_line(sweep, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit):
        main(["report", *(text.format(sweep=sweep, empty=tmp_path / "empty") for text in arguments)])
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
