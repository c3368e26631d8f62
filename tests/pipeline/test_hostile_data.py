"""Data that are damaged, or made to do harm, through the whole chain: the command line, builds, batches and checks."""

import contextlib
import copy
import gzip
import io
import json
import os
import shutil
import tarfile
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from bioclip_jax import cli
from bioclip_jax.config import DataConfig
from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.build import Selection, build
from bioclip_jax.pipeline.build_images import ImageOptions
from bioclip_jax.pipeline.catalog_source import open_crawl
from bioclip_jax.pipeline.loader import make_loader
from bioclip_jax.pipeline.manifest import MANIFEST, Manifest, ShardFile
from bioclip_jax.pipeline.readers import open_directory
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.tars import open_tars
from bioclip_jax.pipeline.verify import FILES, KEYS, verify

QUIET = Console(file=io.StringIO())
BLOCK = 512
NAME, TAGS = b"a photo of Motacilla alba.", b"a photo of kingdom Animalia genus Motacilla species alba."


def sample(key, image):
    return [(f"{key}.jpg", image), (f"{key}.sci.txt", NAME), (f"{key}.taxonTag.txt", TAGS)]


def link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, str(target)
    return info


def write_tar(path, members):
    """Members are (name, bytes), or `TarInfo` of what has no bytes."""
    with tarfile.open(path, "w") as tar:
        for member in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member[0])
            data = b"" if isinstance(member, tarfile.TarInfo) else member[1]
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def command(capsys, *arguments):
    """Exit code, standard output and standard error of the command line; what it refuses takes one line."""
    try:
        cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        code = end.code
    else:
        code = 0
    said = capsys.readouterr()
    if code:
        errors = said.err.splitlines()
        assert [line for line in errors if line.startswith("error: ")] == errors[-1:]
        assert "Traceback" not in said.err
    return code, said.out, said.err


def big_tar(path, photo, size):
    """Three samples, of which the second has a photo of `size` bytes: a hole in the file, which takes no disk."""
    members = [*sample("a", photo(1)), ("big.jpg", b""), ("big.sci.txt", NAME), *sample("c", photo(2))]
    small, big = write_tar(path, members).read_bytes(), tarfile.TarInfo("big.jpg")
    header, big.size = small.index(b"big.jpg\0"), size
    with path.open("wb") as file:
        file.write(small[:header] + big.tobuf())
        file.seek(size + -size % BLOCK, io.SEEK_CUR)
        file.write(small[header + BLOCK :])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: len(data) // 2], "is damaged at byte 3,584: the file ends within 'b.jpg'; copy it again"),
        (gzip.compress, "is compressed (gzip), so no sample can be read by itself; decompress it"),
        (lambda data: b"", "is empty"),
        (lambda data: b"<html>404</html>" * 99, "is not a tar file, or damaged at byte 0"),
    ],
)
def test_a_tar_that_cannot_be_used_is_refused_by_every_command_in_one_line(tmp_path, photo, capsys, damage, message):
    path = write_tar(tmp_path / "a.tar", sample("a", photo(0)) + sample("b", photo(1, (240, 200), quality=95)))
    path.write_bytes(damage(path.read_bytes()))
    out = tmp_path / "out"
    for arguments in (("show", "tars", "--out", out), ("build", "tars", out)):
        code, said, error = command(capsys, "data", *arguments, "--tars", path)
        assert (code, said) == (1, "")
        assert f"error: tar {path} {message}" in error
    assert not out.exists()


def test_samples_of_no_use_are_named_and_left_out_and_a_run_replaces_them(tmp_path, photo, capsys):
    bad = {
        "image is empty": sample("empty", b""),
        "no image": [("packed.jpg.gz", gzip.compress(photo(1))), ("packed.sci.txt", NAME)],
        "image truncated": sample("cut", photo(1)[:300]),
        "image not an image": sample("page", b"<html>404</html>"),
        "image too large": sample("giant", giant(photo(1), 40_000, 40_000)),
        "no name at any rank": [("unnamed.jpg", photo(2))],
    }
    good = [member for number in range(40) for member in sample(f"good{number}", photo(number % 5))]
    path = write_tar(tmp_path / "a.tar", [*good[:30], *(m for members in bad.values() for m in members), *good[30:]])
    code, said, error = command(capsys, "data", "build", "tars", tmp_path / "out", "--tars", path, "--workers", 1)
    assert code == 0
    assert "train 40 records" in said
    assert f"{len(bad)} records were left out" in said
    assert "compressed member: 1 ('packed')" in " ".join(error.split())
    rejected = (tmp_path / "out" / "rejected.csv").read_text().splitlines()[1:]
    assert [line.split(",")[:3] for line in rejected] == [
        ["train", members[0][0].partition(".")[0], reason] for reason, members in bad.items()
    ]
    assert command(capsys, "data", "verify", tmp_path / "out")[0] == 0
    source = open_tars(path, console=QUIET)
    replaced = [one for step in range(2) for one in loader(source, 23).batch(step).replaced]
    assert sorted(one.reason.partition(":")[0] for one in replaced) == sorted(bad)


def test_members_of_gigabytes_are_left_out_and_their_neighbours_are_used(tmp_path, photo, capsys):
    big_tar(tmp_path / "a.tar", photo, (1 << 31) + 5)
    code, said, _ = command(capsys, "data", "build", "tars", tmp_path / "out", "--tars", tmp_path / "a.tar")
    assert code == 0
    assert "train 2 records" in said
    assert "1 of train: image of 2 GB or more" in said


def test_nothing_outside_of_a_tar_is_read_or_written(tmp_path, photo, capsys):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(photo(9))
    inside = tmp_path / "inside"
    inside.mkdir()
    evil = [member for key in ("../x", "/abs/x", "a/../../x") for member in sample(key, photo(1))]
    links = [link("soft.jpg", secret), ("soft.sci.txt", NAME), link("hard.jpg", secret, tarfile.LNKTYPE)]
    odd = [link("pipe.jpg", "", tarfile.FIFOTYPE), link("disk.jpg", "", tarfile.BLKTYPE)]
    path = write_tar(inside / "a.tar", [*sample("good", photo(0)), *evil, *links, *odd])
    code, said, error = command(capsys, "data", "build", "tars", inside / "out", "--tars", path)
    assert code == 0
    assert "train 1 records" in said
    error = " ".join(error.split())
    for note in ("unsafe path: 9", "symbolic link: 1", "hard link: 1", "pipe: 1", "device: 1"):
        assert note in error
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["inside", "secret.jpg"]
    assert sorted(entry.name for entry in inside.iterdir() if entry != path)[-1:] == ["out"]
    assert not any(secret.read_bytes() in file.read_bytes() for file in (inside / "out").iterdir())


def loader(source, rows=4, **options):
    return make_loader(
        [source],
        DataConfig(threads=1, **options),
        image_size=16,
        context_length=77,
        global_batch_size=rows,
        seed=1,
        token_lengths=[{}],
    )


def giant(jpeg, width, height):
    """The same JPEG with another size in its header."""
    frame = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:frame] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + jpeg[frame + 4 :]


def use(source, folder):
    """A batch, a build of one pass and one of two, of which only a `UserError` may come."""
    with contextlib.suppress(UserError):
        batch = loader(source, min(4, len(source))).batch(0)
        assert batch.image.shape[1:] == (16, 16, 3)
    for options in ({}, {"images": ImageOptions(resize=12), "selection": Selection(mix=1, dedup=True, clean_up=True)}):
        out = folder / "out"
        with contextlib.suppress(UserError):
            report = build({"train": source}, out, name="fuzz", threads=1, console=QUIET, **options)
            assert report.manifest.records("train") + sum(report.rejected.values()) == len(source)
            checks = verify(out, threads=1, console=QUIET).checks
            broken = {check.name for check in checks if check.broken and not check.warning}
            assert broken <= (set() if options else {KEYS})
        shutil.rmtree(out, ignore_errors=True)


def mutated(draw, whole, times=3):
    """Bytes with a few faults: flipped, cut off, overwritten, taken out or put in."""
    data = bytearray(whole)
    for _ in range(draw.randrange(1, times + 1)):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(5):
            case 0 if place < len(data):
                data[place] ^= 1 << draw.randrange(8)
            case 1:
                data = data[: max(place, 1)]
            case 2:
                data[place : place + 40] = draw.randbytes(40)
            case 3:
                del data[place : place + draw.choice([1, 7, BLOCK])]
            case _:
                data[place:place] = draw.choice([b"\0", b"\xff" * 9, bytes(BLOCK)])
    return bytes(data)


def fuzzed(test, examples):
    """Runs a test of one `random.Random` so often, with the same numbers in each run of the suite."""
    settings(derandomize=True, deadline=None, max_examples=examples, database=None)(
        given(draw=st.randoms(use_true_random=True))(test)
    )()


def test_whatever_a_tar_holds_comes_out_as_a_record_or_a_fault_with_a_name(tmp_path, photo):
    jpeg = photo(3)
    kinds = [
        lambda draw: photo(draw.randrange(3)),
        lambda draw: mutated(draw, jpeg),
        lambda draw: jpeg[:20] + draw.randbytes(200),
        lambda draw: giant(jpeg, draw.choice([0, 1, 9_000, 65_535]), draw.choice([0, 1, 2_000, 65_535])),
        lambda draw: mutated(draw, photo(1, file_format="PNG")),
        lambda draw: draw.randbytes(draw.randrange(90)),
    ]
    texts = [NAME, TAGS, b"", b"\xff\xfe\0", "a photo of \N{BIRD}\u0301.".encode(), b"genus " * 9000]
    suffixes = ["jpg", "sci.txt", "taxonTag.txt", "com.txt", "caption.txt", "JPEG", "json", "txt", ""]
    (tmp_path / "here").mkdir()
    path, used = tmp_path / "here" / "a.tar", 0

    def test(draw):
        nonlocal used
        members = []
        for number in range(draw.randrange(1, 6)):
            key = draw.choice([f"k{number}", "k0", "../k", "d/k", "\N{BIRD}", "x" * 120 + str(number), "<b>&"])
            members.append((f"{key}.jpg", draw.choice(kinds)(draw)))
            members += [(f"{key}.{draw.choice(suffixes)}", draw.choice(texts)) for _ in range(draw.randrange(4))]
        write_tar(path, members)
        if draw.random() < 0.4:
            path.write_bytes(mutated(draw, path.read_bytes()))
        with contextlib.suppress(UserError):
            source = open_tars(path, allow_damaged=True, console=QUIET)
            used += 1
            use(source, tmp_path / "here")
        for file in (tmp_path / "here").iterdir():
            assert file.name in ("a.tar", "a.tar.index")
            file.unlink()

    fuzzed(test, 40)
    assert used > 15
    assert [entry.name for entry in tmp_path.iterdir()] == ["here"]


@pytest.fixture
def dataset(tmp_path, list_source, record):
    """Two shards."""
    source = {"train": list_source([record(n) for n in range(12)])}
    build(source, tmp_path / "data", name="sound", shard_bytes=9000, threads=1, console=QUIET)
    return tmp_path / "data"


def rewrite_manifest(directory, change):
    """Changes what a manifest says, and makes its hash fit again."""
    content = json.loads((directory / MANIFEST).read_text())
    change(content)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        splits = {
            name: tuple(ShardFile(f["name"], int(f["records"]), int(f["bytes"]), f["sha256"]) for f in split["files"])
            for name, split in content["splits"].items()
        }
        lengths = {name: int(length) for name, length in content["token_lengths"].items()}
        content["hash"] = Manifest(content["name"], splits, lengths, content["source_fingerprint"]).hash
    (directory / MANIFEST).write_text(json.dumps(content))


def first_file(**fields):
    return lambda content: content["splits"]["train"]["files"][0].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (first_file(name=name), "names a file outside")
            for name in ("..", "", "a\0", "\ud800", "../x", "/etc/passwd")
        ),
        *((first_file(records=number), "cannot hold") for number in (-1, 10**6, 10**30)),
        (first_file(records=float("inf")), "is damaged"),
        (first_file(bytes=5, records=5), "has 5 bytes|the manifest says 5"),
        (lambda content: content["splits"].clear(), "no splits"),
        (lambda content: content["token_lengths"].update(sci=float("inf")), "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_true_is_refused_by_every_command(dataset, tmp_path, capsys, change, message):
    rewrite_manifest(dataset, change)
    for arguments in (("show", dataset, "--out", tmp_path / "x.png"), ("build", dataset, tmp_path / "out")):
        code, _, error = command(capsys, "data", *arguments)
        assert code == 1
        assert any(part in error for part in message.split("|"))
    assert command(capsys, "data", "verify", dataset)[0] == 1


def test_a_manifest_nested_without_end_is_refused(dataset, capsys):
    (dataset / MANIFEST).write_bytes(b"[" * 100_000)
    code, _, error = command(capsys, "data", "verify", dataset)
    assert code == 1
    assert f"{dataset / MANIFEST} is damaged" in error


@pytest.mark.parametrize("records", [1, 100])
def test_verify_compares_the_number_of_records_with_that_of_the_file(dataset, records):
    rewrite_manifest(dataset, first_file(records=records))
    files = next(check for check in verify(dataset, console=QUIET).checks if check.name == FILES)
    assert files.broken == 1
    assert f"records instead of {records}" in files.examples[0]


def test_no_byte_of_a_dataset_however_changed_does_more_than_damage_it(dataset):
    whole = {path: path.read_bytes() for path in dataset.glob("*.array_record-*")}
    read = 0

    def test(draw):
        nonlocal read
        path = draw.choice(sorted(whole))
        # Of the same size, for else the first look refuses it.
        size = len(whole[path])
        path.write_bytes(mutated(draw, whole[path], 6).ljust(size, b"\0")[:size])
        source = open_directory(dataset)["train"]
        for index in range(len(source)):
            with contextlib.suppress(UserError):
                assert isinstance(source[index]["image"], bytes)
                read += 1
        with contextlib.suppress(UserError):
            loader(source, 4).batch(0)
        assert verify(dataset, threads=1, console=QUIET).ok is (path.read_bytes() == whole[path])
        path.write_bytes(whole[path])

    fuzzed(test, 40)
    assert read > 40  # about 60; Hypothesis draws from the constants in our code, too, so the count moves with them


def test_no_value_of_a_manifest_however_changed_does_more_than_refuse_it(dataset):
    whole = (dataset / MANIFEST).read_text()
    values = [
        None,
        "",
        "..",
        -1,
        0,
        1,
        2.5,
        10**30,
        float("nan"),
        float("inf"),
        [],
        {},
        [[]],
        {"train": {}},
        "\ud800",
        True,
    ]

    def change(draw, node):
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = draw.choice(keys) if keys else None
        if key is None:
            return
        if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.8:
            change(draw, node[key])
        elif draw.random() < 0.2:
            del node[key]
        else:
            node[key] = copy.deepcopy(draw.choice(values))

    refused = 0

    def test(draw):
        nonlocal refused
        (dataset / MANIFEST).write_text(whole)
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            rewrite_manifest(dataset, partial(change, draw))
        try:
            source = next(iter(open_directory(dataset).values()))
            loader(source, 4).batch(0)
            verify(dataset, threads=1, console=QUIET)
        except UserError:
            refused += 1

    fuzzed(test, 60)
    assert refused > 20


def test_a_shard_that_vanishes_ends_a_run_with_its_name(dataset):
    data = loader(open_directory(dataset)["train"])
    gone, *_ = dataset.glob("*-00001-of-*")
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone.name} .*bioclip-jax data verify"):
        list(data.batches(0, 6))


class Losing:
    """A source that loses a file when record 10 is read for the second time: a build looks at a few records first."""

    def __init__(self, source, path):
        self.source, self.path, self.reads = source, path, 0

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.reads += index == 10
        if self.reads == 2 and self.path.exists():
            self.path.rename(self.path.with_name("lost"))
        return self.source[index]


def test_a_tar_that_vanishes_stops_a_build_whose_finished_shards_stay(tmp_path, photo):
    members = [[m for n in range(9) for m in sample(f"k{part}{n}", photo(n))] for part in range(3)]
    tars = [write_tar(tmp_path / f"{part}.tar", some) for part, some in enumerate(members)]
    source, out = open_tars(tars, max_open=1, console=QUIET), tmp_path / "out"
    options = {"name": "k", "shard_bytes": 9000, "threads": 1, "console": QUIET}
    with pytest.raises(UserError, match=r"tar .*2\.tar: no such file"):
        build({"train": Losing(source, tars[2])}, out, **options)
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("*.array_record-*")}
    assert finished
    assert not list(out.rglob("*.tmp"))
    (tmp_path / "lost").rename(tars[2])
    assert build({"train": source}, out, **options).manifest.records("train") == 27
    assert finished.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.array_record-*")}.items()


def test_pipes_are_never_waited_for(dataset, tmp_path, photo):
    shard, *_ = dataset.glob("*-00001-of-*")
    shard.unlink()
    os.mkfifo(shard)
    files = next(check for check in verify(dataset, console=QUIET).checks if check.name == FILES)
    assert files.examples == [f"{shard.name} is not a file"]
    catalog, crawl = tmp_path / "catalog.csv", tmp_path / "crawl"
    catalog.write_text(f"uuid,genus\n{uuid(0)},Motacilla\n{uuid(1)},Motacilla\n")
    crawl.mkdir()
    os.mkfifo(crawl / f"{uuid(0)}.jpg")
    (crawl / f"{uuid(1)}.jpg").write_bytes(photo(0))
    source = open_crawl(catalog, crawl, console=QUIET)
    assert source[1]["image"] == photo(0)
    with pytest.raises(BadRecord, match="it is a pipe"):
        source[0]
    os.mkfifo(crawl / "data_1.parquet")
    with pytest.raises(UserError, match=r"data_1\.parquet \(it is not a file\)"):
        open_crawl(catalog, crawl, console=QUIET)


def uuid(number):
    return f"{number:08x}-0000-4000-8000-000000000000"


def test_no_crawl_however_damaged_does_more_than_refuse_itself(tmp_path, photo):
    catalog = tmp_path / "catalog.parquet"
    taxa = [{"uuid": uuid(n), "genus": "Motacilla", "species": "alba"} for n in range(12)]
    pyarrow.parquet.write_table(pa.Table.from_pylist(taxa), catalog)
    pixels = np.zeros((6, 8, 3), np.uint8)
    images = [b"", pixels.tobytes(), pixels.tobytes()[:-1], photo(0), None]
    sizes = [[6, 8], [8, 6], [0, 0], [-6, -8], [1 << 30, 1 << 30], [6], [], None]
    keys = [*map(uuid, range(8)), uuid(3).upper(), "", None, "../x", uuid(99)]
    crawl, read = tmp_path / "crawl", 0
    crawl.mkdir()

    def test(draw):
        nonlocal read
        rows = [
            {"uuid": draw.choice(keys), "image": draw.choice(images), "resized_size": draw.choice([sizes[0], *sizes])}
            for _ in range(draw.randrange(1, 40))
        ]
        rows.append({"uuid": uuid(9), "image": images[1], "resized_size": [6, 8]})
        path = crawl / "data_1.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=draw.choice([5, 100]))
        if damaged := draw.random() < 0.4:
            path.write_bytes(mutated(draw, path.read_bytes()))
        if wrong := draw.random() < 0.2:
            pyarrow.parquet.write_table(pa.table({draw.choice(["uuid", "key"]): [1, 2]}), crawl / "data_2.parquet")
        before = read
        with contextlib.suppress(UserError):
            source = open_crawl(catalog, crawl, allow_damaged=draw.random() < 0.5, console=QUIET)
            for index in range(len(source)):
                with contextlib.suppress(BadRecord):
                    read += source[index]["image"].shape[2] == 3
            use(source, tmp_path)
        for file in crawl.iterdir():
            file.unlink()
        assert damaged or wrong or read > before  # the last row is good

    fuzzed(test, 60)
    assert read
