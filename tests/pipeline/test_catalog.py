import csv
import io
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.catalog_source import open_crawl
from bioclip_jax.pipeline.record import BadRecord

pytestmark = pytest.mark.core

COUNT = 12


def uuid(number):
    return f"{number:08x}-0000-4000-8000-000000000000"


def rgb(number):
    return np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)


def catalog_rows(count=COUNT):
    return [
        {
            "uuid": uuid(number),
            "source_url": f"https://example.org/{number}",
            "kingdom": "Animalia",
            "class": "Aves",
            "genus": "Motacilla",
            "species": ("alba", "cinerea", None)[number % 3],
            "scientific_name": ("Motacilla alba", "Motacilla cinerea", "Motacilla")[number % 3],
            "common": ("White Wagtail", "Grey Wagtail", None)[number % 3],
            "data_source": "gbif",
            "img_type": "Citizen Science",
            "source_id": str(number // 2),
            "resolution_status": "EXACT_MATCH",
        }
        for number in range(count)
    ]


def write_parquet(path, rows, **options):
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def image_row(number, **fields):
    pixels = rgb(number)
    return {"uuid": uuid(number), "image": pixels[..., ::-1].tobytes(), "resized_size": [6, 8]} | fields


@pytest.fixture
def crawl(tmp_path):
    """Paths by name: a catalog of 12, licences, and images of 3 .. 11 and of two that the catalog lacks."""
    (tmp_path / "images").mkdir()
    write_parquet(tmp_path / "images" / "a.parquet", [image_row(n) for n in (11, 3, 4, 50, 5, 6, 3)])
    write_parquet(tmp_path / "images" / "b.parquet", [image_row(n) for n in (7, 8, 51, 9, 10, 11)])
    licences = [
        {"uuid": uuid(3), "license_name": "cc-by-4.0", "license_link": "http://a"},
        {"uuid": uuid(4), "license_name": None, "license_link": "http://b"},
        {"uuid": uuid(3), "license_name": "other", "license_link": None},
        {"uuid": uuid(5), "license_name": None, "license_link": None},
        {"uuid": uuid(99), "license_name": "none", "license_link": None},
    ]
    return {
        "catalog": write_parquet(tmp_path / "catalog.parquet", catalog_rows(), row_group_size=5),
        "images": tmp_path / "images",
        "provenance": write_parquet(tmp_path / "provenance.parquet", licences),
    }


@pytest.fixture
def opened():
    """A function: opens a crawl; returns the source and what it says."""

    def open_it(**options):
        out = io.StringIO()
        return open_crawl(**options, console=Console(file=out, width=1000)), out.getvalue()

    return open_it


def numbers(source):
    return [int(source[index]["key"][:8], 16) for index in range(len(source))]


def test_records_are_the_images_of_the_catalog_in_the_order_in_which_they_lie(crawl, opened):
    source, said = opened(**crawl)
    assert numbers(source) == [11, 3, 4, 5, 6, 7, 8, 9, 10]
    assert numbers(pickle.loads(pickle.dumps(source))) == numbers(source)  # noqa: S301
    record = source[1]
    np.testing.assert_array_equal(record.pop("image"), rgb(3))
    assert record == {
        "key": uuid(3), "kingdom": "Animalia", "class": "Aves", "genus": "Motacilla", "species": "alba",
        "scientific_name": "Motacilla alba", "common_name": "White Wagtail", "source": "gbif",
        "source_id": "1", "license": "cc-by-4.0", "image_type": "Citizen Science",
    }  # fmt: skip
    assert [source[index]["license"] for index in (2, 3, 4)] == ["http://b", "", ""]
    assert source[8]["common_name"] == "Grey Wagtail"
    assert "9 images of 12 rows in the catalog; 2 other images left out; 2 images with a key seen before" in said
    with pytest.raises(IndexError):
        source[9]


def test_rows_without_an_image_are_listed_only_if_asked_for(crawl, opened):
    source, _ = opened(**crawl, list_missing=True)
    assert len(source) == COUNT
    keys = []
    for index in (9, 10, 11):
        with pytest.raises(BadRecord, match="image is missing: it is not among the crawled images") as caught:
            source[index]
        keys.append(caught.value.key)
    assert keys == [uuid(0), uuid(1), uuid(2)]


@pytest.mark.parametrize("written", [str.upper, lambda key: key.replace("-", "")])
@pytest.mark.parametrize("side", ["catalog", "images", "files"])
def test_keys_meet_however_they_are_written(tmp_path, opened, photo, written, side):
    (tmp_path / "images").mkdir()
    rows = catalog_rows()
    if side == "catalog":
        rows = [row | {"uuid": written(row["uuid"])} for row in rows]
    catalog = write_parquet(tmp_path / "catalog.parquet", rows)
    if side == "files":
        (tmp_path / "images" / f"{written(uuid(10))}.jpg").write_bytes(photo(10))
    else:
        key = uuid(10) if side == "catalog" else written(uuid(10))
        write_parquet(tmp_path / "images" / "a.parquet", [image_row(10, uuid=key)])
    source, _ = opened(catalog=catalog, images=tmp_path / "images")
    assert (len(source), source[0]["key"], source[0]["species"]) == (1, uuid(10), "cinerea")


def test_a_catalog_may_be_a_csv_and_the_first_of_equal_keys_counts(tmp_path, crawl, opened):
    rows = [*catalog_rows(), catalog_rows()[5] | {"genus": "Pica"}, catalog_rows()[5] | {"uuid": ""}]
    with (tmp_path / "catalog.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source, said = opened(catalog=tmp_path / "catalog.csv", images=crawl["images"])
    assert source[3]["key"] == uuid(5)
    assert source[3]["genus"] == "Motacilla"
    assert "1 rows with a key seen before" in said


def test_a_row_without_any_name_and_a_damaged_image_are_bad_records(tmp_path, opened):
    (tmp_path / "images").mkdir()
    nameless = dict.fromkeys(("kingdom", "class", "genus", "species", "scientific_name", "common"))
    catalog = write_parquet(tmp_path / "catalog.parquet", [catalog_rows()[0] | nameless, *catalog_rows()[1:]])
    write_parquet(tmp_path / "images" / "a.parquet", [image_row(0), image_row(1, image=b"xyz"), image_row(2)])
    source, _ = opened(catalog=catalog, images=tmp_path / "images")
    for index, reason in enumerate(("no name at any rank", "image does not fit its size")):
        with pytest.raises(BadRecord, match=reason):
            source[index]
    assert source[2]["scientific_name"] == "Motacilla"


def test_of_an_image_with_a_box_only_the_box_counts(tmp_path, crawl, opened, photo):
    whole = [image_row(n, original_size=[12, 16]) for n in (3, 4, 5, 6)]
    write_parquet(crawl["images"] / "a.parquet", whole)
    boxes = tmp_path / "fathom_metadata.csv"
    lines = [f"{uuid(3)},4,2,6,8", f"{uuid(4).upper()},-100,-100,1000,1000", f"{uuid(5)},16,0,4,4"]
    boxes.write_text("\n".join(["uuid,x,y,width,height", *lines]))
    source, _ = opened(catalog=crawl["catalog"], images=crawl["images"], boxes=boxes)
    np.testing.assert_array_equal(source[0]["image"], rgb(3)[1:5, 2:5])  # the crawler halved it
    np.testing.assert_array_equal(source[1]["image"], rgb(4))
    with pytest.raises(BadRecord, match="box is outside the image"):
        source[2]
    np.testing.assert_array_equal(source[3]["image"], rgb(6))
    files = tmp_path / "files"
    files.mkdir()
    (files / f"{uuid(3)}.png").write_bytes(photo(3, file_format="PNG"))
    (files / f"{uuid(4)}.png").write_bytes(b"no image")
    source, _ = opened(catalog=crawl["catalog"], images=files, boxes=boxes)
    assert source[0]["image"].shape == (8, 6, 3)
    with pytest.raises(BadRecord, match="image not an image"):
        source[1]
    boxes.write_text("uuid,x,y,width,height\na,1,2,three,4")
    with pytest.raises(UserError, match="row 1: the box is not four numbers"):
        opened(catalog=crawl["catalog"], images=files, boxes=boxes)
    boxes.write_text("uuid,x,y,w,h\na,1,2,3,4")
    with pytest.raises(UsageError, match="no column 'width'"):
        opened(catalog=crawl["catalog"], images=files, boxes=boxes)


def test_a_catalog_that_does_not_fit_is_refused_in_one_line(tmp_path, crawl, opened):
    images = crawl["images"]
    strange = write_parquet(tmp_path / "strange.parquet", [row | {"uuid": f"x{row['uuid']}"} for row in catalog_rows()])
    with pytest.raises(UserError, match=r"has 12 rows, and .* 13 images, but no key is in both"):
        opened(catalog=strange, images=images)
    empty = tmp_path / "empty.parquet"
    pyarrow.parquet.write_table(pa.Table.from_pylist(catalog_rows()).slice(0, 0), empty)
    with pytest.raises(UserError, match="has 0 rows"):
        opened(catalog=empty, images=images)
    keyless = write_parquet(tmp_path / "keyless.parquet", [{"genus": "Pica"}])
    with pytest.raises(UsageError, match="no column 'uuid' or 'key'"):
        opened(catalog=keyless, images=images)
    with pytest.raises(UsageError, match="no such file"):
        opened(catalog=tmp_path / "none.parquet", images=images)
    (tmp_path / "cut.parquet").write_bytes(crawl["catalog"].read_bytes()[:-50])
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        opened(catalog=tmp_path / "cut.parquet", images=images)
    with pytest.raises(UsageError, match="needs a column uuid and license_name or license_link"):
        opened(catalog=crawl["catalog"], images=images, provenance=keyless)


def test_image_files_with_their_catalog_become_a_dataset(tmp_path, crawl, opened, photo):
    files = tmp_path / "files"
    files.mkdir()
    for number in range(3):
        (files / f"{uuid(number)}.jpg").write_bytes(photo(number))
    (files / f"{uuid(3)}.jpg").write_bytes(b"")
    source, _ = opened(catalog=crawl["catalog"], images=files, provenance=crawl["provenance"], list_missing=True)
    report = build({"train": source}, tmp_path / "out", name="tol", console=Console(file=io.StringIO()))
    assert report.manifest.records("train") == 3
    assert report.rejected == {("train", "image empty"): 1, ("train", "image is missing"): 8}
