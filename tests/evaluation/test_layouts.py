"""Published files that are missing, damaged, elsewhere or not to be trusted are refused in one line, or counted."""

import contextlib
import json
import os
import pickle
import pickletools

import numpy as np
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.published.annotations import read_annotations
from bioclip_jax.evaluation.published.layouts import Layout, LayoutError, first_of_each, inside, read_pairs, tree
from bioclip_jax.evaluation.published.plain_pickle import read_plain_pickle
from bioclip_jax.text.captions import TEXT_TYPES

pytestmark = pytest.mark.core

LAYOUT = Layout("birds", "https://birds.example", "labels.csv\nimages/<file>")
RANKS = "kingdom,phylum,cls,order,family,genus,species,common_name"
RAVEN = "Animalia,Chordata,Aves,Passeriformes,Corvidae,Corvus,corax,raven"


@pytest.fixture
def table(tmp_path):
    """Writes a table and gives its path."""

    def write(text: str | bytes):
        path = tmp_path / "metadata.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def test_a_wrong_folder_is_shown_beside_what_was_expected(tmp_path):
    (tmp_path / "download" / "inner").mkdir(parents=True)
    (tmp_path / "download" / "birds.zip").write_bytes(b"")
    with pytest.raises(
        LayoutError, match=r"birds: labels.csv is missing in .*download; the data come from https"
    ) as info:
        LAYOUT.need(LAYOUT.open(str(tmp_path / "download")), "labels.csv")
    assert info.value.details == (
        "expected:",
        "  labels.csv",
        "  images/<file>",
        "found:",
        f"  {tmp_path / 'download'}/",
        "    inner/",
        "      (nothing)",
        "    birds.zip",
    )
    assert "\n" not in str(info.value)
    again = pickle.loads(pickle.dumps(info.value))  # noqa: S301 our own
    assert (str(again), again.details) == (str(info.value), info.value.details)


def test_a_root_that_is_missing_or_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="--root"):
        LAYOUT.open(None)
    with pytest.raises(UsageError, match="is not there"):
        LAYOUT.open(str(tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="is a file"):
        LAYOUT.open(str(tmp_path / "file"))


def test_a_tree_shows_a_few_names_and_none_that_moves_the_cursor(tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}.jpg").write_bytes(b"")
    (tmp_path / "a\nb\x1b[2J").mkdir()
    lines = tree(tmp_path, entries=3)
    assert lines[1:] == ["  a\\nb\\x1b[2J/", "    (nothing)", "  00.jpg", "  01.jpg", "  ... and 10 more"]


def test_photos_are_found_in_whichever_folder_holds_them_and_missing_ones_are_counted(tmp_path):
    (tmp_path / "images").mkdir()
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / "images" / name).write_bytes(b"")
    assert LAYOUT.images_below(tmp_path, ["a.jpg", "c.jpg"], ("", "images")) == ("images", ())
    below, notes = LAYOUT.images_below(tmp_path, ["a.jpg", "b.jpg", "c.jpg"], ("", "images"))
    assert below == "images"
    assert notes == ("1 of 3 photos are missing below images: the download is not complete",)
    many = [f"{number}.jpg" for number in range(1000)] + ["c.jpg"]
    (tmp_path / "images" / "1.jpg").write_bytes(b"")  # none of the few that are looked for first
    assert LAYOUT.images_below(tmp_path, many[:-1], ("", "images"))[0] == "images"
    with pytest.raises(LayoutError, match=r"none of the 1 photos, such as z\.jpg"):
        LAYOUT.images_below(tmp_path, ["z.jpg"], ("", "images"))


def test_class_folders_are_read_in_the_order_of_torchvision(tmp_path):
    for file in ("b/2.jpg", "b/10.JPG", "b/sub/1.png", "B/1.jpg", "a/x.webp", "b/notes.txt", "10/1.jpg", "9/1.jpg"):
        (tmp_path / "train" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / file).write_bytes(b"")
    found = LAYOUT.image_folder(tmp_path, "train")
    assert [file.removeprefix("train/") for file in found.files] == [
        *("10/1.jpg", "9/1.jpg", "B/1.jpg", "a/x.webp"),
        *("b/10.JPG", "b/2.jpg", "b/sub/1.png"),
    ]
    assert found.labels == ("10", "9", "B", "a", "b", "b", "b")
    (tmp_path / "train" / "c").mkdir()
    assert LAYOUT.image_folder(tmp_path, "train").notes == ("1 class folders of train hold no photo (first: c)",)
    (tmp_path / "test").mkdir()
    with pytest.raises(LayoutError, match="holds no photos in folders of classes"):
        LAYOUT.image_folder(tmp_path, "test")


def test_linked_folders_are_read_once_and_a_link_that_leads_back_ends(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.jpg").write_bytes(b"")
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "1.jpg").write_bytes(b"")
    (tmp_path / "train" / "a" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "train" / "a")
    found = LAYOUT.image_folder(tmp_path, "train")
    assert found.files == ("train/a/1.jpg", "train/a/link/2.jpg")
    assert found.notes == ("1 links in train lead to folders that were read already and were left out (first: back)",)


def test_folders_that_cannot_be_read_are_counted_or_refused(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "1.jpg").write_bytes(b"")
    scandir = os.scandir

    def closed(path):
        if str(path).endswith(name):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = LAYOUT.image_folder(tmp_path, "train")
    assert found.files == ("train/a/1.jpg",)
    assert any(note.startswith("1 folders in train cannot be read") for note in found.notes)
    name = "train"
    with pytest.raises(LayoutError, match="cannot be read as a folder"):
        LAYOUT.image_folder(tmp_path, "train")


def test_names_that_the_file_system_refuses_are_missing_photos(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    long = "x" * 300 + ".jpg"
    assert LAYOUT.images_below(tmp_path, ["a.jpg", long], ("", "images"))[1] == (
        "1 of 2 photos are missing below .: the download is not complete",
    )
    for look in (lambda: LAYOUT.need(tmp_path, long), lambda: LAYOUT.open(str(tmp_path / long))):
        with pytest.raises(LayoutError):
            look()


def test_a_file_with_another_checksum_is_refused(tmp_path):
    (tmp_path / "labels.csv").write_bytes(b"abc")
    sum_of_abc = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"
    right, wrong = (Layout("b", "s", "labels.csv", {"labels.csv": known}) for known in (sum_of_abc, "0" * 64))
    assert right.need(tmp_path, "labels.csv") == tmp_path / "labels.csv"
    with pytest.raises(LayoutError, match=r"labels\.csv is not the published file: SHA-256 ba7816.*published 0000"):
        wrong.need(tmp_path, "labels.csv")


@pytest.mark.parametrize("name", ["../b.jpg", "/etc/passwd", "C:\\b.jpg", "a/../../b.jpg", "..\\b.jpg", "a\0b"])
def test_a_file_outside_the_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="row 2 names a file outside its folder") as info:
        inside(["a.jpg", name], tmp_path)
    assert str(info.value).isprintable()


def test_a_row_without_a_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="row 1 names no photo"):
        inside([" "], tmp_path)
    assert inside(["a\\b.jpg"], tmp_path) == ["a/b.jpg"]


def test_each_file_counts_once():
    rows, notes = first_of_each(["a", "b", "a", "b", "c"], ["x", "y", "x", "z", "x"])
    assert rows.tolist() == [0, 1, 4]
    assert notes == (
        "1 rows name a photo a second time and were left out",
        "1 rows name a photo a second time with another label; the first counts",
    )


def test_pairs_are_split_at_the_first_space(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("\ufeff 1\tgrizzly+bear\r\n2 Oak Titmouse\n\nalone\n".encode())
    assert read_pairs(path) == [("1", "grizzly+bear"), ("2", "Oak Titmouse"), ("alone", "alone")]
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="cannot be read as text"):
        read_pairs(path)


def test_classes_stand_as_they_are_written(table):
    found = read_annotations(
        table(",filepath,class\n0,a.jpg,Tomato___Late_blight\n1,b.jpg,Piper (Betel) \n2,c.jpg,NA\n")
    )
    assert found.columns["class"].tolist() == ["Tomato___Late_blight", "Piper (Betel) ", ""]
    assert found.files == ("a.jpg", "b.jpg", "c.jpg")
    assert found.notes == ("1 photos have no class",)
    assert found.taxa == ()


def test_ranks_become_the_class_texts_of_the_reference(table):
    chick = "Animalia,,Aves,NA,None,,,petrel chick"
    rows = f"filepath,{RANKS},scientific_name\na.jpg,{RAVEN},Corvus corax L.\nb.jpg,{chick},\n"
    found = read_annotations(table(rows))
    raven, chick = found.columns["class"].tolist()
    assert raven == "Animalia Chordata Aves Passeriformes Corvidae Corvus corax with common name raven"
    assert chick == "Animalia  Aves     with common name petrel chick"
    assert set(TEXT_TYPES) < set(found.columns)
    assert found.columns["com"].tolist() == ["raven", "petrel chick"]
    assert found.taxa[0].class_ == "Aves"
    assert found.taxa[0].scientific_name == "Corvus corax L."
    assert "stops with an error" in found.notes[0]
    assert read_annotations(table(rows), "sci").columns["class"][0] == "Corvus corax"


def test_a_photo_of_which_no_name_is_known_has_no_class(table):
    found = read_annotations(table(f"filepath,{RANKS}\na.jpg,{RAVEN}\nb.jpg,,,,,,,,\n"))
    assert all(found.columns[kind][1] == "" for kind in TEXT_TYPES)
    assert found.notes == ("1 photos have no class",)


def test_a_column_class_beside_ranks_is_a_rank_unless_there_is_cls(table):
    path = table(f"filepath,{RANKS},class\na.jpg,{RAVEN},black bird\n")
    assert read_annotations(path, "asis").columns["class"].tolist() == ["black bird"]
    assert read_annotations(path).taxa[0].class_ == "Aves"
    found = read_annotations(table(f"file,{RANKS.replace('cls', 'class')}\na.jpg,{RAVEN}\n"))
    assert found.taxa[0].class_ == "Aves"
    assert "asis" not in found.columns


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,class\na,b\n", "no column holds the photos"),
        ("filepath,size\na.jpg,3\n", "no column class; it has filepath, size"),
        ("filepath,class\na.jpg,\nb.jpg,NA\n", "no photo has a class"),
        ("filepath,class\n", "no rows"),
        ("filepath,class\n../a.jpg,b\n", "outside its folder"),
        (b"filepath,class\na.jpg,Pil\xe1t\n", "neither a CSV file in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(table, text, message):
    with pytest.raises(UserError, match=message) as info:
        read_annotations(table(text), "asis")
    assert "\n" not in str(info.value)


def test_odd_tables_are_read(table):
    expected = ["Agaricus Pilát", "b"]
    for text in (
        "\ufefffilepath;class\r\na.jpg;Agaricus Pilát\r\nb.jpg;b\r\n".encode(),
        "filepath\tclass\na.jpg\tAgaricus Pilát\nb.jpg\tb\n".encode("utf-16"),
        "filepath,class\na.jpg,Agaricus Pilát\nragged\nb.jpg,b\nb.jpg,b\n".encode(),
    ):
        found = read_annotations(table(text))
        assert found.columns["class"].tolist() == expected
    assert found.notes == (
        "1 lines of metadata.csv have another number of cells than its header",
        "metadata.csv: 1 rows name a photo a second time and were left out",
    )


def test_an_unknown_text_type_is_refused(table):
    with pytest.raises(UsageError, match="text type 'latin'"):
        read_annotations(table("filepath,class\na.jpg,b\n"), "latin")
    with pytest.raises(UsageError, match=r"kingdom \.\.\. species"):
        read_annotations(table("filepath,class\na.jpg,b\n"), "taxon_com")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_are_read_from_any_protocol(tmp_path, protocol):
    shared = [1, 2, 3]
    value = {"Old": shared, "New": list(range(700)), "more": [(), (1,), (1, 2), (1, 2, 3), (4, 5, 6, 7), {}, []]}
    value |= {"again": shared, "text": "ü" * 300, "big": [2**40, -(2**80), -1, 255, 65535, 70_000]}
    (tmp_path / "file").write_bytes(pickle.dumps(value, protocol))
    assert read_plain_pickle(tmp_path / "file") == value


class Dangerous:
    def __reduce__(self):
        return os.mkdir, ("made",)


@pytest.mark.parametrize("value", [Dangerous(), np.arange(3), [1, Dangerous()], {1, 2}, 1.5, Exception("x")])
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_of_anything_else_is_refused_and_never_executed(tmp_path, monkeypatch, value, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_bytes(pickle.dumps(value, protocol))
    with pytest.raises(UserError, match="holds more than lists and numbers"):
        read_plain_pickle(tmp_path / "file")
    assert not (tmp_path / "made").exists()


def test_a_damaged_pickle_is_refused_wherever_it_ends_or_changes(tmp_path):
    data = pickle.dumps({"Old": [1, 2, 300], "New": ["a", (1, 2)]}, 4)
    path = tmp_path / "file"
    changed = [data[:end] for end in range(len(data))]
    changed += [data[:at] + bytes([byte]) + data[at + 1 :] for at in range(len(data)) for byte in (0, 46, 81, 255)]
    refused = 0
    for content in changed:
        path.write_bytes(content)
        try:
            read_plain_pickle(path)
        except UserError:
            refused += 1
    assert refused >= len(data)
    for opcode in pickletools.opcodes:  # each alone, on an empty stack
        path.write_bytes(opcode.code.encode("latin-1") + b"\x01\0\0\0\0\0\0\0\n.")
        with contextlib.suppress(UserError):
            assert isinstance(read_plain_pickle(path), int | str | dict | list | tuple)


def test_a_file_that_is_no_pickle_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(json.dumps({"Old": []}).encode())
    with pytest.raises(UserError):
        read_plain_pickle(tmp_path / "file")
    with pytest.raises(UserError, match="cannot be read"):
        read_plain_pickle(tmp_path / "nowhere")
