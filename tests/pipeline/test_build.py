import csv
import io
import resource
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.images import decode
from bioclip_jax.pipeline import progress
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.build_images import ImageOptions, storable_image
from bioclip_jax.pipeline.manifest import read_manifest
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.readers import open_directory
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import Taxon
from bioclip_jax.text.tokenizer import Tokenizer

pytestmark = pytest.mark.core

SHARD_BYTES = 8_000  # five or six of these records


@pytest.fixture
def run(tmp_path):
    """Builds splits into `out` below the test's folder, quietly."""

    def run(splits, out="out", **options):
        options = {"name": "wagtails", "shard_bytes": SHARD_BYTES, "threads": 2} | options
        return build(splits, tmp_path / out, console=Console(file=io.StringIO()), **options)

    return run


def rejected_rows(directory):
    with (directory / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return [tuple(row.values()) for row in csv.DictReader(file)]


@pytest.mark.parametrize("out", ["s3://birds/built", "gs://birds/built"])
def test_an_object_store_as_output_is_refused_rather_than_made_a_folder_of_that_name(
    tmp_path, monkeypatch, list_source, record, out
):
    monkeypatch.chdir(tmp_path)
    for given in (out, Path(out)):
        with pytest.raises(UsageError, match=rf"^output {out}: .*local or mounted directory"):
            build({"train": list_source([record(0)])}, given, name="birds")
    assert not list(tmp_path.iterdir())


def test_records_keep_their_order_over_several_shards(run, tmp_path, list_source, record):
    splits = {"train": list_source([record(i) for i in range(40)]), "test": list_source([record(40)])}
    report = run(splits)
    opened = open_directory(tmp_path / "out")
    assert len(report.manifest.splits["train"]) > 2
    assert [entry["key"] for entry in opened["train"]] == [f"photo {i}" for i in range(40)]
    assert opened["train"][7]["image"] == record(7)["image"]
    assert opened["test"][0]["key"] == "photo 40"
    assert report.rejected == {}
    assert read_manifest(tmp_path / "out") == report.manifest
    assert not (tmp_path / "out" / ".build").exists()


def test_a_record_that_cannot_be_used_is_counted_by_reason_and_the_build_goes_on(run, tmp_path, list_source, record):
    bad = [
        BadRecord("k0", "file is missing: birds/k0.jpg"),
        record(1, image=record(1)["image"][:200]),
        record(2, image=b""),
        record(3, image="text"),
        record(4, key=""),
        {"key": "nameless", "image": record(5)["image"], "source": "test"},
        record(6, latitude="north"),
        record(7, common_name=7),
        record(8, common_name="half a pair \ud83d"),
        record(9, image=b"GIF89a"),
    ]
    report = run({"train": list_source([*bad, *(record(i) for i in range(10, 15))])})
    rows = rejected_rows(tmp_path / "out")
    assert report.manifest.records("train") == 5
    assert sum(report.rejected.values()) == len(rows) == len(bad)
    assert rows[0] == ("train", "k0", "file is missing", "birds/k0.jpg")
    assert [row[2] for row in rows[1:9]] == [
        "image truncated",
        "image empty",
        "image is not bytes",
        "no key",
        "no name at any rank",
        "latitude is not a number",
        "common_name is not text",
        "text is not Unicode",
    ]
    assert any("file is missing" in line for line in report.lines())


def huge_png():
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_left_out_unread(run, list_source, record):
    report = run({"train": list_source([record(0), record(1, image=huge_png())])})
    assert report.rejected == {("train", "image too large"): 1}


@pytest.mark.parametrize(
    ("mode", "file_format"), [("RGB", "JPEG"), ("L", "JPEG"), ("RGB", "PNG"), ("L", "PNG"), ("RGB", "WEBP")]
)
def test_plain_images_are_stored_byte_for_byte(photo, mode, file_format):
    data = photo(1, mode=mode, file_format=file_format)
    assert storable_image(data) == data


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("RGB", "BMP"), ("P", "GIF")],
)
def test_unusual_images_are_stored_as_the_pixels_that_decoding_gives(photo, mode, file_format):
    data = photo(1, mode=mode, file_format=file_format)
    stored = storable_image(data)
    image = Image.open(io.BytesIO(stored))
    assert (image.format, image.mode) == ("PNG", "RGB")
    assert np.array_equal(decode(stored), decode(data))


def test_16_bit_and_animated_images_are_stored_as_one_8_bit_picture(photo):
    buffer = io.BytesIO()
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30)).save(buffer, "PNG")
    frames = [Image.open(io.BytesIO(photo(seed))) for seed in range(3)]
    animation = io.BytesIO()
    frames[0].save(animation, "WEBP", save_all=True, append_images=frames[1:])
    for data in (buffer.getvalue(), animation.getvalue()):
        stored = Image.open(io.BytesIO(storable_image(data)))
        assert (stored.format, stored.mode, getattr(stored, "n_frames", 1)) == ("PNG", "RGB", 1)


def test_a_photo_with_odd_metadata_that_only_one_reader_accepts_is_stored_as_its_pixels(photo):
    data = photo()
    odd = data[:2] + b"\xff\xe2\x00\x0eICC_PROFILE\0" + data[2:]
    np.testing.assert_array_equal(decode(storable_image(odd)), decode(odd))


def test_image_size_shrinks_the_shorter_side_and_never_enlarges(photo):
    shrunk = Image.open(io.BytesIO(storable_image(photo(0, size=(120, 80)), ImageOptions(resize=32))))
    assert (shrunk.size, shrunk.format) == ((48, 32), "JPEG")
    small = photo(0, size=(120, 24))
    assert storable_image(small, ImageOptions(resize=32)) == small


def test_token_lengths_are_those_of_the_longest_caption_of_each_type(run, list_source, record):
    records = [record(i) for i in range(4)] + [record(4, common_name="a bird with a very long common name indeed")]
    records.append(record(5, caption="one two three"))
    lengths = run({"train": list_source(records)}).manifest.token_lengths
    tokenizer, taxa = Tokenizer(), [Taxon.from_record(entry) for entry in records]
    for text_type in ALL_TEXT_TYPES:
        assert lengths[text_type] == max(tokenizer.count(caption(taxon, text_type)) for taxon in taxa)
    assert lengths["caption"] == 5


def test_a_stopped_build_goes_on_and_gives_what_the_unstopped_one_would_have_given(run, tmp_path, list_source, record):
    entries = [record(i) for i in range(300)]
    entries[7] = BadRecord("seven", "file is missing")
    expected = run({"train": list_source(entries)}, out="whole").manifest

    stopping = list_source(entries)
    stopping.entries[203] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run({"train": stopping})
    finished = sorted((tmp_path / "out").glob("*.array_record-*"))
    assert finished
    assert not list((tmp_path / "out" / ".build").glob("*.tmp"))
    with pytest.raises(UserError, match="not finished"):
        read_manifest(tmp_path / "out")

    second = list_source(entries)
    report = run({"train": second})
    assert report.manifest == expected
    assert rejected_rows(tmp_path / "out") == [("train", "seven", "file is missing", "")]
    # Apart from the sample that tells the source from another, what was finished was not read again.
    assert sum(second.reads[:180]) < 64 + 6
    assert all(reads >= 1 for reads in second.reads[203:])


def test_a_finished_shard_that_was_damaged_is_built_again(run, tmp_path, list_source, record):
    entries = [record(i) for i in range(300)]
    stopping = list_source(entries)
    stopping.entries[203] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run({"train": stopping})
    first = min((tmp_path / "out").glob("*.array_record-*"))
    first.write_bytes(first.read_bytes()[:1000])
    (tmp_path / "out" / ".build" / f"{first.name}.tmp").write_bytes(b"left by a killed build")
    run({"train": list_source(entries)})
    assert len(list(open_directory(tmp_path / "out")["train"])) == 300


def test_building_a_finished_dataset_again_does_nothing_and_says_so(run, tmp_path, list_source, record):
    entries = [record(i) for i in range(12)]
    run({"train": list_source(entries)})
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    report = run({"train": list_source(entries)})
    assert report.already_finished
    assert "nothing to do" in report.lines()[0]
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_another_source_does_not_go_into_the_same_directory_unless_told_to_overwrite(run, list_source, record):
    run({"train": list_source([record(i) for i in range(6)])})
    other = {"train": list_source([record(i) for i in range(5)])}
    with pytest.raises(UsageError, match="another source"):
        run(other)
    assert run(other, overwrite=True).manifest.records("train") == 5


def test_overwrite_keeps_the_old_dataset_where_the_new_source_does_not_work(run, tmp_path, list_source, record):
    run({"train": list_source([record(0)])})
    with pytest.raises(UserError):
        run({"train": list_source([ValueError("no such photo")])}, overwrite=True)
    assert open_directory(tmp_path / "out")["train"][0]["key"] == "photo 0"


def test_an_unfinished_build_of_another_source_is_refused(run, list_source, record):
    stopping = list_source([record(i) for i in range(300)])
    stopping.entries[203] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run({"train": stopping})
    with pytest.raises(UsageError, match="unfinished build of another"):
        run({"train": list_source([record(0)])})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_that_holds_something_else_is_refused_and_left_alone(run, tmp_path, list_source, record, overwrite):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("precious")
    with pytest.raises(UsageError, match=r"thesis\.docx"):
        run({"train": list_source([record(0)])}, overwrite=overwrite)
    assert (tmp_path / "out" / "thesis.docx").read_text() == "precious"


def test_output_that_is_a_file_is_refused(run, tmp_path, list_source, record):
    (tmp_path / "out").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        run({"train": list_source([record(0)])})


def test_two_builds_at_once_do_not_share_a_directory(run, list_source, record):
    class Nested(list_source):
        problem = None

        def __getitem__(self, index):
            if self.problem is None:
                with pytest.raises(UserError) as caught:
                    run({"train": list_source([record(0)])})
                self.problem = caught.value
            return super().__getitem__(index)

    source = Nested([record(0)])
    run({"train": source}, threads=1)
    assert "another process is building" in str(source.problem)


def test_an_empty_split_and_wrong_options_are_usage_errors(run, list_source, record):
    with pytest.raises(UsageError, match="'test' has no records"):
        run({"train": list_source([record(0)]), "test": list_source([])})
    for option in ({"name": "a b"}, {"shard_bytes": 0}, {"threads": -1}, {"workers": 0}):
        with pytest.raises(UsageError):
            run({"train": list_source([record(0)])}, **option)


def test_a_split_without_any_usable_record_fails_and_tells_why(run, tmp_path, list_source, record):
    with pytest.raises(UserError, match="2 file is missing"):
        run({"train": list_source([record(0)]), "test": list_source([BadRecord(k, "file is missing") for k in "ab"])})
    assert len(rejected_rows(tmp_path / "out")) == 2
    run({"train": list_source([record(0)]), "test": list_source([record(1)])})  # mended, it builds in the same place


def test_an_error_of_the_recipe_itself_is_one_line(run, list_source, record):
    with pytest.raises(UserError, match="record 1: the source raised KeyError: 'photo'"):
        run({"train": list_source([record(0), KeyError("photo")])})


def test_a_full_disk_is_one_line_keeps_finished_shards_and_the_build_goes_on_later(run, tmp_path, list_source, record):
    # A limit on the size of a file stands in for a full disk: the first split's shard fits, the second's does not.
    splits = {
        "train": list_source([record(i) for i in range(4)]),
        "test": list_source([record(i, image=bytes_of_noise(i)) for i in range(8)]),
    }
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, hard))
    try:
        with pytest.raises(UserError, match="could not be written") as caught:
            run(splits, shard_bytes=10**6)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert len(list((tmp_path / "out").glob("wagtails-train*"))) == 1
    assert not list((tmp_path / "out" / ".build").glob("*.tmp"))
    again = run(splits, shard_bytes=10**6)
    assert again.manifest.records("test") == 8


def bytes_of_noise(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (150, 150, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_ordered_map_keeps_the_order_and_reads_no_further_ahead_than_its_window():
    started = []
    with ThreadPoolExecutor(4) as pool:
        results = ordered_map(pool, lambda i: started.append(i) or i, range(1000), window=8)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert max(started) <= 3 + 8
        results.close()


def test_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch):
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    output = io.StringIO()
    with progress.RecordProgress(4, "building wagtails", Console(file=output)) as bar:
        bar.skip(1)
        bar.advance(note="1 left out")
    last = output.getvalue().splitlines()[-1]
    assert last.startswith("building wagtails: 2 of 4 records")
    assert last.endswith("s left, 1 left out")
