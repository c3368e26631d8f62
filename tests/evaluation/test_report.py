"""The report: one page, nothing from outside, nothing of the data taken for markup."""

import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.report import write_report
from bioclip_jax.evaluation.report.charts import axis
from bioclip_jax.evaluation.report.curves import read_metrics
from bioclip_jax.evaluation.report.markup import Markup, tag
from bioclip_jax.evaluation.report.measured import labelled, runs_of
from bioclip_jax.evaluation.report.pictures import deepest_common_rank
from bioclip_jax.evaluation.report.published import TABLES
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Figure, Measurement, Prediction, Run
from bioclip_jax.evaluation.run import evaluate
from bioclip_jax.text.taxonomy import Taxon

pytestmark = pytest.mark.core


class Elements(html.parser.HTMLParser):
    """What a browser would make of a page: elements opened, attributes, and whether they close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


MADE: dict[str, Path] = {}


@pytest.fixture
def results(tmp_path, tmp_path_factory, coloured_photos, benchmark_of, quiet, colour_model):
    """Two models on one benchmark; measured once, a copy for each test."""
    if "results" not in MADE:
        made = tmp_path_factory.mktemp("measured") / "results.sqlite"
        benchmark = benchmark_of(
            coloured_photos, description="about <i>squares</i>", citation='"><img src=x onerror=alert(1)>'
        )
        worse = colour_model(name="<b>worse</b>", fingerprint="colours-2", blur=0.4)
        for model in (colour_model(), worse):
            evaluate(model, [benchmark], made, settings=Settings(resamples=50), console=quiet)
        MADE["results"] = made
    return shutil.copy(MADE["results"], tmp_path / "results.sqlite")


def test_names_from_the_data_come_out_escaped(results, tmp_path):
    page = write_report(results, tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    found = Elements(page)
    assert found.open == []
    assert "script" not in found.names
    assert not {"onerror", "onload"} & {name for name, _ in found.attributes}
    assert '<script>alert("1")</script>' in found.text, "a species' name"
    assert "about <i>squares</i>" in found.text
    assert "<b>worse</b>" in found.text


def test_the_page_stands_alone(results, tmp_path):
    page = write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")
    links = [value for name, value in Elements(page).attributes if name in ("src", "href")]
    assert links
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in links)
    assert not re.search(r"url\(|@import|https?://", page)
    assert len(page) < 5_000_000


def test_every_part_is_there(results, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "lo')
    page = write_report(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    found = Elements(page)
    parts = {value.removesuffix("-coloured") for name, value in found.attributes if name == "id"}
    ours = {"accuracy", "few-shot", "models", "seen", "hierarchy", "confidence", "confusion", "retrieval"}
    assert parts == ours | {"benchmark", "differences", "map", "neighbours", "mistakes", "method", "training"}
    assert "newest less this" in found.text
    assert "1 line of the log could not be read" in found.text


def test_a_log_alone_makes_a_page_and_nothing_is_an_error(tmp_path):
    with pytest.raises(UsageError, match=r"neither results.sqlite nor metrics.jsonl"):
        write_report(tmp_path, tmp_path / "report.html")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": NaN}\n')
    with pytest.raises(UserError, match="no finished run and no training curve"):
        write_report(tmp_path, tmp_path / "report.html")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.5}\n')
    assert "Training" in write_report(tmp_path, tmp_path / "report.html").read_text()
    Results(tmp_path / "empty.sqlite", create=True).__exit__(None, None, None)
    with pytest.raises(UsageError, match="no results at"):
        write_report(tmp_path / "none.sqlite", tmp_path / "report.html")


def test_curves_skip_what_cannot_be_read_and_count_repeated_steps_once(tmp_path):
    rows = [
        {"step": 1, "loss": 4},
        {"step": 2, "loss": 9},
        {"step": 2, "loss": 3},
        {"step": 3, "loss": "x"},
        [1],
        {"loss": 1},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + '\n{"step"')
    found, damaged = read_metrics(tmp_path / "m.jsonl")
    np.testing.assert_array_equal(found["loss"], [[1, 2], [4, 3]])
    assert damaged == 3


def test_markup_escapes_whatever_is_not_markup():
    assert (
        tag("p", "<", Markup("<br>"), None, [1, "&"], title='"', class_="a")
        == '<p title="&quot;" class="a">&lt;<br>1&amp;</p>'
    )
    assert tag("circle", stroke_width=2) == '<circle stroke-width="2"/>'
    assert "\x00" not in tag("p", "a\x00b")


def test_axes_start_and_end_at_round_numbers():
    assert axis(0.03, 0.97) == (0.0, 1.0, [0.0, 0.5, 1.0])
    for low, high in ((3.0, 3.0), (-2e-9, 1e-9), (0, 0), (17, 123456)):
        start, end, ticks = axis(low, high)
        assert start <= low <= high <= end
        assert 2 <= len(ticks) <= 6


def test_the_deepest_common_rank_passes_over_unknown_ones():
    one = Taxon("A", "B", "", "D", "E", "F", "g")
    assert deepest_common_rank(one, Taxon("A", "B", "C", "D", "X", "F", "g")) == "order"
    assert deepest_common_rank(one, one) == "species"
    assert deepest_common_rank(one, Taxon("Z")) == ""


def published_run(path, benchmark, figures, *, model="ours", weights="w1", started="2026-01-01T00:00:00"):
    """A run of a published benchmark in a database of its own; `figures` are (protocol, variant, metric, value)."""
    run = Run(
        identity=f"{benchmark} {weights}",
        model=model,
        weights=weights,
        benchmark=benchmark,
        description="published",
        license="none",
        citation="nobody",
        dataset=benchmark,
        dataset_hash="hash",
        settings=json.dumps({"resamples": 50, "seed": 0}),
        splits=json.dumps({"all": {"records": 9, "used": 9, "unreadable": {}, "species": 0, "in_train": None}}),
        notes=json.dumps(["zero_shot: paper: <i>a quirk</i>"]),
        command="the command",
        versions="{}",
        device="cpu",
        started=started,
        seconds=1.0,
    )
    rows = [
        Figure(
            learner="model",
            protocol=protocol,
            variant=variant,
            split=protocol,
            rank="class",
            metric=metric,
            value=value,
            low=value - 0.1,
            high=value + 0.1,
            spread=None,
            chance=float("nan"),
            majority=None,
            samples=9,
            classes=3,
            clusters=3,
            left_out=0,
        )
        for protocol, variant, metric, value in figures
    ]
    answers = [
        Prediction("model", "zero_shot", "paper", "zero_shot", "class", str(n), "", "a", "a", float(n < 7), 0.5)
        for n in range(9)
    ]
    with Results(path, create=True) as database:
        database.add(Measurement(run, rows, [], answers, [], [], []))
    return path


def test_published_rows_stand_beside_ours_where_benchmarks_match(tmp_path):
    path = tmp_path / "results.sqlite"
    figures = [
        ("zero_shot", "paper", "micro_accuracy", 0.4321),
        ("zero_shot", "paper", "balanced_accuracy", 0.321),
        ("simple_shot", "paper, 1-shot", "micro_accuracy", 0.5432),
        ("simple_shot", "paper v1, 1-shot", "micro_accuracy", 0.5321),
    ]
    published_run(path, "nabirds", figures)
    for name, value in (("ena24", 0.2), ("island", 0.4)):
        published_run(path, name, [("zero_shot", "paper", "micro_accuracy", value)])
    probe = [("probe", "paper", "exact_match", 0.301), ("probe", "corrected", "exact_match", 0.311)]
    published_run(path, "fishnet", probe)
    found = Elements(write_report(path, tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "paper" in [value for name, value in found.attributes if name == "id"]
    words = " ".join(found.text.split())
    assert "BioCLIP 2" in words
    assert "74.9" in words, "the published figure of NABirds"
    assert "43.2" in words
    assert "30.02 of 5 sets" in words, "the mean of two camera traps"
    assert "36.6of 2" in words, "of the two columns that were measured"
    assert "second-hand" in words
    assert "54.31 of 10 sets" in words, "camera traps are one set of the ten"
    assert "31.1" in words, "the corrected figure"
    assert "<i>a quirk</i>" in found.text


def test_the_camera_traps_measured_together_stand_in_the_papers_column(tmp_path):
    path = published_run(tmp_path / "results.sqlite", "camera_traps", [("zero_shot", "paper", "micro_accuracy", 0.456)])
    page = " ".join(Elements(write_report(path, tmp_path / "report.html").read_text(encoding="utf-8")).text.split())
    assert "The paper's tables" in page
    assert "45.6of 1" in page, "the mean, of one column"
    assert "of 5 sets" not in page
    assert "version 1.0.0" in page
    assert "is inferred from the code" not in page, "AwA2 was not measured"


def test_without_a_published_benchmark_there_is_no_table_of_the_paper(results, tmp_path):
    assert "The paper's tables" not in write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_published_means_are_those_of_their_rows():
    for table in TABLES:
        for row in table.rows.values():
            assert len(row) == len(table.columns) + (not table.pooled)
            if not table.pooled:
                assert np.mean(row[:-1]) == pytest.approx(row[-1], abs=0.08)


def test_several_databases_make_one_page_with_their_models_side_by_side(results, tmp_path):
    one, other = tmp_path / "one" / "results.sqlite", tmp_path / "other" / "results.sqlite"
    figures = [("zero_shot", "paper", "micro_accuracy", 0.5)]
    for path, weights, started in ((one, "w1", "2026-01-01"), (other, "w2", "2026-01-02")):
        path.parent.mkdir()
        (path.parent / "metrics.jsonl").write_text('{"step": 1, "loss": 3.5}\n')
        published_run(path, "nabirds", figures, weights=weights, started=started)
    shutil.copy(one, tmp_path / "copy.sqlite")
    page = write_report([one.parent, other.parent, tmp_path / "copy.sqlite", results], tmp_path / "report.html")
    found = Elements(page.read_text(encoding="utf-8"))
    assert "Paired differences: ours, w2 less ours, w1" in found.text
    assert "Training of one" in found.text
    assert "Training of other" in found.text
    ids = [value for name, value in found.attributes if name == "id"]
    assert len(ids) == len(set(ids)), "anchors are unique"
    assert {"protocols-nabirds", "accuracy-coloured"} <= set(ids)
    links = {value for name, value in found.attributes if name == "href"}
    assert {"#benchmark-nabirds", "#benchmark-coloured"} <= links <= {f"#{name}" for name in ids}
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UsageError, match=r"neither results\.sqlite"):
        write_report([one, tmp_path / "nothing"], tmp_path / "report.html")


def test_of_a_run_that_was_measured_twice_the_newer_counts_whatever_the_order(tmp_path):
    for name, started in (("new", "2026-02-01"), ("old", "2026-01-01")):
        published_run(tmp_path / f"{name}.sqlite", "nabirds", [], started=started)
    with Results(tmp_path / "new.sqlite") as new, Results(tmp_path / "old.sqlite") as old:
        for databases in ([new, old], [old, new]):
            assert [found.run.started for found in runs_of(databases)] == ["2026-02-01"]


def test_runs_are_told_apart_and_each_is_there_once(tmp_path):
    path = tmp_path / "results.sqlite"
    for number, started in enumerate(("2026-01-01", "2026-01-03", "2026-01-02")):
        published_run(path, "nabirds", [], model="a" if number else "b", weights=f"{number}-weights", started=started)
    with Results(path) as one, Results(path) as again:
        assert [run.label for run in labelled(runs_of([one, again]))] == ["a, 1-weight", "a, 2-weight", "b"]
