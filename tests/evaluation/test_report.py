"""The report: one page, nothing from outside, nothing of the data taken for markup."""

import html.parser
import json
import re

import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.measure import Settings
from bioclip_jax.evaluation.report import write_report
from bioclip_jax.evaluation.report.charts import axis
from bioclip_jax.evaluation.report.curves import read_metrics
from bioclip_jax.evaluation.report.markup import Markup, tag
from bioclip_jax.evaluation.report.pictures import deepest_common_rank
from bioclip_jax.evaluation.report.projection import project
from bioclip_jax.evaluation.results import Results
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


@pytest.fixture
def results(tmp_path, coloured_photos, benchmark_of, quiet, colour_model):
    path = tmp_path / "results.sqlite"
    benchmark = benchmark_of(
        coloured_photos, description="about <i>squares</i>", citation='"><img src=x onerror=alert(1)>'
    )
    settings = Settings(resamples=50)
    worse = colour_model(name="<b>worse</b>", fingerprint="colours-2", blur=0.4)
    for model in (colour_model(), worse):
        evaluate(model, [benchmark], path, settings=settings, console=quiet)
    return path


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
    parts = {value for name, value in found.attributes if name == "id"}
    assert parts == {"accuracy", "few-shot", "models", "map", "neighbours", "mistakes", "method", "training"}
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


@pytest.mark.parametrize("points", [1, 2, 12, 40])
def test_a_map_fits_the_unit_square_and_repeats(points):
    features = np.random.default_rng(0).normal(size=(points, 6)).astype(np.float32)
    placed, _ = project(features)
    assert placed.shape == (points, 2)
    assert placed.min() >= 0
    assert placed.max() <= 1
    np.testing.assert_array_equal(placed, project(features)[0])


def test_the_deepest_common_rank_passes_over_unknown_ones():
    one = Taxon("A", "B", "", "D", "E", "F", "g")
    assert deepest_common_rank(one, Taxon("A", "B", "C", "D", "X", "F", "g")) == "order"
    assert deepest_common_rank(one, one) == "species"
    assert deepest_common_rank(one, Taxon("Z")) == ""
