import dataclasses
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import storage, storage_clients
from bioclip_jax.pipeline.storage import RemoteFile
from bioclip_jax.pipeline.storage_clients import Patience

DATA = bytes(range(256)) * 300
IMPATIENT = Patience(connect_timeout=0.5, timeout=0.5, attempts=3, first_pause=0.01)
BOTH = pytest.mark.parametrize("scheme", ["gs", "s3"])


@BOTH
def test_ranges_are_read_with_one_request_each(object_store, quick, scheme):
    object_store.put("bucket/a/x.tar", DATA)
    file = RemoteFile(f"{scheme}://bucket/a/x.tar", len(DATA), patience=quick)
    assert file.pread(5, 10) == DATA[5:15]
    assert file.pread(70_000, 10_000) == DATA[70_000:]
    assert file.pread(len(DATA), 3) == b""
    assert object_store.ranges("bucket/a/x.tar") == [(5, 10), (70_000, len(DATA) - 70_000)]
    assert len(object_store.requests) == 2


@BOTH
def test_local_and_remote_files_are_found_and_read_alike(object_store, quick, tmp_path, scheme):
    names = ["one.tar", "two.tar", "note.txt", "deep/three.tar"]
    for number, name in enumerate(names):
        object_store.put(f"bucket/set/{name}", DATA[: 10 + number])
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(DATA[: 10 + number])
    object_store.put("bucket/setting.tar", b"1")
    for folder in (str(tmp_path), f"{scheme}://bucket/set", f"{scheme}://bucket/set/"):
        files = storage.list_files(folder, ".tar", patience=quick)
        assert [file.path for file in files] == [storage.join(folder, name) for name in ("one.tar", "two.tar")]
        assert [file.size for file in files] == [10, 11]
        assert len(storage.list_files(folder, recursive=True, patience=quick)) == 4
        status = storage.status(storage.join(folder, "two.tar"), quick)
        assert status == files[1]
        assert storage.read_whole(status.path, quick) == DATA[:11]
        assert storage.read_bytes(status.path, 4, 100, quick) == DATA[4:11]
        assert storage.is_file(status.path, quick)
        assert not storage.is_file(storage.join(folder, "deep"), quick)
    assert storage.list_files(f"{scheme}://bucket/nothing", patience=quick) == []
    object_store.put("bucket/set/two.tar", DATA[:11])
    assert storage.status(f"{scheme}://bucket/set/two.tar", quick) != status


@BOTH
def test_a_file_streams_in_blocks_and_downloads_whole_or_not_at_all(object_store, quick, tmp_path, scheme):
    object_store.put("bucket/x", DATA)
    path = f"{scheme}://bucket/x"
    assert [len(block) for block in storage.open_stream(path, 30_000, quick)] == [30_000, 30_000, 16_800]
    assert sorted(object_store.ranges("bucket/x")) == [(0, 30_000), (30_000, 30_000), (60_000, 16_800)]
    storage.fetch(path, tmp_path / "new" / "x", quick)
    assert (tmp_path / "new" / "x").read_bytes() == DATA
    object_store.fail("read", status=403)
    with pytest.raises(UserError, match="access is denied"):
        storage.fetch(path, tmp_path / "new" / "y", quick)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["x"]


@BOTH
@pytest.mark.parametrize("size", [0, 1000, 12 << 20])
def test_an_upload_arrives(object_store, quick, tmp_path, scheme, size):
    (tmp_path / "x").write_bytes(data := (DATA * (size // len(DATA) + 1))[:size])
    storage.upload(tmp_path / "x", f"{scheme}://bucket/new/x", quick)
    assert object_store.objects["bucket/new/x"] == data


@BOTH
def test_an_upload_that_fails_leaves_what_was_there(object_store, quick, tmp_path, scheme):
    (tmp_path / "x").write_bytes(DATA)
    object_store.put("bucket/x", b"old")
    object_store.fail("write", status=403)
    with pytest.raises(UserError, match=f"{scheme}://bucket/x cannot be written: access is denied"):
        storage.upload(tmp_path / "x", f"{scheme}://bucket/x", quick)
    assert object_store.objects == {"bucket/x": b"old"}
    with pytest.raises(UserError, match="no such file"):
        storage.upload(tmp_path / "gone", f"{scheme}://bucket/x", quick)


@BOTH
@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"truncated": True}, {"silent": True}])
def test_what_may_pass_is_tried_again(object_store, quick, scheme, fault):
    object_store.put("bucket/x", DATA)
    object_store.fail("read", times=2, **fault)
    patience = IMPATIENT if "silent" in fault else quick
    assert RemoteFile(f"{scheme}://bucket/x", len(DATA), patience=patience).pread(7, 100) == DATA[7:107]
    assert object_store.count("read") >= 3


@BOTH
@pytest.mark.parametrize("fault", [{"status": 503}, {"truncated": True}, {"silent": True}])
def test_what_does_not_pass_is_one_error_with_the_reason(object_store, quick, scheme, fault):
    # A name of its own, for what an earlier test gave up may still come.
    key = f"bucket/{scheme}-{'-'.join(fault)}"
    path = f"{scheme}://{key}"
    object_store.put(key, DATA)
    object_store.fail("read", **fault)
    patience = IMPATIENT if "silent" in fault else quick
    reason = "no answer within 0.5" if "silent" in fault else "HTTP status 503" if "status" in fault else "partial file"
    with pytest.raises(UserError, match=rf"^{path} cannot be read: .*{reason}.* \(3 attempts\)$"):
        RemoteFile(path, len(DATA), patience=patience).pread(7, 100)
    assert quick.attempts <= object_store.count("read", key) <= 2 * quick.attempts


@BOTH
def test_requests_that_were_given_up_do_not_block_others_for_ever(object_store, quick, scheme, monkeypatch):
    monkeypatch.setattr(storage_clients, "_AT_A_TIME", 3)
    quick = dataclasses.replace(quick, first_pause=0.02)  # a connection of its own
    object_store.put("bucket/x", DATA)
    object_store.fail("read", key="bucket/silent", silent=True)
    silent = RemoteFile(f"{scheme}://bucket/silent", len(DATA), patience=quick)
    pending = [silent.start(place, 1) for place in range(3)]
    object_store.wait_for(3, "bucket/silent")
    del pending
    assert RemoteFile(f"{scheme}://bucket/x", len(DATA), patience=quick).pread(7, 100) == DATA[7:107]


@BOTH
def test_status_and_lists_are_tried_again_and_do_not_hang(object_store, quick, scheme):
    object_store.put("bucket/a/x", DATA)
    object_store.fail("status", status=503, times=1)
    assert storage.status(f"{scheme}://bucket/a/x", quick).size == len(DATA)
    object_store.fail("list", silent=True)
    with pytest.raises(UserError, match=rf"{scheme}://bucket/a cannot be listed: .*\(2 attempts\)"):
        storage.list_files(f"{scheme}://bucket/a", patience=Patience(0.05, 0.05, 2, 0.01))


@BOTH
def test_missing_and_forbidden_are_said_at_once(object_store, quick, scheme):
    file = RemoteFile(f"{scheme}://bucket/x", 10, patience=quick)
    with pytest.raises(UserError, match=f"^{scheme}://bucket/x: no such object"):
        file.pread(0, 5)
    with pytest.raises(UserError, match=f"^{scheme}://bucket/x: no such object"):
        storage.status(f"{scheme}://bucket/x", quick)
    object_store.put("bucket/x", DATA)
    for kind, ask in {"read": lambda: file.pread(0, 5), "status": lambda: storage.status(file.path, quick)}.items():
        object_store.requests.clear()
        object_store.fail(kind, status=403)
        with pytest.raises(UserError, match=rf"{scheme}://bucket/x .*access is denied .*anonymously.*credentials are"):
            ask()
        assert object_store.count(kind) == 1


@BOTH
def test_another_version_is_never_mixed_in(object_store, quick, scheme):
    object_store.put("bucket/x", DATA)
    file = RemoteFile(f"{scheme}://bucket/x", len(DATA), patience=quick)
    file.pread(0, 10)
    again = RemoteFile(file.path, len(DATA), fingerprint=file.fingerprint(), patience=quick)
    assert again.pread(0, 10) == DATA[:10]
    object_store.put("bucket/x", DATA[::-1])
    for opened in (file, again, RemoteFile(file.path, len(DATA), fingerprint=file.fingerprint(), patience=quick)):
        with pytest.raises(UserError, match=f"{scheme}://bucket/x has changed since its 76,800 bytes were looked at"):
            opened.pread(0, 10)
    object_store.put("bucket/x", DATA[:100])
    with pytest.raises(UserError, match=r"has changed .* it ends before byte 76,800"):
        file.pread(76_000, 800)
    blocks = storage.open_stream(file.path, 10, quick)
    next(blocks)
    object_store.put("bucket/x", DATA[1:101])
    with pytest.raises(UserError, match="has changed"):
        list(blocks)


@BOTH
def test_many_threads_read_from_one_file(object_store, quick, scheme):
    object_store.put("bucket/x", DATA)
    file = RemoteFile(f"{scheme}://bucket/x", len(DATA), patience=quick)
    with ThreadPoolExecutor(16) as pool:
        pieces = list(pool.map(lambda place: file.pread(place * 300, 300), range(256)))
    assert b"".join(pieces) == DATA
    assert object_store.count("read") == 256


@pytest.mark.parametrize("path", ["http://h/x", "hf://bucket/x", "S3://bucket/x"])
def test_unknown_schemes_are_refused_by_name(path):
    with pytest.raises(UsageError, match=r"is not known; give a local path, gs://BUCKET/KEY or s3://BUCKET/KEY"):
        storage.is_remote(path)


@pytest.mark.parametrize(
    "path", ["gs://", "s3:///x", "gs://bucket/../c", "s3://bucket/a//c", "gs://../x", "s3://bucket/.", "gs://bucket/\0"]
)
def test_paths_that_lead_elsewhere_are_refused(path):
    with pytest.raises(UsageError, match="without parts that are empty"):
        storage.split(path)


def test_local_paths_stay_local():
    assert not any(map(storage.is_remote, ("a/b.tar", "/a:/b", "gs:/b", Path("gs://bucket"), "C:\\x")))
    with pytest.raises(UsageError, match="is not in an object store"):
        storage.split("a/b")


def test_credentials_are_looked_for_without_asking_a_network(monkeypatch, tmp_path, server):
    assert not storage_clients.has_credentials("s3")
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setattr(storage_clients, "_VENDOR", tmp_path / "vendor")
    assert not storage_clients.has_credentials("gs")
    (tmp_path / "vendor").write_text("Google\n")
    assert storage_clients.has_credentials("gs")
    assert not storage_clients.has_credentials("s3")
    (tmp_path / "vendor").write_text("Amazon EC2\n")
    assert not storage_clients.has_credentials("s3")  # the environment forbids to ask
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    assert storage_clients.has_credentials("s3")
    (tmp_path / "vendor").unlink()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    assert storage_clients.has_credentials("s3")


def test_requests_are_signed_where_there_are_keys(object_store, quick, monkeypatch):
    object_store.put("bucket/x", DATA)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for cached in (storage_clients.filesystem, storage_clients.store):
        cached.cache_clear()
    try:
        assert storage.read_whole("s3://bucket/x", quick) == DATA
    finally:
        for cached in (storage_clients.filesystem, storage_clients.store):
            cached.cache_clear()
    assert len(object_store.authorizations) == 2
    assert all("Credential=the key/" in authorization for authorization in object_store.authorizations)


ENDS_WHILE_ASKING = """
import sys, threading
from bioclip_jax.pipeline import storage
from bioclip_jax.pipeline.storage_clients import Patience
impatient = Patience(2, 2, 1)
for scheme in ("gs", "s3"):
    file = storage.RemoteFile(f"{scheme}://bucket/x", 3)
    assert file.pread(0, 1) == b"a"
    pending = storage.RemoteFile(f"{scheme}://bucket/{scheme}", 3).start(1, 2)
    ask = lambda scheme=scheme: storage.list_files(f"{scheme}://bucket/{scheme}-list", patience=impatient)
    threading.Thread(target=ask, daemon=True).start()
sys.stdin.read(1)
"""


def test_a_process_ends_though_the_server_stays_silent(object_store):
    object_store.put("bucket/x", b"abc")
    for scheme in ("gs", "s3"):
        object_store.fail("read", key=f"bucket/{scheme}", silent=True)
    object_store.fail("list", silent=True)
    command = [sys.executable, "-c", ENDS_WHILE_ASKING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy()) as process:
        for key in ("bucket/gs", "bucket/s3", "bucket/gs-list/", "bucket/s3-list/"):
            object_store.wait_for(1, key)
        _, stderr = process.communicate(b"x", timeout=60)  # half of what the server would take
        assert process.returncode == 0, stderr


def test_a_call_that_takes_too_long_is_left():
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"no answer within 0\.01 s"):
        storage_clients.within(0.01, lambda: never.wait(20))
    never.set()
    assert storage_clients.within(5, lambda: "value") == "value"
