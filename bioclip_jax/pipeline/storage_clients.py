"""Connections to object stores: credentials, endpoints, time limits, retries.

Credentials come from where the libraries look: the environment, the files of the `aws` and `gcloud` tools, the
machine's own role. Where none of these is there, requests are anonymous, as public buckets want them, and nobody waits
for a metadata service that does not exist. `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL` and `STORAGE_EMULATOR_HOST` name
other servers. What the environment says is read once a process.

Ranges are read by TensorStore: one request each, whose answer names the object's version, and which can be given up.
PyArrow lists and writes. (Its files on Google's storage also ask for the whole object as soon as they are opened.)
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pyarrow import fs

from bioclip_jax.errors import UserError

T = TypeVar("T")
_BYTES_PER_SECOND = 1_000_000  # the least that is waited for
_LONGEST_PAUSE = 16.0
_AT_A_TIME = 128  # requests for ranges in each bucket; TensorStore's own 32 are 220 a second where one takes 100 ms
# TensorStore's requests have no time limit, and one that was given up keeps its place among the few at a time until its
# connection ends. This ends it; tensorstore issue 291.
_STALLED = {"TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": "60", "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1"}
_VENDOR = Path("/sys/class/dmi/id/sys_vendor")
_DENIED = re.compile(
    r"ACCESS_DENIED|PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ACCESS_KEY|INVALID_CLIENT_TOKEN|SIGNATURE"
    r"|HTTP status 40[13]|http_response_code='40[13]'"
)
_MISSING = re.compile(r"NOT_FOUND|NO_SUCH_(?:KEY|BUCKET)|HTTP status 404|http_response_code='404'")
_WRONG = re.compile(
    r"INVALID_ARGUMENT|FAILED_PRECONDITION|OUT_OF_RANGE|HTTP status 4(?!08|29)\d\d|Error parsing object"
)
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or `gcloud auth application-default login`",
}


@dataclass(frozen=True)
class Patience:
    """How long a store is waited for.

    Attributes:
      connect_timeout: seconds for a connection (S3's lists and uploads; part of `timeout` otherwise).
      timeout: seconds for an answer, to which a second is added for each megabyte that is asked for.
      attempts: of a request that times out, or fails in a way that may pass.
      first_pause: seconds before the second attempt; doubled for each further one, up to 16.
    """

    connect_timeout: float = 5.0
    timeout: float = 30.0
    attempts: int = 5
    first_pause: float = 0.5

    def seconds(self, size: int = 0) -> float:
        """For one request that moves `size` bytes."""
        return self.timeout + size / _BYTES_PER_SECOND

    def pause(self, failures: int) -> float:
        """Seconds between the last failure and the next attempt."""
        return min(self.first_pause * 2 ** (failures - 1), _LONGEST_PAUSE)


PATIENCE = Patience()


def persistently(path: str, patience: Patience, request: Callable[[], T], failed: str = "cannot be read") -> T:
    """Does a request until it succeeds, as long as there is hope.

    Args:
      path: of the object, for messages.
      patience: how often to try.
      request: raises `TimeoutError`, `OSError` or `ValueError` where it fails.
      failed: what to say of the object.

    Raises:
      UserError: it is not there, access is denied, or the attempts are used up.
    """
    scheme, reason = path.partition("://")[0], ""
    for attempt in range(patience.attempts):
        if attempt:
            time.sleep(patience.pause(attempt))
        try:
            return request()
        except TimeoutError as error:
            reason = str(error) or "no answer in time"
        except FileNotFoundError:
            raise UserError(f"{path}: no such object") from None
        except (OSError, ValueError) as error:
            text, key = str(error), path.partition("://")[2].partition("/")[2]
            reason = _in_words(text)
            text = text.replace(key, "") if len(key) > 5 else text  # a name may look like a code
            if _DENIED.search(text):
                found = "" if has_credentials(scheme) else ", no credentials were found, so it was asked anonymously"
                hint = f"credentials are {_CREDENTIALS[scheme]}"
                raise UserError(f"{path} {failed}: access is denied ({reason}{found}); {hint}") from None
            if _MISSING.search(text):
                raise UserError(f"{path}: no such object ({reason})") from None
            if _WRONG.search(text):
                raise UserError(f"{path} {failed}: {reason}") from None
    raise UserError(f"{path} {failed}: {reason} ({patience.attempts} attempts)")


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` returns; raises `TimeoutError` where that takes longer, and leaves it to end by itself."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    # A daemon, unlike the threads of an executor, keeps no process from ending. PyArrow itself waits at exit for its S3
    # requests under way, which their own time limit ends; without that wait it crashes.
    threading.Thread(target=run, name="object storage", daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:g} s") from None


def has_credentials(scheme: str) -> bool:
    """Whether there is anything that may give credentials, by looking at no more than the environment and files."""
    environment = os.environ
    vendor = _VENDOR.read_text(errors="replace") if _VENDOR.is_file() else ""
    if scheme == "gs":
        home = Path(environment.get("CLOUDSDK_CONFIG", "~/.config/gcloud")).expanduser()
        file = Path(environment.get("GOOGLE_APPLICATION_CREDENTIALS") or home / "application_default_credentials.json")
        return not gcs_endpoint() and (file.is_file() or "Google" in vendor or "GCE_METADATA_HOST" in environment)
    names = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
    files = {"AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "AWS_CONFIG_FILE": "~/.aws/config"}
    return (
        any(environment.get(name) for name in (*names, "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"))
        or any(Path(environment.get(name, file)).expanduser().is_file() for name, file in files.items())
        or ("Amazon" in vendor and environment.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true")
    )


def s3_endpoint() -> str:
    """URL of the server, '' for Amazon's."""
    return (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "").rstrip("/")


def gcs_endpoint() -> str:
    """URL of the server, '' for Google's."""
    host = os.environ.get("STORAGE_EMULATOR_HOST", "").rstrip("/")
    return host if "://" in host or not host else f"http://{host}"


@lru_cache(64)
def filesystem(scheme: str, bucket: str, patience: Patience, attempts: int = 1) -> fs.FileSystem:
    """To list and write; `attempts` are the library's own, for each request.

    Raises:
      UserError: the region of an S3 bucket cannot be found.
    """
    if scheme == "gs":
        where = _host_and_scheme(gcs_endpoint())
        limit = timedelta(seconds=1 if attempts == 1 else patience.seconds() * attempts)
        return fs.GcsFileSystem(anonymous=not has_credentials("gs"), retry_time_limit=limit, **where)
    return fs.S3FileSystem(
        anonymous=not has_credentials("s3"),
        region=s3_region(bucket, patience),
        connect_timeout=patience.connect_timeout,
        request_timeout=patience.timeout,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        **_host_and_scheme(s3_endpoint()),
    )


@lru_cache(64)
def store(scheme: str, bucket: str, patience: Patience) -> Any:
    """A `tensorstore.KvStore`, to read.

    Raises:
      UserError: there cannot be such a bucket, or its region cannot be found.
    """
    import tensorstore

    for name, value in _STALLED.items():
        os.environ.setdefault(name, value)
    # Time limits and pauses are ours; it does not do without one retry.
    retries = {"max_retries": 1, "initial_delay": "1ms", "max_delay": "1ms"}
    limit = {"limit": _AT_A_TIME}
    if scheme == "gs":
        if gcs_endpoint():
            os.environ.setdefault("TENSORSTORE_GCS_HTTP_URL", gcs_endpoint())
        spec = {
            "driver": "gcs",
            "bucket": bucket,
            "context": {"gcs_request_retries": retries, "gcs_request_concurrency": limit},
        }
    else:
        keys = "environment" if os.environ.get("AWS_ACCESS_KEY_ID") else "default"
        spec = {
            "driver": "s3",
            "bucket": bucket,
            "aws_region": s3_region(bucket, patience),
            "aws_credentials": {"type": keys if has_credentials("s3") else "anonymous"},
            "context": {"s3_request_retries": retries, "s3_request_concurrency": limit},
        }
        if s3_endpoint():
            spec["endpoint"] = s3_endpoint()
    path = f"{scheme}://{bucket}"
    return persistently(path, patience, lambda: tensorstore.KvStore.open(spec).result(timeout=patience.seconds()))


@lru_cache(64)
def s3_region(bucket: str, patience: Patience) -> str:
    """As the environment has it, or as Amazon says of the bucket; other servers do not care."""
    named = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if named or s3_endpoint():
        return named or "us-east-1"
    ask = lambda: within(patience.seconds(), lambda: fs.resolve_s3_region(bucket))  # noqa: E731
    return persistently(f"s3://{bucket}", patience, ask, "has no region that could be found (AWS_REGION names one)")


def _host_and_scheme(url: str) -> dict[str, str]:
    scheme, _, host = url.partition("://")
    return {"endpoint_override": host, "scheme": scheme} if url else {}


def _in_words(text: str) -> str:
    """The one thing that a user wants to know of an error's text."""
    text = re.sub(r"^[A-Z_]+: (?:All \d+ retry attempts failed: )?", "", text)
    text = re.sub(r"^google::cloud::Status\((?:.*with a last message of )?", "", text, flags=re.S)
    code = re.search(r"http_response_code='(\d+)'", text)
    text = re.split(r" error_info=| \[\w+='|\n", text)[0].strip(" .")[:300]
    return f"{text} (HTTP status {code[1]})" if code else text
