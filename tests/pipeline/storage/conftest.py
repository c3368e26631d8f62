"""A server that answers as S3 and as Google Cloud Storage do, as far as clients ask, and fails when it is told to."""

import json
import re
import threading
import urllib.parse
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from xml.sax.saxutils import escape

import pytest

from bioclip_jax.pipeline import storage_clients
from bioclip_jax.pipeline.storage_clients import Patience

QUICK = Patience(connect_timeout=5, timeout=5, attempts=3, first_pause=0.01)


class Request(NamedTuple):
    kind: str  # read, status, list or write
    key: str  # with its bucket
    start: int
    length: int


@dataclass
class Fault:
    """What happens instead of an answer, to the next `times` requests of a kind, for any key if none is given."""

    kind: str
    key: str = ""
    status: int = 0
    truncated: bool = False
    silent: bool = False
    times: int = 1_000


class ObjectStore:
    """Objects by `BUCKET/KEY`, the requests there were, and the faults to come."""

    def __init__(self):
        self.lock = threading.Condition()
        self.release = threading.Event()
        self.reset()

    def reset(self):
        self.release.set()  # whoever keeps a client waiting
        self.release = threading.Event()
        self.objects, self.versions, self.requests, self.faults, self.uploads = {}, Counter(), [], [], {}
        self.authorizations = []

    def put(self, key, data):
        with self.lock:
            self.objects[key] = bytes(data)
            self.versions[key] += 1

    def fail(self, kind, **fault):
        self.faults.append(Fault(kind, **fault))

    def count(self, kind, key=None):
        return sum(request.kind == kind and key in (None, request.key) for request in self.requests)

    def wait_for(self, requests, key):
        """Waits until there have been so many for a key."""
        with self.lock:
            came = self.lock.wait_for(lambda: sum(request.key == key for request in self.requests) >= requests, 20)
        assert came, f"{self.requests} were all"

    def ranges(self, key):
        return [(request.start, request.length) for request in self.requests if request[:2] == ("read", key)]

    def next_fault(self, request):
        with self.lock:
            self.requests.append(request)
            self.lock.notify_all()
            for fault in self.faults:
                if fault.kind == request.kind and fault.key in ("", request.key) and fault.times:
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: ObjectStore

    def log_message(self, *arguments):
        pass

    def answer(self, status=200, body=b"", headers=(), truncated=False):
        try:
            self.send_response(status)
            for name, value in dict(headers).items():
                self.send_header(name, str(value))
            if "Content-Length" not in dict(headers):
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if truncated else body)
        except OSError:  # the client had enough
            truncated = True
        self.close_connection |= truncated

    def body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            data = self.chunks()
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            plain, place = b"", 0
            while size := int(re.compile(rb"[0-9a-f]+", re.I).match(data, place)[0], 16):
                place = data.index(b"\r\n", place) + 2
                plain, place = plain + data[place : place + size], place + size + 2
            return plain
        return data

    def chunks(self):
        data = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return data

    def handle_any(self):
        path, _, query = self.path.partition("?")
        self.query = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        self.store.authorizations.append(self.headers.get("Authorization"))
        google = re.fullmatch(r"(/upload)?/storage/v1/b/([^/]+)/o(?:/(.+))?", path)
        if path.startswith("/computeMetadata/"):
            self.answer(404)  # this is none of Google's machines
        elif google:
            self.google(google[1], google[2], urllib.parse.unquote(google[3] or ""))
        else:
            self.amazon(*urllib.parse.unquote(path).lstrip("/").partition("/")[::2])

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def failed(self, kind, key, start=0, length=0):
        """Whether a fault has answered this request."""
        release, fault = self.store.release, self.store.next_fault(Request(kind, key, start, length))
        self.truncated = bool(fault and fault.truncated)
        if fault and fault.silent:
            release.wait(120)
            self.close_connection = True
            return True
        if fault and fault.status:
            self.answer(fault.status)
            return True
        return False

    def read(self, key, headers):
        data = self.store.objects.get(key)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "bytes=0-")
        start = int(wanted[1])
        stop = min(int(wanted[2] or 1 << 60) + 1, len(data or b""))
        if self.failed("read", key, start, stop - start):
            return
        if data is None:
            self.answer(404)
        elif start >= stop and data:
            self.answer(416)
        else:
            ranged = {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"} if "Range" in self.headers else {}
            self.answer(206 if ranged else 200, data[start:stop], {**headers, **ranged}, self.truncated)

    def amazon(self, bucket, key):
        store, where = self.store, f"{bucket}/{key}"
        headers = {"ETag": f'"{store.versions[where]}"', "Last-Modified": self.date(where)}
        if self.command == "GET" and "list-type" in self.query:
            self.amazon_list(bucket)
        elif self.command == "GET":
            self.read(where, headers)
        elif self.command == "HEAD":
            if not self.failed("status", where):
                size = {"Content-Length": len(store.objects[where])} if where in store.objects else {}
                self.answer(200 if size else 404, b"", headers | size)
        elif self.command == "DELETE":
            store.objects.pop(where, None)
            self.answer(204)
        else:
            self.amazon_write(where, headers, self.body())

    def amazon_write(self, where, headers, data):
        if self.failed("write", where):
            return
        store, upload = self.store, self.query.get("uploadId")
        if "uploads" in self.query:
            store.uploads[where] = {}
            self.answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")
        elif upload and self.command == "PUT":
            store.uploads[where][int(self.query["partNumber"])] = data
            self.answer(200, b"", headers)
        elif upload:
            store.put(where, b"".join(data for _, data in sorted(store.uploads.pop(where).items())))
            self.answer(200, b"<CompleteMultipartUploadResult><ETag>1</ETag></CompleteMultipartUploadResult>")
        else:
            store.put(where, data)
            self.answer(200, b"", headers)

    def amazon_list(self, bucket):
        if self.failed("list", f"{bucket}/{self.query.get('prefix', '')}"):
            return
        found, folders = self.listing(bucket)
        sizes = {key: len(self.store.objects[f"{bucket}/{key}"]) for key in found}
        seconds = {key: f"{self.store.versions[f'{bucket}/{key}'] % 60:02}" for key in found}
        files = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{sizes[key]}</Size>"
            f"<LastModified>2026-01-01T00:00:{seconds[key]}.000Z</LastModified></Contents>"
            for key in found
        )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(f)}</Prefix></CommonPrefixes>" for f in folders)
        body = f"<ListBucketResult><KeyCount>{len(found) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
        self.answer(200, f"{body}{files}{prefixes}</ListBucketResult>".encode(), {"Content-Type": "application/xml"})

    def google(self, upload, bucket, key):
        store, where = self.store, f"{bucket}/{key}"
        if upload:
            self.google_write(bucket, self.body())
        elif not key:
            if not self.failed("list", f"{bucket}/{self.query.get('prefix', '')}"):
                found, folders = self.listing(bucket)
                items = [self.metadata(f"{bucket}/{key}") for key in found]
                self.answer(200, json.dumps({"items": items, "prefixes": folders}).encode())
        elif self.query.get("alt") == "media":
            self.read(where, {"x-goog-generation": store.versions[where]})
        elif self.command == "DELETE":
            store.objects.pop(where, None)
            self.answer(204)
        elif not self.failed("status", where):
            known = where in store.objects
            self.answer(200 if known else 404, json.dumps(self.metadata(where)).encode() if known else b"")

    def google_write(self, bucket, data):
        if self.failed("write", f"{bucket}/{self.query.get('name', '')}"):
            return
        store, upload = self.store, self.query.get("upload_id")
        if self.command == "POST":
            store.uploads["1"] = f"{bucket}/{self.query['name']}", b""
            self.answer(200, b"", {"Location": f"http://{self.headers['Host']}{self.path}&upload_id=1"})
            return
        where, before = store.uploads[upload]
        store.uploads[upload] = where, before + data
        if self.headers["Content-Range"].endswith("/*"):
            self.answer(308, b"", {"Range": f"bytes=0-{len(before + data) - 1}"})
        else:
            store.put(where, before + data)
            self.answer(200, json.dumps(self.metadata(where)).encode())

    def listing(self, bucket):
        """The keys, and the folders, that begin with what is asked for."""
        prefix, folders, found = self.query.get("prefix", ""), set(), []
        for where in sorted(self.store.objects):
            key = where.removeprefix(f"{bucket}/")
            if where == key or not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(self.query.get("delimiter") or "\0")
            if cut:
                folders.add(f"{prefix}{head}{cut}")
            else:
                found.append(key)
        return found, sorted(folders)

    def metadata(self, where):
        bucket, _, key = where.partition("/")
        version = self.store.versions[where]
        moment = f"2026-01-01T00:00:{version % 60:02}.250Z"
        fields = {"generation": str(version), "metageneration": "1", "size": str(len(self.store.objects[where]))}
        return {
            "kind": "storage#object",
            "name": key,
            "bucket": bucket,
            "updated": moment,
            "timeCreated": moment,
        } | fields

    def date(self, where):
        return f"Thu, 01 Jan 2026 00:00:{self.store.versions[where] % 60:02} GMT"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # clients connect many times at once


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The server, which the environment names as both S3 and Google Cloud Storage; nothing else there counts."""
    store = ObjectStore()
    server = Server(("127.0.0.1", 0), type("Bound", (Handler,), {"store": store}))
    url, nowhere = f"http://127.0.0.1:{server.server_port}", str(tmp_path_factory.mktemp("nowhere"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
            patch.delenv(name, raising=False)
        for name in ("TENSORSTORE_GCS_HTTP_URL", "GOOGLE_APPLICATION_CREDENTIALS", "HTTP_PROXY", "http_proxy"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("STORAGE_EMULATOR_HOST", url)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", "1")
        patch.setenv("GCE_METADATA_ROOT", url.removeprefix("http://"))
        patch.setenv("CLOUDSDK_CONFIG", nowhere)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{nowhere}/credentials")
        patch.setenv("AWS_CONFIG_FILE", f"{nowhere}/config")
        forget()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield store
        store.reset()
        server.shutdown()
        server.server_close()
        thread.join()
        for name in ("TENSORSTORE_GCS_HTTP_URL", "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES"):
            patch.delenv(name, raising=False)
        forget()


def forget():
    for cached in (storage_clients.filesystem, storage_clients.store, storage_clients.s3_region):
        cached.cache_clear()


@pytest.fixture
def object_store(server, tmp_path, monkeypatch):
    """An empty object store."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    server.reset()
    yield server
    server.reset()


@pytest.fixture
def quick():
    """Patience that a test has."""
    return QUICK
