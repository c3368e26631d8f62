import io
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import tar_files
from bioclip_jax.pipeline.file_cache import FileCache
from bioclip_jax.pipeline.read_ahead import ReadAhead
from bioclip_jax.pipeline.tar_files import LocalTar
from bioclip_jax.pipeline.tar_index import index_tar
from bioclip_jax.pipeline.tar_index_file import index_path
from bioclip_jax.pipeline.tar_patterns import expand_tars
from bioclip_jax.pipeline.tars import open_tars

BOTH = pytest.mark.parametrize("scheme", ["gs", "s3"])
SAMPLES, TARS = 40, 3


def tar_of(keys, image_bytes=3000, image=b"\xff\xd8"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for key in keys:
            texts = {"sci.txt": f"a photo of species {key}.".encode(), "scientific_name.txt": f"Genus {key}".encode()}
            for suffix, data in ({"jpg": image + key.encode() * (image_bytes // len(key))} | texts).items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


@pytest.fixture
def shards(object_store, tmp_path):
    """Three tars, in the store and in a local folder."""
    (tmp_path / "shards").mkdir()
    for number in range(TARS):
        data = tar_of([f"{number}key{row:04}" for row in range(SAMPLES)])
        object_store.put(f"bucket/shards/{number:05}.tar", data)
        (tmp_path / "shards" / f"{number:05}.tar").write_bytes(data)
    return tmp_path / "shards"


def opened(tars, quick, **options):
    return open_tars(tars, console=Console(file=io.StringIO()), patience=quick, **options)


def everything(source):
    return [source[row] for row in range(len(source))]


@BOTH
def test_remote_records_equal_local_ones_at_one_request_each(object_store, shards, quick, tmp_path, scheme):
    local = everything(opened(shards, quick))
    for tars in (f"{scheme}://bucket/shards/{{00000..00002}}.tar", f"{scheme}://bucket/shards"):
        source = opened(tars, quick, index_folder=tmp_path / "indexes")
        object_store.requests.clear()
        assert everything(source) == local
        assert [request.kind for request in object_store.requests] == ["read"] * len(local)
    assert everything(pickle.loads(pickle.dumps(source))) == local  # noqa: S301 what was just made here
    assert not list(tmp_path.glob("cache/**/*"))


@BOTH
def test_an_index_takes_each_byte_once_and_fits_until_the_object_changes(
    object_store, shards, quick, tmp_path, scheme, monkeypatch
):
    monkeypatch.setattr(tar_files, "_STREAM_CHUNK", 20_000)
    key, path = "bucket/shards/00000.tar", f"{scheme}://bucket/shards/00000.tar"
    opened(path, quick)
    size = len(object_store.objects[key])
    ranges = sorted(object_store.ranges(key))
    assert [start for start, _ in ranges] == list(range(0, size, 20_000))
    assert sum(length for _, length in ranges) == size
    index = tmp_path / "cache" / "bioclip_jax" / "indexes" / scheme / "bucket" / "shards" / "00000.tar.index"
    assert index_path(path) == index
    assert index.is_file()
    object_store.requests.clear()
    opened(path, quick)
    assert object_store.count("read") == 0
    object_store.put(key, tar_of([f"new{row}" for row in range(SAMPLES)]))
    assert opened(path, quick)[0]["key"] == "new0"
    assert len(object_store.objects[key]) == size


@BOTH
def test_many_tars_in_a_folder_are_looked_up_by_one_list(object_store, quick, scheme):
    for number in range(40):
        object_store.put(f"bucket/many/{number:02}.tar", tar_of([f"k{number}"]))
    pattern = f"{scheme}://bucket/many/{{00..39}}.tar"
    assert len(opened(pattern, quick)) == 40
    object_store.requests.clear()
    assert len(opened(pattern, quick)) == 40
    assert [request.kind for request in object_store.requests] == ["list"]
    with pytest.raises(UserError, match=r"2 of 42 tars cannot be used: .*many/40.tar: no such object"):
        opened(f"{scheme}://bucket/many/{{00..41}}.tar", quick)


@BOTH
@pytest.mark.parametrize("chunk", [1 << 16, 1 << 23])
def test_neighbours_are_read_in_chunks_that_are_kept(object_store, shards, quick, scheme, chunk):
    local = everything(opened(shards, quick))
    source = opened(f"{scheme}://bucket/shards", quick, read_ahead=chunk)
    object_store.requests.clear()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.__getitem__, range(len(source)))) == local
    chunks = sum(-(-len(data) // chunk) for data in object_store.objects.values())
    assert object_store.count("read") == chunks < len(local) / 2
    assert everything(opened(shards, quick, read_ahead=chunk)) == local


def test_read_ahead_keeps_no_more_than_its_limit(tmp_path):
    (tmp_path / "x").write_bytes(data := os.urandom(1000))

    class Counted(LocalTar):
        reads = 0

        def pread(self, offset, length):
            Counted.reads += 1
            return super().pread(offset, length)

    file, ahead = Counted(tmp_path / "x"), ReadAhead(100, 299)
    assert [ahead.pread(file, start, 10) for start in (0, 150, 50, 180)] == [
        data[start : start + 10] for start in (0, 150, 50, 180)
    ]
    assert Counted.reads == 2
    ahead.pread(file, 250, 10)  # the first chunk goes
    assert ahead.pread(file, 95, 1000) == data[95:]
    assert Counted.reads == 3 + 10
    assert len(ahead._chunks) == 2
    assert ahead.pread(file, 990, 50) == data[990:]
    assert ahead.pread(file, 1000, 5) == b""
    with pytest.raises(UsageError, match="read_ahead 0"):
        ReadAhead(0, 10)


def test_a_chunk_that_could_not_be_read_is_read_again(object_store, shards, quick):
    source = opened("s3://bucket/shards", quick, read_ahead=1 << 20)
    object_store.fail("read", status=403, times=1)
    with pytest.raises(UserError, match="access is denied"):
        source[0]
    assert source[0]["key"] == "0key0000"


@BOTH
@pytest.mark.parametrize("read_ahead", [0, 1 << 20])
def test_a_tar_that_goes_or_changes_in_mid_run_is_noticed(object_store, shards, quick, scheme, read_ahead):
    source = opened(f"{scheme}://bucket/shards", quick, read_ahead=read_ahead, max_open=1)
    source[0]
    key = "bucket/shards/00001.tar"
    data = object_store.objects.pop(key)
    with pytest.raises(UserError, match=r"shards/00001.tar: no such object, or it is gone"):
        source[SAMPLES]
    object_store.put(key, data[: len(data) // 2])
    with pytest.raises(UserError, match=r"shards/00001.tar has changed"):
        source[2 * SAMPLES - 1]
    object_store.put(key, data.replace(b"\xff\xd81key", b"\xff\xd82key"))  # names and sizes as they were
    with pytest.raises(UserError, match=r"shards/00001.tar has changed"):
        source[SAMPLES]
    assert source[2 * SAMPLES]["key"] == "2key0000"


def test_a_tar_that_changes_while_it_is_indexed_is_refused(object_store, quick, monkeypatch):
    monkeypatch.setattr(tar_files, "_STREAM_CHUNK", 8192)
    object_store.put("bucket/x.tar", tar_of([f"k{row}" for row in range(30)]))
    walk = tar_files.RemoteTar.read_into

    def read_into(self, view, offset):
        count = walk(self, view[:8192], offset)
        if self is not None and offset > 30_000:
            object_store.put("bucket/x.tar", object_store.objects["bucket/x.tar"])
        return count

    monkeypatch.setattr(tar_files.RemoteTar, "read_into", read_into)
    with pytest.raises(UserError, match=r"x.tar has changed since"):
        index_tar("s3://bucket/x.tar", patience=quick)


@BOTH
def test_bad_remote_tars_are_refused_as_local_ones_are(object_store, quick, scheme):
    whole = tar_of(["a", "b"])
    object_store.put("bucket/cut.tar", whole[: len(whole) // 4])
    object_store.put("bucket/zip.tar", b"\x1f\x8b" + whole)
    object_store.put("bucket/empty.tar", b"")
    for name, problem in {"cut": "is damaged at byte", "zip": "is compressed .gzip", "empty": "is empty"}.items():
        with pytest.raises(UserError, match=rf"tar {scheme}://bucket/{name}.tar {problem}"):
            opened(f"{scheme}://bucket/{name}.tar", quick)
    with pytest.raises(UserError, match=r"nothing.tar: no such object"):
        opened(f"{scheme}://bucket/nothing.tar", quick)
    with pytest.raises(UsageError, match="so give a local folder"):
        opened(f"{scheme}://bucket/cut.tar", quick, index_folder=f"{scheme}://bucket/indexes")


def test_open_remote_tars_hold_no_descriptor_but_their_index(object_store, shards, quick):
    source = opened("s3://bucket/shards", quick, max_open=2)
    for row in range(0, len(source), 7):
        source[row]
    names = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert sum(name.endswith(".tar.index") for name in names) == 2
    assert not any(name.endswith(".tar") for name in names)


@BOTH
def test_remote_tars_are_found_by_folder_and_pattern(object_store, quick, scheme):
    for name in ("a/1.tar", "a/2.tar", "a/.3.tar", "a/note", "b/1.tar", "b/c/2.tar", "odd"):
        object_store.put(f"bucket/{name}", b"x")
    at = f"{scheme}://bucket"

    def found(pattern):
        return [path.removeprefix(f"{at}/") for path in expand_tars(pattern, quick)]

    assert found(f"{at}/a/*.tar") == ["a/1.tar", "a/2.tar"]
    assert found(f"{at}/*/1.tar") == ["a/1.tar", "b/1.tar"]
    assert found(f"{at}/**/2.tar") == ["a/2.tar", "b/c/2.tar"]
    assert found(f"{at}/{{b,a}}/[1-9].tar") == ["b/1.tar", "a/1.tar", "a/2.tar"]
    assert found(f"{at}/b/1.tar::{at}/a/nowhere.tar") == ["b/1.tar", "a/nowhere.tar"]
    assert found(f"{at}/b/") == ["b/1.tar"]
    assert found(f"{at}/odd") == ["odd"]
    with pytest.raises(UsageError, match=r"c/nothing holds no \*.tar files, or is not there"):
        found(f"{at}/c/nothing")
    with pytest.raises(UsageError, match=r"no file fits the pattern .*/z\*.tar"):
        found(f"{at}/a/z*.tar")
    with pytest.raises(UsageError, match="the bucket must be named"):
        found(f"{scheme}://buck*/a.tar")
    with pytest.raises(UsageError, match="http:// is not known"):
        found("http://bucket/{1..3}.tar")


def test_whole_tars_stay_on_a_local_disk_where_that_is_wanted(object_store, shards, quick, tmp_path):
    local = everything(opened(shards, quick))
    source = opened("s3://bucket/shards", quick, cache=tmp_path / "disk")
    assert everything(source) == local
    object_store.requests.clear()
    cache = FileCache(tmp_path / "disk", patience=quick)
    assert everything(opened("s3://bucket/shards", quick, cache=cache)) == local
    assert object_store.count("read") == 0


def test_a_taxonomy_may_be_remote_too(object_store, shards, quick):
    table = io.BytesIO()
    pyarrow.parquet.write_table(pa.table({"uuid": ["1key0003"], "genus": ["Corvus"], "species": ["corax"]}), table)
    object_store.put("bucket/catalog.parquet", table.getvalue())
    source = opened("s3://bucket/shards", quick, taxonomy="s3://bucket/catalog.parquet")
    assert source[SAMPLES + 3]["genus"] == "Corvus"
    assert source[SAMPLES + 4]["genus"] == ""
