import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.file_cache import FileCache

KILOBYTE = bytes(1000)


@pytest.fixture
def cache(object_store, quick, tmp_path):
    """A function that makes a cache, with ten objects of a thousand bytes to put there."""
    for number in range(10):
        object_store.put(f"bucket/{number}", bytes([number]) * 1000)
    return lambda *limit, **options: FileCache(tmp_path / "disk", *limit, patience=quick, **options)


def copies(cache):
    return sorted(path.name.partition("-")[2] for path in cache.folder.rglob("*") if path.is_file())


def test_a_local_path_is_itself_and_a_remote_file_is_downloaded_once(cache, object_store, tmp_path):
    files = cache()
    assert files.local(str(tmp_path / "a")) == tmp_path / "a"
    path = files.local("s3://bucket/3")
    assert path.read_bytes() == bytes([3]) * 1000
    for again in (files, cache(), pickle.loads(pickle.dumps(files))):  # noqa: S301 what was just made here
        assert again.local("s3://bucket/3") == path
    assert object_store.count("read") == 1
    assert copies(files) == ["3"]


def test_a_changed_object_gets_another_copy(cache, object_store):
    before = cache().local("gs://bucket/3")
    object_store.put("bucket/3", b"new")
    after = cache().local("gs://bucket/3")
    assert (before.read_bytes(), after.read_bytes()) == (bytes([3]) * 1000, b"new")


def test_threads_that_want_the_same_file_download_it_once(cache, object_store):
    several = [cache() for _ in range(4)]
    with ThreadPoolExecutor(16) as pool:
        paths = set(pool.map(lambda turn: several[turn % 4].local(f"s3://bucket/{turn % 2}"), range(64)))
    assert len(paths) == 2
    assert object_store.count("read") == 2


DOWNLOADS = """
import sys
from bioclip_jax.pipeline.file_cache import FileCache
cache = FileCache(sys.argv[1])
print(*(cache.local(f"s3://bucket/{number}").stat().st_size for number in range(10)))
"""


def test_processes_that_want_the_same_files_download_them_once(cache, object_store):
    start = [sys.executable, "-c", DOWNLOADS, str(cache().folder)]
    processes = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True, env=os.environ.copy()) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].split() for process in processes] == [["1000"] * 10] * 2
    assert object_store.count("read") == 10


def test_the_least_recently_used_files_go_when_the_limit_is_reached(cache):
    files = cache(3000, keep=1)
    for moment, number in enumerate((0, 1, 2, 0, 3)):
        os.utime(files.local(f"s3://bucket/{number}"), ns=(0, moment * 10**9))
    assert copies(files) == ["0", "2", "3"]
    files.local("s3://bucket/4")
    assert copies(files) == ["0", "3", "4"]


def test_files_in_use_stay_even_beyond_the_limit(cache):
    files = cache(2000, keep=2)
    with files.using("s3://bucket/0") as held:
        first = files.local("s3://bucket/1")
        for number in range(2, 8):
            files.local(f"s3://bucket/{number}")
        assert held.read_bytes() == KILOBYTE
        assert not first.exists()
        assert copies(files) == ["0", "5", "6", "7"]  # 5 was in use until 7 had come
        other = cache(1000, keep=1)  # as another process
        other.local("s3://bucket/8")
        assert copies(files) == ["0", "6", "7", "8"]
    files.local("s3://bucket/9")
    assert "0" not in copies(files)


def test_what_cannot_be_downloaded_leaves_nothing(cache, object_store):
    object_store.fail("read", truncated=True)
    files = cache()
    with pytest.raises(UserError, match=r"s3://bucket/0 cannot be read: .*partial file"):
        files.local("s3://bucket/0")
    with pytest.raises(UserError, match="s3://bucket/none: no such object"):
        files.local("s3://bucket/none")
    assert [path for path in files.folder.rglob("*") if path.is_file()] == []
    object_store.faults.clear()
    assert files.local("s3://bucket/0").read_bytes() == KILOBYTE


def test_a_cache_that_makes_no_sense_is_refused(tmp_path, cache):
    with pytest.raises(UsageError, match="give a local folder"):
        FileCache("gs://bucket/cache")
    with pytest.raises(UsageError, match="must be at least 1"):
        FileCache(tmp_path, 0)
    (tmp_path / "disk").write_text("a file")
    with pytest.raises(UserError, match="cannot be used: Not a directory"):
        cache().local("s3://bucket/0")
