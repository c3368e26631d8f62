import io
import re
from collections import Counter
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from bioclip_jax.cli import main
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.statistics import collect_statistics, quantile
from bioclip_jax.pipeline.statistics_page import write_statistics
from bioclip_jax.text.captions import TEXT_TYPES

pytestmark = pytest.mark.core

QUIET = Console(file=io.StringIO())


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.attributes, self.words = Counter(), [], []
        self.feed(text)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements[tag] += 1
        self.attributes += attrs

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def splits(list_source, record, photo):
    """Eight photos of four species, one of a genus, one with a caption and no name, and two that are of no use."""
    train = [
        *(record(i, phylum="Chordata", license="CC0", image=photo(i, size=(60, 40))) for i in range(6)),
        record(6, species="", scientific_name="Motacilla", license="CC BY 4.0", image=photo(6, file_format="PNG")),
        {"key": "c", "image": photo(7, size=(20, 36)), "caption": "a bird in the rain"},
        record(8, image=b"no image"),
        BadRecord("9", "file is missing: x.jpg"),
    ]
    test = [record(10, species="cinerea"), record(11, phylum="Chordata")]
    return {"train": list_source(train), "test": list_source(test)}


def test_everything_is_counted(splits):
    statistics = collect_statistics(splits, console=QUIET)
    assert (statistics.records, statistics.looked_at, statistics.usable) == (12, 12, 10)
    assert statistics.splits["train"].unusable == {"file is missing": 1, "image header cannot be read": 1}
    assert statistics.named_to() == {"species": 8, "genus": 1, "": 1}
    assert sorted(statistics.by_lineage("species").values()) == [1, 2, 2, 3]
    assert len(statistics.by_lineage("kingdom")) == 1
    assert statistics.values["license"] == {"CC0": 6, "CC BY 4.0": 1, "": 3}
    assert statistics.values["format"] == {"JPEG": 9, "PNG": 1}
    assert statistics.orientations == {"landscape": 9, "portrait": 1}
    assert statistics.shorter_sides == {40: 6, 20: 4}
    assert set(statistics.tokens) == {*TEXT_TYPES, "caption"}
    assert sum(statistics.tokens["taxon"].values()) == 9
    assert statistics.tokens["caption"] == {7: 1}


@pytest.mark.parametrize("sample", [1, 3, 10, 99, 100, 5000])
def test_a_sample_lies_evenly_over_all_splits(list_source, record, sample):
    splits = {name: list_source([record(0)] * count) for name, count in (("a", 7), ("b", 90), ("c", 3))}
    statistics = collect_statistics(splits, sample=sample, console=QUIET)
    read = np.concatenate([splits[name].reads for name in splits])
    assert statistics.looked_at == read.sum() == min(sample, 100)
    gaps = set(np.diff(np.flatnonzero(read)).tolist())
    assert gaps <= {100 // min(sample, 100), -(-100 // min(sample, 100))}
    assert [split.looked_at for split in statistics.splits.values()] == [sum(splits[name].reads) for name in splits]


def test_quantiles_are_those_of_the_values_written_out():
    values = np.random.default_rng(0).integers(0, 40, 300)
    counts = Counter(values.tolist())
    for share in (0.05, 0.5, 0.95, 1.0):
        assert quantile(counts, share) == np.quantile(values, share, method="inverted_cdf")
    assert quantile({}, 0.5) == 0


def written(tmp_path, splits, **arguments):
    out = tmp_path / "pages" / "page.html"
    write_statistics(collect_statistics(splits, console=QUIET, **arguments), out, title="wagtails")
    return out.read_text(encoding="utf-8")


def test_the_page_tells_the_figures(tmp_path, splits):
    page = Page(written(tmp_path, splits))
    assert "12 photos in 2 splits. This page looked at every one of them." in page.text
    assert "10 photos 2 could not be used" in page.text
    assert "train file is missing 1" in page.text
    assert "4 in all" in page.text  # species, on the curve
    assert "CC BY 4.0 1 10.0 %" in page.text
    assert page.elements["svg"] == 3 + len(TEXT_TYPES) + 1


def test_the_page_says_that_it_saw_a_sample(tmp_path, splits):
    assert "looked at 5 of them, evenly spaced" in Page(written(tmp_path, splits, sample=5)).text


def test_names_of_the_data_never_become_elements_and_nothing_is_loaded(tmp_path, list_source, record):
    evil = '</style><script>alert(1)</script><img src=x onerror="alert(1)">\x00\ud800&amp;'
    texts = dict.fromkeys(
        ("kingdom", "class", "genus", "species", "common_name", "source", "license", "image_type", "caption"), evil
    )
    text = written(tmp_path, {evil: list_source([record(0, **texts), record(1)])})
    page = Page(text)
    assert not {"script", "img", "link", "iframe"} & set(page.elements)
    assert page.elements["style"] == 1
    assert page.text.count("<script>alert(1)</script>") > 4
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not re.search(r"(src|href)=.?(?!#)[\w/]", re.sub(r"&lt;.*?&gt;", "", text))
    assert "default-src 'none'" in dict(page.attributes).get("content", "")


def test_records_without_any_name_make_a_page(tmp_path, list_source, photo):
    page = Page(written(tmp_path, {"replay": list_source([{"key": "1", "image": photo(), "caption": "a cat"}])}))
    assert "No photo is named to species." in page.text


def test_what_cannot_be_done_is_one_line(tmp_path, list_source, splits):
    with pytest.raises(UsageError, match="--sample 0"):
        collect_statistics(splits, sample=0, console=QUIET)
    with pytest.raises(UserError, match=r"wagtails: no record can be used \(file is missing\)"):
        written(tmp_path, {"train": list_source([BadRecord("1", "file is missing: x")])})
    with pytest.raises(UserError, match="record 0: the source raised KeyError"):
        collect_statistics({"train": list_source([{"key": "no image"}])}, console=QUIET)
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match="could not be written"):
        write_statistics(collect_statistics(splits, console=QUIET), tmp_path / "folder.html", title="wagtails")


def test_the_command_writes_the_page_beside_the_contact_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--rows", "1", "--columns", "2", "--num-images", "30", "--image-size", "64"]
    main(["data", "show", "synthetic", "--statistics", "page.html", "--sample", "12", *flags])
    assert capsys.readouterr().out.split() == ["contact_sheet.png", "page.html"]
    assert "looked at 12 of them" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["data", "show", "synthetic", "--sample", "12", *flags])
    assert "--sample 12: is for --statistics" in capsys.readouterr().err
