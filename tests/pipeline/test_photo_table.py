import csv
import io
import json
import math
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.photo_table import degrees, tidy_taxon
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.text.taxonomy import RANKS

pytestmark = pytest.mark.core

ROW = {
    "filepath": "a.jpg",
    "kingdom": "Animalia",
    "phylum": "Chordata",
    "class": "Aves",
    "order": "Passeriformes",
    "family": "Motacillidae",
    "genus": "Motacilla",
    "species": "alba",
    "scientific_name": "Motacilla alba",
    "common_name": "White Wagtail",
}


@pytest.fixture
def table(tmp_path, photo):
    """Writes a CSV table of rows (dicts) beside the images a.jpg to d.jpg; returns its path."""
    for seed, name in enumerate("abcd"):
        (tmp_path / f"{name}.jpg").write_bytes(photo(seed))

    def write(*rows, delimiter=",", encoding="utf-8"):
        path = tmp_path / "photos.csv"
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


def open_table(path, **arguments):
    return open_dataset("photo_table", {"table": path, **arguments})


def only_record(path, **arguments):
    (source,) = open_table(path, **arguments).values()
    assert len(source) == 1
    return source[0]


def rejected(source):
    reasons = {}
    for index in range(len(source)):
        try:
            source[index]
        except BadRecord as error:
            reasons[index] = error.reason
    return reasons


def test_a_row_becomes_a_record(table, photo):
    record = only_record(table(ROW | {"licence": "CC BY 4.0", "source": "lab"}))
    assert record["key"] == "a.jpg"
    assert record["image"] == photo(0)
    assert {name: record[name] for name in (*RANKS, "scientific_name", "common_name")} == {
        name: ROW[name] for name in (*RANKS, "scientific_name", "common_name")
    }
    assert (record["license"], record["source"]) == ("CC BY 4.0", "lab")
    assert math.isnan(record["latitude"])


def test_darwin_core_and_gbif_headers_are_recognised(table):
    record = only_record(
        table(
            {
                "gbifID": "17",
                "dwc:associatedMedia": "a.jpg",
                "Kingdom": "Animalia",
                "class": "Aves",
                "species": "Motacilla alba",
                "genus": "Motacilla",
                "specificEpithet": "alba",
                "scientificName": "Motacilla alba Linnaeus, 1758",
                "vernacularName": "Bachstelze",
                "decimalLatitude": "52.5",
                "decimalLongitude": "-13,4",
                "basisOfRecord": "HUMAN_OBSERVATION",
                "license": "CC0",
            },
            delimiter="\t",
        )
    )
    assert (record["kingdom"], record["genus"], record["species"]) == ("Animalia", "Motacilla", "alba")
    assert (record["scientific_name"], record["common_name"]) == ("Motacilla alba", "Bachstelze")
    assert (record["source_id"], record["image_type"]) == ("17", "HUMAN_OBSERVATION")
    assert (record["latitude"], record["longitude"]) == (52.5, -13.4)


def test_the_headers_of_open_clip_tables_are_recognised(table):
    row = {"filepath": "a.jpg", "cls": "Aves", "genus": "Motacilla", "species": "Motacilla alba", "common": "wagtail"}
    record = only_record(table(row))
    assert (record["class"], record["species"], record["common_name"]) == ("Aves", "alba", "wagtail")
    assert record["scientific_name"] == "Motacilla alba"


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "utf-8")])
def test_delimiters_and_encodings_of_spreadsheets_are_read(table, delimiter, encoding):
    path = table(ROW | {"common_name": "Bergstelze, die\n„gelbe“ 鹡鸰"}, delimiter=delimiter, encoding=encoding)
    assert only_record(path)["common_name"] == "Bergstelze, die „gelbe“ 鹡鸰"


def test_parquet_is_read_whatever_the_types_of_its_columns(tmp_path, table):
    table(ROW)
    columns = {name: pa.array([value, None]) for name, value in ROW.items()}
    columns |= {"class": pa.array(["Aves", "Aves"]).dictionary_encode(), "id": pa.array([5, 6])}
    columns |= {"latitude": pa.array([1.5, None]), "embedding": pa.array([[1.0], [2.0]])}
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "photos.parquet")
    source = open_table(tmp_path / "photos.parquet")["train"]
    assert (source[0]["key"], source[0]["class"], source[0]["latitude"]) == ("5", "Aves", 1.5)
    assert rejected(source) == {1: "no file name"}


def test_columns_are_mapped_by_flag_and_others_can_be_kept(table):
    path = table({"Foto": "a.jpg", "Art": "Motacilla alba", "species": "nonsense", "beak": "thin"})
    record = only_record(path, columns=("filepath=Foto", "scientific_name=Art", "species="), attributes=("beak",))
    assert (record["genus"], record["species"]) == ("Motacilla", "alba")
    assert json.loads(record["attributes"]) == {"beak": "thin"}


def test_unusable_rows_tell_why(table, tmp_path):
    (tmp_path / "folder").mkdir()
    names = {
        "../secret.jpg": "file is outside the image folder: ../secret.jpg",
        "/etc/hostname": "file is outside the image folder: /etc/hostname",
        "C:\\photos\\a.jpg": "file is outside the image folder: C:\\photos\\a.jpg",
        "https://example.org/a.jpg": "file name is a web address: https://example.org/a.jpg",
        "z.jpg": "file is missing: z.jpg",
        "": "no file name",
        "folder": "file cannot be read: Is a directory",
        "a\0.jpg": "file cannot be read: embedded null byte",
    }
    rows = [ROW | {"filepath": name} for name in names]
    rows += [ROW, ROW, {**dict.fromkeys(ROW, "NA"), "filepath": "b.jpg"}]
    source = open_table(table(*rows))["train"]
    expected = dict(enumerate(names.values()))
    assert rejected(source) == expected | {9: "duplicate key", 10: "no name at any rank"}


def test_a_missing_rank_is_no_reason_to_leave_a_row_out(table):
    assert only_record(table(ROW | {"class": ""}))["class"] == ""


def test_windows_paths_below_the_folder_are_found(table, tmp_path, photo):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "小鸟 é.jpg").write_bytes(photo(5))
    assert only_record(table(ROW | {"filepath": "birds\\小鸟 é.jpg"}))["image"] == photo(5)


def test_images_may_lie_elsewhere_than_the_table(table, tmp_path, photo):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jpg").write_bytes(photo(9))
    assert only_record(table(ROW), images=tmp_path / "elsewhere")["image"] == photo(9)


def test_the_split_column_makes_the_splits(table):
    names = ("train", "test-new", "", "train")
    rows = [ROW | {"filepath": f"{n}.jpg", "split": s} for n, s in zip("abcd", names, strict=True)]
    splits = open_table(table(*rows))
    assert {split: len(source) for split, source in splits.items()} == {"train": 3, "test_new": 1}
    assert rejected(splits["train"]) == {1: "no split"}


def test_a_test_fraction_keeps_the_photos_of_one_observation_together(table):
    rows = [ROW | {"filepath": f"{i}.jpg", "occurrenceID": f"o{i // 4}"} for i in range(400)]
    splits = open_table(table(*rows), test_fraction=0.3)
    assert 80 < len(splits["test"]) < 160
    files = {split: {rows[int(row)]["occurrenceID"] for row in source._rows} for split, source in splits.items()}
    assert not files["train"] & files["test"]
    assert open_table(table(*rows))["train"]._rows.tolist() == list(range(400))


def test_a_source_can_be_pickled(table):
    source = open_table(table(ROW))["train"]
    assert pickle.loads(pickle.dumps(source))[0] == source[0]  # noqa: S301


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ({"scientific_name": "Parus major Linnaeus, 1758"}, ("Parus", "major", "Parus major")),
        ({"scientific_name": "Parus major"}, ("Parus", "major", "Parus major")),
        ({"scientific_name": "Abies × borisii-regis Mattf."}, ("Abies", "borisii-regis", "Abies × borisii-regis")),
        ({"scientific_name": "Aves"}, ("", "", "Aves")),
        ({"genus": "PARUS", "species": "Parus major"}, ("Parus", "major", "Parus major")),
        ({"species": "Parus major (L.)"}, ("Parus", "major", "Parus major")),
        ({"kingdom": "Viruses", "scientific_name": "Influenza A virus"}, ("", "", "Influenza A virus")),
        ({"genus": "Parus", "species": "NA"}, ("Parus", "", "")),
        ({"genus": "Ōkarito", "species": "ʻōʻō"}, ("Ōkarito", "ʻōʻō", "Ōkarito ʻōʻō")),
    ],
)
def test_names_are_tidied(row, names):
    taxon = tidy_taxon(row)
    assert (taxon.genus, taxon.species, taxon.scientific_name) == names


@pytest.mark.parametrize(
    ("text", "value"), [("91", None), ("abc", None), ("inf", None), ("-12.25", -12.25), ("1,5", 1.5)]
)
def test_only_numbers_in_range_are_coordinates(text, value):
    assert degrees(text, 90) == value or (value is None and math.isnan(degrees(text, 90)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"columns": ("filepath=nowhere",)}, "no such column; the columns of .* are: filepath, kingdom"),
        ({"columns": ("colour=class",)}, "no such field"),
        ({"columns": ("class",)}, "write field=COLUMN"),
        ({"columns": ("filepath=",)}, "no column holds the image files"),
        ({"columns": tuple(f"{field}=" for field in (*RANKS, "scientific_name", "common_name"))}, "holds a taxon"),
        ({"attributes": ("beak",)}, "--attributes beak: no such column"),
        ({"test_fraction": 1.5}, "--test-fraction"),
        ({"images": Path("nowhere")}, "--images nowhere: no such directory"),
    ],
)
def test_wrong_flags_are_usage_errors_that_say_what_there_is(table, arguments, message):
    with pytest.raises(UsageError, match=message):
        open_table(table(ROW), **arguments)


def test_tables_that_cannot_be_read_are_one_line(tmp_path):
    contents = {
        "missing.csv": None,
        "empty.csv": b"",
        "header.csv": b"filepath,class\n",
        "latin.csv": "filepath,class\na.jpg,Vögel\n".encode("latin-1"),
        "ragged.csv": b"filepath,class\na.jpg,Aves,extra\n",
        "photo.csv": bytes(range(256)) * 20,
        "cut.parquet": b"PAR1" + bytes(50),
        "lists.parquet": None,
    }
    for name, content in contents.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        elif name == "lists.parquet":
            nested = pa.table({"filepath": pa.array([["a"]]), "class": ["Aves"]})
            pyarrow.parquet.write_table(nested, tmp_path / name)
        with pytest.raises(UserError) as caught:
            open_table(tmp_path / name)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value) or "filepath" in str(caught.value)
    with pytest.raises(UsageError, match="is a directory"):
        open_table(tmp_path)


def test_lines_with_another_number_of_cells_are_rejected_and_the_build_goes_on(tmp_path, photo):
    (tmp_path / "a.jpg").write_bytes(photo())
    (tmp_path / "table.csv").write_text("filepath,class\na.jpg,Aves\nb.jpg,Aves, birds\nc.jpg\n")
    quiet = Console(file=io.StringIO())
    report = build(open_table(tmp_path / "table.csv"), tmp_path / "out", name="photos", console=quiet)
    assert report.manifest.records("train") == 1
    assert report.rejected == {("train", "wrong number of columns"): 2}
    assert "b.jpg,Aves, birds" in (tmp_path / "out" / "rejected.csv").read_text()


def test_a_table_of_photos_is_built_into_a_dataset(tmp_path, photos):
    with (photos / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    quiet = Console(file=io.StringIO())
    report = build(open_table(photos / "metadata.csv"), tmp_path / "out", name="photos", console=quiet)
    opened = open_dataset(tmp_path / "out")
    for split, source in opened.items():
        paths = [row["filepath"] for row in rows if row["split"] == split]
        assert [source[i]["key"] for i in range(0, len(source), 29)] == paths[::29]
        assert source[0]["image"] == (photos / paths[0]).read_bytes()
    assert report.rejected == {}
