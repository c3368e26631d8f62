import io
import os
import random
import shutil
import struct
import tarfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import tar_headers, tar_index
from bioclip_jax.pipeline.tar_headers import BLOCK, reader_of, walk
from bioclip_jax.pipeline.tar_index import ensure_index, index_tar, index_tars
from bioclip_jax.pipeline.tar_index_file import index_path, map_samples, read_summary
from bioclip_jax.pipeline.tar_samples import PROBLEMS, key_and_suffix, key_hash
from bioclip_jax.pipeline.tars import open_tars

pytestmark = pytest.mark.core

FORMATS = {"pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT, "ustar": tarfile.USTAR_FORMAT}
SUFFIXES = ("com.txt", "common_name.txt", "jpg", "sci.txt", "taxonTag.txt")


def member(name, data=b"", kind=tarfile.REGTYPE, **fields):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = len(data), kind, 1700000000.25
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def write(path, members, file_format=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=file_format) as tar:
        for info, data in members:
            info.mtime = info.mtime if file_format == tarfile.PAX_FORMAT else int(info.mtime)
            tar.addfile(info, io.BytesIO(data))
    return path


def samples_of(count, image_bytes=700):
    return [
        member(f"{index:05}.{suffix}", bytes([index % 256]) * (image_bytes if suffix == "jpg" else 30))
        for index in range(count)
        for suffix in SUFFIXES
    ]


def plain_files(path, skipped=lambda kind, name: None):
    with path.open("rb") as file:
        for plain in walk(reader_of(file.fileno()), path.stat().st_size, skipped):
            yield from zip(plain.names, plain.data, plain.sizes, strict=True)


def quiet():
    return Console(file=io.StringIO())


def kinds(summary):
    return {kind: note.count for kind, note in summary.notes.items()}


def index_with(path, members, **options):
    return index_tar(write(path, members), **options)


@pytest.mark.parametrize("chunk", [16 * BLOCK, 64 * BLOCK, 1 << 21])
@pytest.mark.parametrize("file_format", FORMATS)
def test_the_walk_finds_what_the_standard_library_finds(tmp_path, monkeypatch, file_format, chunk):
    monkeypatch.setattr(tar_headers, "_CHUNK", chunk)
    monkeypatch.setattr(tar_headers, "_SMALL_CHUNK", 8 * BLOCK)
    draw = random.Random(1)
    members = []
    for index in range(120):
        folder = draw.choice(["", "./", "deep/" * 12, "a" * 60 + "/" + "b" * 60 + "/"])
        stem = draw.choice(["plain", "é", "x" * 80]) if file_format != "ustar" else "plain"
        members.append(member(f"{folder}{stem}{index}.jpg", draw.randbytes(draw.choice([0, 1, 511, 512, 513, 9000]))))
        if index % 20 == 0:
            members.append(member(f"{folder}folder{index}", kind=tarfile.DIRTYPE))
    path = write(tmp_path / "a.tar", members, FORMATS[file_format])
    with tarfile.open(path) as tar:
        expected = [(info.name.encode(), info.offset_data // BLOCK, info.size) for info in tar if info.isreg()]
    assert list(plain_files(path)) == expected


def test_headers_of_other_writers_are_followed(tmp_path):
    extended = {"atime": "1700000000.5", "ctime": "1", "comment": "two\nlines", "SCHILY.dev": "7"}
    members = [
        member("a.jpg", b"1" * 600, pax_headers=extended),
        member("ignored.jpg", b"2" * 600, pax_headers={"path": "b.jpg"}),
        member("c.jpg", b"3" * 600, pax_headers={"size": "600"}),
        member("d.jpg", b"4" * 600),
    ]
    path = write(tmp_path / "a.tar", members)
    data = bytearray(path.read_bytes())
    with tarfile.open(path) as tar:
        where = tar.getmembers()[-1].offset_data - BLOCK
    data[where + 124 : where + 136] = b"\x80" + (600).to_bytes(11, "big")  # base 256, as for files of 8 GB
    data[where + 257 : where + 265] = bytes(8)  # no magic, as before POSIX
    fix_checksum(data, where)
    path.write_bytes(data)
    assert [(name, size) for name, _, size in plain_files(path)] == [
        (b + b".jpg", 600) for b in (b"a", b"b", b"c", b"d")
    ]
    with_global = tmp_path / "global.tar"
    with tarfile.open(with_global, "w", pax_headers={"comment": "made by git"}) as tar:
        tar.addfile(*((info, io.BytesIO(data)) for info, data in [member("a.jpg", b"1")]).__next__())
    assert [name for name, _, _ in plain_files(with_global)] == [b"a.jpg"]


def test_payloads_are_jumped_over_only_where_they_are_large(tmp_path):
    reads = []

    def amount_read(members):
        path = write(tmp_path / "a.tar", members)
        size = path.stat().st_size
        with path.open("rb") as file:
            read_into = reader_of(file.fileno())
            reads.clear()
            list(walk(lambda view, offset: reads.append(len(view)) or read_into(view, offset), size, print))
        return sum(reads) / size

    large = [member(f"{index}.jpg", bytes(3 << 20)) for index in range(8)]
    assert amount_read(large) < 0.2
    assert amount_read(large[:1] + samples_of(2000, 4000)) < 1.5
    assert len(reads) < 60


def fix_checksum(data, where):
    data[where + 148 : where + 156] = b" " * 8
    data[where + 148 : where + 156] = b"%06o\0 " % sum(data[where : where + BLOCK])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("a.jpg", ("a", "jpg")),
        ("a.taxonTag.txt", ("a", "taxontag.txt")),
        ("./b.c/a.JPG", ("b.c/a", "jpg")),
        ("x/a.seg.png", ("x/a", "seg.png")),
        (".hidden", None),
        ("x/._a.jpg", None),
        ("README", None),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_name_and_keeps_its_folder(name, split):
    expected = split and tuple(part.encode() for part in split)
    assert key_and_suffix(name.encode()) == expected


def test_an_index_says_where_each_photo_lies(tmp_path):
    path = write(tmp_path / "a.tar", samples_of(50))
    summary = ensure_index(path)
    mapped = map_samples(index_path(path), summary.samples)
    data = path.read_bytes()
    assert mapped.dtype.itemsize == 24
    for index, sample in enumerate(mapped):
        place = (int(sample["start"]) + int(sample["image"])) * BLOCK
        assert data[place : place + int(sample["image_bytes"])] == bytes([index]) * 700
        assert int(sample["key_hash"]) == key_hash(b"%05d" % index)
    ends = mapped["start"] + mapped["blocks"]
    assert (ends[:-1] == mapped["start"][1:]).all()


def test_samples_that_are_of_no_use_are_counted_and_named(tmp_path):
    members = [
        member("bad.txt", b"text"),
        member("empty.jpg"),
        member("../up.jpg", b"1"),
        member("/root.jpg", b"1"),
        member("x/../../y.jpg", b"1"),
        member("README", b"1"),
        member("folder", kind=tarfile.DIRTYPE),
        member("soft.jpg", kind=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("soft.txt", b"1"),
        member("hard.jpg", kind=tarfile.LNKTYPE, linkname="good.jpg"),
        member("null.jpg", kind=tarfile.CHRTYPE),
        member("pipe.jpg", kind=tarfile.FIFOTYPE),
        member("packed.jpg.gz", b"1"),
        member("twice.jpg", b"1"),
        member("good.txt", b"1"),
        member("good.jpg", b"1"),
        member("twice.jpg", b"2"),
        member("twice.jpg", b"3"),
    ]
    summary, samples = index_with(tmp_path / "a.tar", members)
    assert kinds(summary) == {
        "no image": 3,
        "image is empty": 1,
        "unsafe path": 3,
        "name without a dot": 1,
        "symbolic link": 1,
        "hard link": 1,
        "device": 1,
        "pipe": 1,
        "compressed member": 1,
        "key seen before": 2,
    }
    assert summary.notes["key seen before"].examples == ["'twice'", "'twice'"]
    assert summary.notes["symbolic link"].examples == ["'soft.jpg'"]
    problems = [PROBLEMS[sample["image_bytes"]] for sample in samples if not sample["image"]]
    assert problems == ["no image", "image is empty", "no image", "no image"]


def test_members_of_two_gigabytes_do_not_stop_an_index(tmp_path):
    path, size = tmp_path / "a.tar", 5 << 30
    with tarfile.open(path, "w") as tar:
        for name, length in (("a.jpg", 1), ("b.jpg", size), ("c.json", size), ("c.jpg", 1)):
            info, _ = member(name)
            info.size = length
            tar.fileobj.write(info.tobuf())
            tar.offset = tar.fileobj.tell() + -(-length // BLOCK) * BLOCK
            tar.fileobj.seek(tar.offset)  # a hole in the file
    summary, samples = index_tar(path)
    assert kinds(summary) == {"image of 2 GB or more": 1}
    assert samples["image"].tolist() == [3, 0, int(samples["image"][2])]
    source = open_tars(path, taxonomy={key: {"genus": "Motacilla"} for key in "abc"}, console=quiet())
    assert source[2]["image"] == b"\0"
    path.unlink()


def test_a_truncated_tar_is_refused_where_it_breaks_or_used_up_to_there(tmp_path):
    whole = write(tmp_path / "a.tar", samples_of(20)).read_bytes()
    _, samples = index_tar(tmp_path / "a.tar")
    end = int(samples["start"][-1] + samples["blocks"][-1]) * BLOCK
    for cut in (*range(end // 2, end // 2 + 12 * BLOCK, 500), end, end - 1):
        (tmp_path / "a.tar").write_bytes(whole[:cut])
        with pytest.raises(UserError, match=r"a.tar is damaged at byte [\d,]+: the file ends .*the \d+ samples before"):
            index_tar(tmp_path / "a.tar")
        summary, found = index_tar(tmp_path / "a.tar", allow_damaged=True)
        assert summary.damage
        assert found.tolist() == samples[: len(found)].tolist()
        lies_before = (samples["start"] + samples["blocks"]) * BLOCK <= cut
        assert lies_before.sum() - 1 <= len(found) <= lies_before.sum()


def test_holes_and_data_behind_the_end_are_damage(tmp_path):
    path = write(tmp_path / "a.tar", samples_of(20))
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        header = tar.getmembers()[50].offset
    for data, message in [
        (whole[:header] + bytes(2 << 20), "the archive ends here, and 2,"),  # a download that was not finished
        (whole + whole, "the archive ends here, but other data follow"),
        (whole[:header] + b"?" + whole[header + 1 :], "no header is there"),
    ]:
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            index_tar(path)
        assert 9 <= len(index_tar(path, allow_damaged=True)[1]) <= 20


def test_what_is_no_tar_is_one_line_that_says_so(tmp_path):
    contents = {
        "compressed .gzip.": b"\x1f\x8b" + bytes(600),
        "compressed .zstd.": b"\x28\xb5\x2f\xfd" + bytes(600),
        "compressed .xz.": b"\xfd7zXZ\x00" + bytes(600),
        "is empty": b"",
        "is not a tar file": b"<html>not found</html>" * 100,
        "is not a tar file, or damaged at byte 0: the file ends within a header": b"version https://git-lfs",
    }
    path = tmp_path / "a.tar"
    for message, data in contents.items():
        path.write_bytes(data)
        for allow_damaged in (False, True):
            with pytest.raises(UserError, match=message) as caught:
                index_tar(path, allow_damaged=allow_damaged)
            assert "a.tar" in str(caught.value)
    with pytest.raises(UserError, match="no such file"):
        index_tar(tmp_path / "nowhere.tar")
    with pytest.raises(UsageError, match="not a file"):
        index_tar(tmp_path)
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(UsageError, match="not a file"):
        index_tar(tmp_path / "pipe.tar")


def test_an_index_is_made_once_and_again_when_its_tar_changes(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tar", samples_of(5))
    made = []
    monkeypatch.setattr(tar_index, "index_tar", lambda tar, **options: made.append(tar) or index_tar(tar, **options))
    for _ in range(2):
        assert ensure_index(path).samples == 5
    assert len(made) == 1
    copied = tmp_path / "copy"
    shutil.copytree(tmp_path, copied, copy_function=shutil.copy)  # not the times
    os.utime(copied / "a.tar", ns=(0, 1))
    assert ensure_index(copied / "a.tar").samples == 5
    assert len(made) == 1
    changed = bytearray(path.read_bytes())
    changed[3 * BLOCK + 7] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(0, 2))
    ensure_index(path)
    write(path, samples_of(6))
    assert ensure_index(path).samples == 6
    assert len(made) == 3


def test_a_damaged_index_is_made_again(tmp_path):
    path = write(tmp_path / "a.tar", samples_of(5))
    index = index_path(path)
    whole = ensure_index(path) and index.read_bytes()
    for data in (b"", whole[:40], whole[:-3], whole + b"x", b"x" + whole[1:], whole[:8] + b"\xff" * 8 + whole[16:]):
        index.write_bytes(data)
        assert read_summary(path, index) is None
        ensure_index(path)
        assert index.read_bytes() == whole
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.tar", "a.tar.index"]


def test_indexes_of_a_read_only_place_go_to_a_folder(tmp_path):
    for folder in ("train", "val"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.tar", samples_of(2 if folder == "val" else 3))
    tars = [tmp_path / "train" / "a.tar", tmp_path / "val" / "a.tar"]
    assert [s.samples for s in index_tars(tars, tmp_path / "indexes", processes=1, console=quiet())] == [3, 2]
    assert sorted(p.name for p in (tmp_path / "train").iterdir()) == ["a.tar"]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"index .*file/train/a.tar.index cannot be written"):
        index_tars(tars, tmp_path / "file", processes=1, console=quiet())
    (tmp_path / "other").mkdir()
    shutil.copytree(tmp_path / "train", tmp_path / "other" / "train")
    with pytest.raises(UsageError, match="would have the same index"):
        index_tars([tars[0], tmp_path / "other" / "train" / "a.tar"], tmp_path / "indexes")
    with pytest.raises(UsageError, match="given twice"):
        index_tars([tars[0], str(tars[0])])


def test_indexing_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    tars = [write(tmp_path / f"{i}.tar", samples_of(2 + i)) for i in range(6)]
    made = []

    def stopped_at_the_fourth(tar, **options):
        made.append(tar)
        if len(made) == 4:
            raise KeyboardInterrupt
        return index_tar(tar, **options)

    monkeypatch.setattr(tar_index, "index_tar", stopped_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        index_tars(tars, processes=1, console=quiet())
    assert [s.samples for s in index_tars(tars, processes=1, console=quiet())] == [2, 3, 4, 5, 6, 7]
    assert made == [*tars[:4], *tars[3:]]


def test_several_processes_index_what_can_be_and_name_the_rest(tmp_path):
    tars = [write(tmp_path / f"{i}.tar", samples_of(3)) for i in range(4)]
    tars[1].write_bytes(tars[1].read_bytes()[:20000])
    with pytest.raises(UserError, match=r"1 of 4 tars cannot be used: tar .*1.tar is damaged at byte"):
        index_tars(tars, processes=2, console=quiet())
    assert [index_path(tar).exists() for tar in tars] == [True, False, True, True]
    summaries = index_tars(tars, processes=1, allow_damaged=True, console=quiet())
    assert [summary.path for summary in summaries] == [str(tar) for tar in tars]
    with pytest.raises(UserError, match=r"1 of 4 tars .*1.tar is damaged"):  # what its index knows
        index_tars(tars, processes=1, console=quiet())
    tars[0].unlink()
    with pytest.raises(UserError, match=r"1 of 4 tars .*0.tar: no such file"):
        index_tars(tars, processes=1, allow_damaged=True, console=quiet())


def mutated(draw, whole):
    """A tar with a few faults of the kinds that happen, or that someone made on purpose."""
    data = bytearray(whole)
    for _ in range(draw.randrange(1, 4)):
        block = draw.randrange(len(data) // BLOCK) * BLOCK
        match draw.randrange(6):
            case 0:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            case 1:
                data = data[: draw.randrange(1, len(data))] + bytes(BLOCK)
            case 2:
                data[block : block + BLOCK] = draw.choice([bytes(BLOCK), draw.randbytes(BLOCK), b"9" * BLOCK])
            case 3:  # another size, with the right checksum
                data[block + 124 : block + 136] = draw.choice(
                    [
                        b"%011o\0" % draw.getrandbits(draw.choice([8, 20, 33])),
                        b"\x80" + b"\xff" * 11,
                        b"\xff" * 12,
                        b" " * 12,
                    ]
                )
                fix_checksum(data, block)
            case 4:  # another type
                data[block + 156] = draw.choice(b"\x0001234567xgLKSDVX?")
                fix_checksum(data, block)
            case 5:
                data[block : block + 100] = draw.choice([b"../" * 33 + b"x", b"/" * 100, b"a.jpg".ljust(100, b"\0")])
                fix_checksum(data, block)
    return bytes(data)


def test_no_tar_however_mutated_does_more_than_refuse_itself(tmp_path):
    draw = random.Random(7)
    seeds = [write(tmp_path / f"{name}.tar", samples_of(4), kind).read_bytes() for name, kind in FORMATS.items()]
    long_names = [member("n" * 150 + f"{i}.jpg", b"1" * 900) for i in range(6)]
    seeds += [write(tmp_path / "long.tar", long_names, kind).read_bytes() for kind in (FORMATS["pax"], FORMATS["gnu"])]
    taxa = {f"{index:05}": {"genus": "Motacilla"} for index in range(4)}
    path, refused, read = tmp_path / "fuzz.tar", 0, 0
    tracemalloc.start()
    for _ in range(400):
        path.write_bytes(mutated(draw, draw.choice(seeds)) if draw.random() < 0.9 else draw.randbytes(4000))
        index_path(path).unlink(missing_ok=True)
        try:
            source = open_tars(path, taxonomy=taxa, allow_damaged=draw.random() < 0.7, console=quiet())
        except UserError:
            refused += 1
            continue
        if draw.random() < 0.3:  # the tar changes behind the index, in place
            data = path.read_bytes()
            path.write_bytes(mutated(draw, data).ljust(len(data), b"\0")[: len(data)])
        for index in range(len(source)):
            try:
                assert source[index]["image"]
                read += 1
            except UserError:
                pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 20 < refused < 380
    assert read > 100
    assert peak < 64 << 20


def test_no_index_however_mutated_gives_a_wrong_photo(tmp_path):
    path = write(tmp_path / "a.tar", samples_of(8))
    taxa = {f"{index:05}": {"genus": "Motacilla"} for index in range(8)}
    open_tars(path, taxonomy=taxa, console=quiet())
    index, draw = index_path(path), random.Random(3)
    whole, wrong = index.read_bytes(), 0
    for _ in range(300):
        data = bytearray(whole)
        place = draw.randrange(64, 64 + 8 * 24, 4)
        data[place : place + 4] = struct.pack("<I", draw.choice([0, 1, draw.getrandbits(8), draw.getrandbits(32)]))
        index.write_bytes(data)
        source = open_tars(path, taxonomy=taxa, console=quiet())
        for number in range(8):
            try:
                record = source[number]
            except UserError:
                wrong += 1
            else:
                assert record["image"] == bytes([int(record["key"])]) * 700
    assert wrong > 200


def test_an_array_of_samples_of_an_empty_tar_is_empty(tmp_path):
    summary, samples = index_with(tmp_path / "a.tar", [])
    assert (summary.samples, samples.tolist()) == (0, np.zeros(0).tolist())
    with pytest.raises(UserError, match="holds no samples"):
        open_tars(Path(summary.path), console=quiet())
