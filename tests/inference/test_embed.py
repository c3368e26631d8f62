"""`bioclip-jax embed`: features of whatever photos somebody has, complete or resumable, never half a file."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bioclip_jax.cli import main
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.inference import embed as embedding
from bioclip_jax.inference.embed import METADATA, embed, read_features
from bioclip_jax.inference.photos import open_photos

KEYS = ["a.png", "b.JPG", "broken.png", "gone.jpg", "z.png", "trip/c.png", "trip/day 1/=e.png", "trip/day 1/d.png"]
QUIET = Console(file=io.StringIO())


def rows_of(path):
    return {row["key"]: row for row in pq.read_table(path).to_pylist()}


def test_a_folder_becomes_one_row_for_each_photo_with_the_reason_where_it_cannot_be_read(small, album, tmp_path):
    photos = open_photos([str(album)])
    assert photos.keys == KEYS
    assert photos.notes == [f"1 files in {album} are no photos by the ending of their names"]
    done = embed(small, photos, tmp_path / "f.parquet", batch_size=3, console=QUIET)
    assert (done.photos, done.computed, dict(done.unreadable)) == (
        8,
        8,
        {"truncated": 1, "file is missing: gone.jpg": 1},
    )
    rows = rows_of(tmp_path / "f.parquet")
    assert list(rows) == KEYS
    assert rows["broken.png"]["features"] is None
    assert rows["broken.png"]["error"] == "truncated"
    readable = [key for key in KEYS if rows[key]["error"] is None]
    np.testing.assert_allclose(
        [rows[key]["features"] for key in readable],
        small.encode_image([album / key for key in readable]),
        atol=1e-6,
    )
    about = json.loads(pq.read_schema(tmp_path / "f.parquet").metadata[METADATA])
    assert about["weights"] == small.fingerprint
    assert about["preprocessing"]["geometry"] == "center_crop"
    assert not list(tmp_path.glob("*.parts"))
    (batch,) = read_features(tmp_path / "f.parquet", 100, 7)
    assert batch.keys == KEYS[:7]
    np.testing.assert_array_equal(batch.features, [rows[key]["features"] for key in readable if key in KEYS[:7]])


def test_an_interrupted_embedding_continues_with_the_photos_that_are_left(small, album, tmp_path, monkeypatch):
    photos, out, whole = open_photos([str(album)]), tmp_path / "f.parquet", tmp_path / "whole.parquet"
    embed(small, photos, whole, batch_size=2, console=QUIET)
    encode, calls = small.encode_image, []

    def interrupted(images):
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return encode(images)

    monkeypatch.setattr(embedding, "PART_ROWS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(small, "encode_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            embed(small, photos, out, batch_size=2, console=QUIET)
    assert not out.exists()
    parts = sorted((tmp_path / "f.parquet.parts").glob("*.parquet"))
    assert len(parts) == 3  # a, b | broken, gone | z, trip/c
    parts[-1].write_bytes(b"PAR1 cut off")
    done = embed(small, photos, out, batch_size=2, console=QUIET)
    assert done.computed == 4
    assert pq.read_table(out).equals(pq.read_table(whole))
    assert embed(small, photos, out, console=QUIET).computed == 0


def test_photo_that_may_be_read_now_is_another(album, monkeypatch):
    photos = open_photos([str(album)])
    with monkeypatch.context() as context:
        context.setattr(os, "access", lambda path, mode: not str(path).endswith("a.png"))
        before = photos.digest()
    assert photos.digest() != before


def test_features_of_another_model_or_other_photos_are_not_mixed(small, other, album, tmp_path, monkeypatch):
    photos, out = open_photos([str(album)]), tmp_path / "f.parquet"
    embed(small, photos, out, console=QUIET)
    with pytest.raises(UsageError, match=r"another model \(small-0\); --overwrite"):
        embed(other, photos, out, console=QUIET)
    (album / "a.png").write_bytes((album / "z.png").read_bytes())
    with pytest.raises(UsageError, match="photos that have changed since"):
        embed(small, open_photos([str(album)]), out, console=QUIET)

    def stopped(images):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(other, "encode_image", stopped)
        with pytest.raises(KeyboardInterrupt):
            embed(other, photos, tmp_path / "g.parquet", console=QUIET)
    with pytest.raises(UsageError, match="an unfinished file, holds features of another model"):
        embed(small, photos, tmp_path / "g.parquet", console=QUIET)
    assert embed(small, photos, tmp_path / "g.parquet", overwrite=True, console=QUIET).computed == 8
    assert embed(other, photos, out, overwrite=True, console=QUIET).computed == 8
    about = json.loads(pq.read_schema(out).metadata[METADATA])
    assert about["weights"] == other.fingerprint
    (tmp_path / "thesis.parquet").write_bytes(b"precious")
    with pytest.raises(UsageError, match="was not written by"):
        embed(small, photos, tmp_path / "thesis.parquet", overwrite=True, console=QUIET)
    assert (tmp_path / "thesis.parquet").read_bytes() == b"precious"


def test_nothing_is_written_where_no_photo_can_be_read_or_the_model_is_damaged(small, album, tmp_path, monkeypatch):
    out = tmp_path / "f.parquet"
    with pytest.raises(UserError, match="none of the 1 photos can be read: 1 truncated"):
        embed(small, open_photos([str(album / "broken.png")]), out, console=QUIET)
    monkeypatch.setattr(small, "encode_image", lambda images: np.full((len(images), 24), np.nan, np.float32))
    with pytest.raises(UserError, match=r"NaN or infinite features for 6 of 6 inputs \(first: 'a.png'\)"):
        embed(small, open_photos([str(album)]), out, console=QUIET)
    with pytest.raises(UsageError, match=r"end the name in \.parquet"):
        embed(small, open_photos([str(album)]), tmp_path / "f.csv", console=QUIET)
    assert not out.exists()


def test_patterns_files_and_tables_name_photos(album, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_photos(["album/*.png"]).keys == ["album/a.png", "album/broken.png", "album/z.png"]
    assert open_photos(["album/trip/day*/*.png"]).keys == ["album/trip/day 1/=e.png", "album/trip/day 1/d.png"]
    assert open_photos(["album/**/c.png"]).keys == ["album/trip/c.png"]  # not by way of the link to above, too
    twice = open_photos(["album/z.png", "album/*.png"])
    assert twice.keys == ["album/z.png", "album/a.png", "album/broken.png"]
    assert twice.notes == ["1 photos are named more than once and count once"]
    with Path("table.csv").open("w", newline="", encoding="utf-8-sig") as file:
        table = csv.writer(file)
        table.writerows([["number", "Picture"], ["1", "a.png"], ["2", str(album / "trip/c.png")]])
        table.writerows([["3", "../secret.png"], ["4", ""], ["5", "http://x/y.jpg"], ["6", "b.JPG", "too", "many"]])
    with pytest.raises(UsageError, match="name it with --columns filepath=COLUMN"):
        open_photos(["table.csv"])
    photos = open_photos(["table.csv"], images=album, columns=["filepath=Picture", "key=number"])
    assert photos.keys == ["1", "2", "3", "4", "5"]
    assert photos.source(0) == (album / "a.png").read_bytes()
    assert photos.source(1) == (album / "trip/c.png").read_bytes()
    for row, reason in ((2, "outside the image folder"), (3, "no file name"), (4, "web address")):
        with pytest.raises(UserError, match=reason):
            photos.source(row)
    Path("index.csv").write_text(",filepath\n0,album/a.png\n")
    assert open_photos(["index.csv"]).keys == ["album/a.png"]
    assert photos.notes == ["1 lines of table.csv have more or fewer cells than its header"]


def test_photos_that_are_not_there_are_one_line(album, tmp_path):
    for given, message in (
        (tmp_path / "absent", "no such file or folder"),
        ("gs://bucket/photos", "only files on disk"),
    ):
        with pytest.raises(UsageError, match=message):
            open_photos([str(given)])
    (tmp_path / "empty").mkdir()
    for given in (tmp_path / "empty", tmp_path / "empty" / "*.jpg"):
        with pytest.raises(UserError, match="no photos in"):
            open_photos([str(given)])
    with pytest.raises(UsageError, match="are for a table"):
        open_photos([str(album)], images=album)
    os.mkfifo(tmp_path / "empty" / "pipe.jpg")
    with pytest.raises(UserError, match="it is a pipe"):
        open_photos([str(tmp_path / "empty")]).source(0)


def test_the_command_says_what_it_did(small_folder, album, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["embed", str(small_folder), str(album)])
    said = capsys.readouterr()
    assert said.out == "features.parquet: features of 6 photos\n"
    assert "note: 2 of 8 photos could not be read" in said.err
    main(["embed", str(small_folder), str(album)])
    assert "8 photos had been done before" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["embed", str(small_folder), str(album), "--out", "x.parquet", "--batch-size", "0"])
    assert stopped.value.code == 2
