import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import crawl_index
from bioclip_jax.pipeline.crawl_index import INDEX, open_images
from bioclip_jax.pipeline.crawled import ParquetImages, canonical_key
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.tar_samples import key_hash

pytestmark = pytest.mark.core

UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def uuid(number):
    return f"{number:08x}-0000-4000-8000-000000000000"


def rgb(number, height=6, width=8):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def row(number, **fields):
    """A row as distributed-downloader writes it: BGR."""
    image = rgb(number)
    return {
        "uuid": uuid(number),
        "identifier": f"https://example.org/{number}",
        "original_size": [12, 16],
        "resized_size": list(image.shape[:2]),
        "image": image[..., ::-1].tobytes(),
    } | fields


def write(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, compression="zstd", **options)
    return path


def open_quietly(root, *args, **options):
    return open_images(root, *args, console=Console(file=io.StringIO()), **options)


@pytest.fixture
def crawl(tmp_path):
    """A folder of two files, 100 and 5 images, and the files that lie beside them."""
    root = tmp_path / "images"
    write(root / "source=gbif" / "server=a.org" / "data_1.parquet", [row(n) for n in range(100)], row_group_size=40)
    write(root / "server_name=b.org" / "partition_id=0" / "successes.parquet", [row(n) for n in range(100, 105)])
    errors = [{"uuid": uuid(900), "identifier": "x", "retry_count": 1, "error_code": 404, "error_msg": "gone"}]
    write(root / "server_name=b.org" / "partition_id=0" / "errors.parquet", errors)
    (root / "server_name=b.org" / "partition_id=0" / "completed").touch()
    return root


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (UUID, UUID),
        (UUID.upper(), UUID),
        (UUID.replace("-", ""), UUID),
        (f" {UUID}\n", UUID),
        ("EOL_123", "EOL_123"),
        ("", ""),
        (UUID[:-1], UUID[:-1]),
        ("../../etc/passwd", "../../etc/passwd"),
    ],
)
def test_a_uuid_is_the_same_key_however_it_is_written(text, key):
    assert canonical_key(text) == key


def test_every_image_of_every_file_is_read_as_rgb_in_any_order(crawl):
    images = open_quietly(crawl)
    assert [len(hashes) for hashes in images.hashes] == [5, 100]
    places = [(file, row) for file, count in enumerate((5, 100)) for row in range(count)]
    for order in (places, places[::-1], np.random.default_rng(0).permutation(places).tolist()):
        for file, place in order:
            number = place + 100 * (1 - file)
            crawled = images.images.read(file, place)
            assert (crawled.key, crawled.original_size) == (uuid(number), (12, 16))
            np.testing.assert_array_equal(crawled.image, rgb(number))
            assert images.hashes[file][place] == key_hash(uuid(number).encode())


def test_read_in_order_by_threads_blocks_are_decoded_about_once_within_the_bytes_allowed(crawl, monkeypatch):
    opened = open_quietly(crawl, cache_bytes=20_000).images
    decoded, keep = [], ParquetImages._keep

    def kept(self, key, batch):
        decoded.append(key)
        keep(self, key, batch)
        assert self._held <= 20_000
        assert self._held == sum(block.nbytes for block in self._blocks.values())

    monkeypatch.setattr(ParquetImages, "_keep", kept)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda place: opened.read(1, place), range(100)))
    assert [image.key for image in found] == [uuid(number) for number in range(100)]
    assert sorted(set(decoded)) == [(1, 0, 0), (1, 0, 1), (1, 1, 0), (1, 1, 1), (1, 2, 0)]
    assert len(decoded) <= 5 + 4  # a thread that lags may find its block gone


def test_a_source_reads_the_same_after_pickling(crawl):
    images = open_quietly(crawl).images
    before = images.read(1, 50)
    after = pickle.loads(pickle.dumps(images)).read(1, 50)  # noqa: S301
    assert after.key == before.key
    np.testing.assert_array_equal(after.image, before.image)


def test_only_new_and_changed_files_are_looked_at_again(crawl, monkeypatch):
    open_quietly(crawl)
    looked, look = [], crawl_index._look
    monkeypatch.setattr(crawl_index, "_look", lambda path: looked.append(path.name) or look(path))
    assert [len(hashes) for hashes in open_quietly(crawl).hashes] == [5, 100]
    assert looked == []
    write(crawl / "data_new.parquet", [row(300)])
    write(crawl / "source=gbif" / "server=a.org" / "data_1.parquet", [row(n) for n in range(7)])
    assert [len(hashes) for hashes in open_quietly(crawl).hashes] == [1, 5, 7]
    assert sorted(looked) == ["data_1.parquet", "data_new.parquet"]
    (crawl / "data_new.parquet").unlink()
    assert [len(hashes) for hashes in open_quietly(crawl).hashes] == [5, 7]


def test_what_was_looked_at_before_a_stop_is_not_looked_at_again(crawl, monkeypatch):
    look, looked = crawl_index._look, []

    def stopped(path):
        if path.name == "data_1.parquet":
            raise KeyboardInterrupt
        return look(path)

    monkeypatch.setattr(crawl_index, "_look", stopped)
    with pytest.raises(KeyboardInterrupt):
        open_quietly(crawl)
    monkeypatch.setattr(crawl_index, "_look", lambda path: looked.append(path.name) or look(path))
    assert [len(hashes) for hashes in open_quietly(crawl).hashes] == [5, 100]
    assert looked == ["data_1.parquet"]


def test_the_index_may_lie_elsewhere_and_a_damaged_one_is_made_again(crawl, tmp_path):
    open_quietly(crawl, tmp_path / "indexes")
    index = tmp_path / "indexes" / "images.crawl.index"
    assert index.is_file()
    assert not (crawl / INDEX).exists()
    for damaged in (index.read_bytes()[:-20], b"", b"not an index" * 100):
        index.write_bytes(damaged)
        assert [len(hashes) for hashes in open_quietly(crawl, tmp_path / "indexes").hashes] == [5, 100]
    assert [path.name for path in index.parent.iterdir()] == [index.name]


def test_damaged_files_are_refused_by_name_or_left_out(crawl):
    whole = (crawl / "server_name=b.org" / "partition_id=0" / "successes.parquet").read_bytes()
    (crawl / "cut.parquet").write_bytes(whole[:-100])
    (crawl / "text.parquet").write_text("no Parquet")
    (crawl / "empty.parquet").touch()
    with pytest.raises(UserError, match=r"3 of 6 Parquet files cannot be read: .*cut\.parquet \(.*allow damaged"):
        open_quietly(crawl)
    images = open_quietly(crawl, allow_damaged=True)
    assert [len(hashes) for hashes in images.hashes] == [5, 100]
    assert "3 damaged files left out" in images.notes[0]


def test_a_file_with_other_columns_or_no_rows_does_no_harm(tmp_path):
    write(tmp_path / "a.parquet", [row(1)])
    write(tmp_path / "b.parquet", [{"x": 1}])
    empty = pa.Table.from_pylist([row(1)]).slice(0, 0)
    pyarrow.parquet.write_table(empty, tmp_path / "c.parquet")
    assert [len(hashes) for hashes in open_quietly(tmp_path).hashes] == [1, 0]
    write(tmp_path / "d.parquet", [row(1, image=[1, 2, 3])])
    with pytest.raises(UserError, match=r"d\.parquet \(column 'image' holds list.*, not bytes\)"):
        open_quietly(tmp_path)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": b"x" * 143}, "image does not fit its size: 143 bytes for 6 x 8 x 3"),
        ({"image": b""}, "image is empty"),
        ({"image": None}, "image is empty"),
        ({"resized_size": None}, "resized_size is not height and width: None"),
        ({"resized_size": [6, 8, 3]}, "resized_size is not height and width"),
        ({"resized_size": [-6, -8]}, "resized_size is not height and width"),
        ({"resized_size": [0, 8], "image": b"x"}, "resized_size is not height and width"),
        ({"resized_size": [1 << 30, 1 << 30]}, "image is too large"),
    ],
)
def test_a_row_whose_pixels_do_not_fit_is_a_bad_record(tmp_path, fields, reason):
    write(tmp_path / "a.parquet", [row(0), row(1, **fields), row(2)])
    images = open_quietly(tmp_path).images
    with pytest.raises(BadRecord, match=reason) as caught:
        images.read(0, 1)
    assert caught.value.key == uuid(1)
    np.testing.assert_array_equal(images.read(0, 2).image, rgb(2))


def test_behind_damage_in_a_row_group_records_are_bad_and_other_row_groups_are_read(tmp_path):
    path = write(
        tmp_path / "a.parquet",
        [row(n) for n in range(80)],
        row_group_size=40,
        use_dictionary=False,
        data_page_size=1,
        write_batch_size=1,
    )
    column = pyarrow.parquet.read_metadata(path).row_group(0).column(4)
    assert column.path_in_schema == "image"
    data = bytearray(path.read_bytes())
    page = column.data_page_offset + column.total_compressed_size // 2
    page = data.index(b"\x15\x00\x15", page)  # the header of a later page
    data[page : page + 20] = b"\xff" * 20
    path.write_bytes(data)
    images = open_quietly(tmp_path).images
    reasons, good = [], []
    for place in range(80):
        try:
            image = images.read(0, place).image
        except BadRecord as error:
            reasons.append(error.reason)
        else:
            np.testing.assert_array_equal(image, rgb(place))
            good.append(place)
    assert good[-40:] == list(range(40, 80))
    assert 0 < len(reasons) <= 40
    assert good[:-40] == list(range(40 - len(reasons)))
    assert all(reason.startswith("damaged Parquet file: ") for reason in reasons)


def test_a_file_that_vanishes_or_changes_stops_with_its_name(crawl):
    images = open_quietly(crawl).images
    images.read(1, 0)
    path = crawl / "source=gbif" / "server=a.org" / "data_1.parquet"
    os.utime(path, ns=(1, 1))
    with pytest.raises(UserError, match=r"data_1\.parquet was changed after it was indexed"):
        pickle.loads(pickle.dumps(images)).read(1, 0)  # noqa: S301
    path.unlink()
    with pytest.raises(UserError, match=r"data_1\.parquet: no such file") as caught:
        images.read(1, 99)
    assert not isinstance(caught.value, BadRecord)


def test_image_files_are_found_in_any_folder_by_their_name(tmp_path, photo):
    names = [f"{uuid(1)}.jpg", f"a/b/{uuid(2).upper()}.PNG", f"c/{uuid(3).replace('-', '')}.webp", "c/EOL_7.jpeg"]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(photo(number))
    for other in ("._x.jpg", "notes.txt", ".hidden/x.jpg"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("x")
    write(tmp_path / "catalog.parquet", [{"uuid": uuid(1)}])
    images = open_quietly(tmp_path)
    found = [images.images.read(0, place) for place in range(len(images.hashes[0]))]
    assert {crawled.key: crawled.image for crawled in found} == {
        uuid(1): photo(0),
        uuid(2): photo(1),
        uuid(3): photo(2),
        "EOL_7": photo(3),
    }
    assert set(images.hashes[0].tolist()) == {key_hash(crawled.key.encode()) for crawled in found}
    (tmp_path / names[0]).unlink()
    gone = next(place for place, crawled in enumerate(found) if crawled.key == uuid(1))
    with pytest.raises(BadRecord, match="file is missing"):
        images.images.read(0, gone)


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        open_quietly(tmp_path / "none")
    with pytest.raises(UserError, match="holds neither Parquet files with columns uuid, image, resized_size nor image"):
        open_quietly(tmp_path)
