import csv
import io
import json
import math

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import build_merge, build_scan
from bioclip_jax.pipeline.build import Selection, build
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.readers import open_directory
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.shards import encode_example
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import Tokenizer

SHARD_BYTES = 8_000  # five or six of these records


@pytest.fixture(autouse=True)
def small_spans(monkeypatch):
    """Several units of work in the first pass, several parts in the merge."""
    monkeypatch.setattr(build_scan, "SPAN_RECORDS", 7)
    monkeypatch.setattr(build_merge, "_PART_RECORDS", 8)


@pytest.fixture
def run(tmp_path):
    """Builds splits into `out` below the test's folder, quietly."""

    def run(splits, out="out", **options):
        images = options.pop("images", None)
        overwrite, threads = options.pop("overwrite", False), options.pop("threads", 1)
        return build(
            splits,
            tmp_path / out,
            name="wagtails",
            shard_bytes=options.pop("shard_bytes", SHARD_BYTES),
            images=images,
            selection=Selection(**options),
            threads=threads,
            overwrite=overwrite,
            console=Console(file=io.StringIO()),
        )

    return run


def keys(directory, split="train"):
    return [entry["key"] for entry in open_directory(directory)[split]]


def rejected_rows(directory):
    with (directory / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


def test_mixing_takes_every_record_once_in_an_order_that_only_the_seed_decides(run, tmp_path, list_source, record):
    entries = [record(i) for i in range(60)]
    for out, seed, threads in (("a", 0, 1), ("b", 0, 3), ("c", 1, 1)):
        run({"train": list_source(entries)}, out=out, mix=seed, threads=threads)
    mixed = keys(tmp_path / "a")
    assert sorted(mixed) == sorted(entry["key"] for entry in entries)
    assert mixed == keys(tmp_path / "b") != keys(tmp_path / "c")
    # Neighbours in the source are far from each other.
    places = [mixed.index(f"photo {i}") for i in range(60)]
    assert np.mean(np.abs(np.diff(places))) > 10
    assert open_directory(tmp_path / "a")["train"][0]["image"] == entries[int(mixed[0].split()[1])]["image"]


def test_the_first_of_two_records_with_one_image_or_key_stays(run, tmp_path, list_source, record):
    train = [record(i) for i in range(20)]
    train[5] = record(5, image=train[2]["image"])  # in the same unit of work
    train[15] = record(15, image=train[2]["image"])  # in another
    train[16] = record(16, key="photo 1")
    test = [record(30), record(31, image=train[4]["image"]), record(32, key="photo 3"), record(33)]
    report = run({"train": list_source(train), "test": list_source(test)}, dedup=True)
    assert keys(tmp_path / "out") == [f"photo {i}" for i in range(20) if i not in (5, 15, 16)]
    assert keys(tmp_path / "out", "test") == ["photo 30", "photo 33"]
    assert report.rejected == {
        ("train", "duplicate key"): 1,
        ("train", "duplicate image"): 2,
        ("test", "duplicate key"): 1,
        ("test", "duplicate image"): 1,
    }
    assert sorted(rejected_rows(tmp_path / "out")) == [
        ("test", "photo 3", "duplicate key", "same as train photo 3"),
        ("test", "photo 31", "duplicate image", "same as train photo 4"),
        ("train", "photo 1", "duplicate key", "same as train photo 1"),
        ("train", "photo 15", "duplicate image", "same as train photo 2"),
        ("train", "photo 5", "duplicate image", "same as train photo 2"),
    ]


def test_without_dedup_duplicates_stay(run, tmp_path, list_source, record):
    entries = [record(i, image=record(0)["image"]) for i in range(9)]
    run({"train": list_source(entries)}, mix=0)
    assert len(keys(tmp_path / "out")) == 9


def test_duplicates_by_parts_are_those_of_a_plain_search(run, tmp_path, list_source, record, monkeypatch):
    draw = np.random.default_rng(0)
    entries = [record(int(number), key=f"photo {i}") for i, number in enumerate(draw.integers(0, 25, 60))]
    expected, seen = [], set()
    for entry in entries:
        if entry["image"] not in seen:
            expected.append(entry["key"])
        seen.add(entry["image"])
    run({"train": list_source(entries)}, dedup=True)
    assert keys(tmp_path / "out") == expected
    monkeypatch.setattr(build_merge, "_PART_RECORDS", 1000)
    monkeypatch.setattr(build_merge, "_NAMED_AT_ONCE", 3)
    run({"train": list_source(entries)}, out="one part", dedup=True)
    assert keys(tmp_path / "one part") == expected
    assert sorted(rejected_rows(tmp_path / "out")) == sorted(rejected_rows(tmp_path / "one part"))


def test_the_number_of_files_fits_what_is_left(run, list_source, record):
    # Of four records in a row three are the same: the sample cannot know how many will be left.
    entries = [record(i, image=record(i // 4)["image"]) for i in range(160)]
    files = run({"train": list_source(entries)}, dedup=True).manifest.splits["train"]
    total = sum(len(encode_example(entry)) for entry in entries[::4])
    assert sum(file.records for file in files) == 40
    assert len(files) == math.ceil(total / SHARD_BYTES)
    assert max(file.records for file in files) - min(file.records for file in files) <= 1


def test_records_that_collide_with_evaluation_images_are_left_out(run, tmp_path, list_source, record, photo):
    folder = tmp_path / "evaluation" / "birds"
    folder.mkdir(parents=True)
    pictures = [photo(i, size=(96, 80)) for i in range(8)]
    (folder / "one.jpg").write_bytes(pictures[1])
    Image.open(io.BytesIO(pictures[4])).save(folder / "four.png")  # the same picture in another file
    entries = [record(i, image=data) for i, data in enumerate(pictures)]
    for check in ("decode", "header"):
        report = run(
            {"train": list_source(entries)}, out=check, exclude=(folder.parent,), images=ImageOptions(check=check)
        )
        assert keys(tmp_path / check) == [f"photo {i}" for i in (0, 2, 3, 5, 6, 7)]
        assert report.rejected == {("train", "collides with an evaluation image"): 2}
        assert [row[3].rsplit("/", 1)[1] for row in rejected_rows(tmp_path / check)] == ["one.jpg", "four.png"]
    with pytest.raises(UsageError, match="no such folder"):
        run({"train": list_source(entries)}, out="nothing", exclude=(tmp_path / "nowhere",))


def test_taxa_are_tidied_and_the_report_tells_how(run, tmp_path, list_source, record):
    entries = [record(i, kingdom="Metazoa" if i % 2 else "Animalia") for i in range(12)]
    entries[3] = record(3, kingdom="Metazoa", common_name="a wagtail with a very long common name indeed")
    report = run({"train": list_source(entries)}, clean_up=True)
    records = list(open_directory(tmp_path / "out")["train"])
    assert {entry["kingdom"] for entry in records} == {"Animalia"}
    assert [entry["key"] for entry in records] == [f"photo {i}" for i in range(12)]
    assert any("taxonomy_changes.csv" in line for line in report.lines())
    assert "Metazoa" in (tmp_path / "out" / "taxonomy_changes.csv").read_text()
    tokenizer, taxa = Tokenizer(), [Taxon.from_record(entry) for entry in records]
    for text_type in ALL_TEXT_TYPES:
        longest = max(tokenizer.count(caption(taxon, text_type)) for taxon in taxa)
        assert report.manifest.token_lengths[text_type] == longest


def test_pixels_without_an_encoding_are_compared_mixed_and_encoded(run, tmp_path, list_source, record):
    pixels = [np.full((20, 24, 3), 10 * i, np.uint8) for i in range(6)]
    entries = [record(i, image=pixels[i % 6]) for i in range(8)]
    run({"train": list_source(entries)}, dedup=True, mix=0)
    assert sorted(keys(tmp_path / "out")) == [f"photo {i}" for i in range(6)]
    assert all(entry["image"].startswith(b"\xff\xd8") for entry in open_directory(tmp_path / "out")["train"])


def test_two_passes_write_the_images_that_one_would(run, tmp_path, list_source, record, photo):
    images = [photo(i, mode=mode, file_format=kind) for i, (mode, kind) in enumerate((("CMYK", "JPEG"), ("P", "GIF")))]
    entries = [record(i, image=data) for i, data in enumerate([*images, photo(2), photo(3, file_format="WEBP")])]
    for options in (ImageOptions(), ImageOptions(resize=16, check="header"), ImageOptions(resize=16)):
        for out, selection in (("one", {}), ("two", {"dedup": True})):
            run({"train": list_source(entries)}, out=out, images=options, overwrite=True, **selection)
        one, two = (list(open_directory(tmp_path / out)["train"]) for out in ("one", "two"))
        assert [entry["image"] for entry in one] == [entry["image"] for entry in two]


@pytest.mark.parametrize("stop", ["first pass", "second pass"])
def test_a_stopped_build_of_two_passes_goes_on_and_gives_the_same(run, tmp_path, list_source, record, stop):
    entries = [record(i, kingdom="Metazoa" if i % 5 == 0 else "Animalia") for i in range(300)]
    entries[7] = BadRecord("seven", "file is missing")
    entries[9] = record(9, image=entries[8]["image"])
    options = {"mix": 3, "dedup": True, "clean_up": True, "shard_bytes": 40_000}
    expected = run({"train": list_source(entries)}, out="whole", **options).manifest
    stopping = Stopping(entries, allowed=0 if stop == "first pass" else 1)
    with pytest.raises(KeyboardInterrupt):
        run({"train": stopping}, **options)
    folder = tmp_path / "out" / ".build"
    assert len(list(folder.glob("scan-*.json"))) == (203 // 7 if stop == "first pass" else 300 // 7 + 1)
    assert not list(folder.glob("*.tmp"))
    second = list_source(entries)
    report = run({"train": second}, **options)
    assert report.manifest == expected
    assert sorted(rejected_rows(tmp_path / "out")) == sorted(rejected_rows(tmp_path / "whole"))
    assert report.rejected == {("train", "duplicate image"): 1, ("train", "file is missing"): 1}
    # Once more for the second pass, and some for the sample that tells sources apart, but not for the first again.
    first_pass = 64 + 7 + 300 - 203 if stop == "first pass" else 64
    assert sum(second.reads) <= 300 + first_pass
    assert (tmp_path / "out" / "taxonomy_changes.csv").read_text() == (
        tmp_path / "whole" / "taxonomy_changes.csv"
    ).read_text()
    assert run({"train": second}, **options).already_finished


class Stopping:
    """Is interrupted at record 203, which is not in the sample, after reading it `allowed` times."""

    def __init__(self, entries, allowed):
        self.entries, self.allowed = entries, allowed

    def __len__(self):
        return len(self.entries)

    def __getitem__(self, index):
        if index == 203:
            self.allowed -= 1
            if self.allowed < 0:
                raise KeyboardInterrupt
        if isinstance(self.entries[index], BadRecord):
            raise self.entries[index]
        return self.entries[index]


def test_a_record_that_fails_only_in_the_second_pass_is_left_out_with_its_reason(run, tmp_path, record):
    class Flaky:
        reads = 0

        def __len__(self):
            return 70  # the sample has 64 of them, and not number 34

        def __getitem__(self, index):
            self.reads += index == 34
            if self.reads > 1 and index == 34:
                raise BadRecord("photo 34", "file cannot be read: gone")
            return record(index)

    report = run({"train": Flaky()}, mix=0)
    assert report.rejected == {("train", "file cannot be read"): 1}
    assert rejected_rows(tmp_path / "out") == [("train", "photo 34", "file cannot be read", "gone")]
    assert len(keys(tmp_path / "out")) == 69


def test_a_split_that_only_repeats_another_is_an_error_that_says_so(run, tmp_path, list_source, record):
    entries = [record(i) for i in range(9)]
    with pytest.raises(UserError, match="split 'test': none of its records is usable \\(9 duplicate key\\)"):
        run({"train": list_source(entries), "test": list_source(entries)}, dedup=True)
    assert not list((tmp_path / "out").glob("*.array_record*"))
    assert len(rejected_rows(tmp_path / "out")) == 9


def test_files_whose_records_are_all_unusable_are_empty_and_the_rest_stays_readable(run, tmp_path, list_source, record):
    entries = [BadRecord(f"k{i}", "file is missing") if 10 <= i < 30 else record(i) for i in range(60)]
    report = run({"train": list_source(entries)})
    assert 0 in [file.records for file in report.manifest.splits["train"]]
    assert keys(tmp_path / "out") == [f"photo {i}" for i in range(60) if not 10 <= i < 30]
    assert len(rejected_rows(tmp_path / "out")) == 20


def test_every_option_makes_another_dataset(run, tmp_path, list_source, record, photo):
    (tmp_path / "evaluation.jpg").write_bytes(photo(99))
    entries = [record(i) for i in range(8)]
    run({"train": list_source(entries)})
    for options in (
        {"mix": 0},
        {"dedup": True},
        {"clean_up": True},
        {"exclude": (tmp_path / "evaluation.jpg",)},
        {"shard_bytes": 9_000},
        *({"images": ImageOptions(**one)} for one in ({"resize": 500}, {"quality": 90}, {"check": "header"})),
        {"images": ImageOptions(resize=500, geometry="squash")},
    ):
        with pytest.raises(UsageError, match="another source or with other options"):
            run({"train": list_source(entries)}, **options)
    with pytest.raises(UsageError, match="--mix -1"):
        run({"train": list_source(entries)}, mix=-1)


def test_a_damaged_table_of_the_first_pass_is_named(run, tmp_path, list_source, record):
    stopping = Stopping([record(i) for i in range(300)], allowed=0)
    with pytest.raises(KeyboardInterrupt):
        run({"train": stopping}, dedup=True)
    first = min((tmp_path / "out" / ".build").glob("scan-*.arrow"))
    first.write_bytes(b"not a table")
    with pytest.raises(UserError, match=first.name):
        run({"train": list_source(stopping.entries)}, dedup=True)


def test_what_the_merge_decided_is_read_back_as_it_was(tmp_path, run, list_source, record):
    entries = [record(i, kingdom="Metazoa") for i in range(300)]
    with pytest.raises(KeyboardInterrupt):
        run({"train": Stopping(entries, allowed=1)}, mix=0, clean_up=True)
    merged = build_merge.read_merged(tmp_path / "out")
    assert merged.plan.records == {"train": 300}
    assert {after.kingdom for after in merged.changes.values()} == {"Animalia"}
    decided = json.loads((tmp_path / "out" / ".build" / "merged.json").read_text())
    assert len(decided["changes"]) == 3
    (tmp_path / "out" / ".build" / "order-train.npy").unlink()
    assert build_merge.read_merged(tmp_path / "out") is None
