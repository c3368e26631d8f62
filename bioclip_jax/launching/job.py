"""What is launched, whatever launches it: one image, one command, its environment, a work directory, and a policy.

`docs/launch.md` says what each target makes of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from bioclip_jax.errors import UsageError
from bioclip_jax.launching.supervise import RUN_AGAIN

GCS = "gs://"
LONGEST_NAME = 40
"""Of a job: engines append what tells slices, hosts and attempts apart, and a label has at most 63 letters."""
RESTARTED = (RUN_AGAIN, *range(129, 256))
"""Exit codes after which a job is started again: it asked for it, or a signal ended it (128 and its number)."""


@dataclasses.dataclass(frozen=True)
class WorkDir:
    """The folder of a run, which all of its hosts see as the same one."""

    folder: str
    """As the job sees it."""
    bucket: str = ""
    """The Cloud Storage bucket that is mounted for it; '' for a disk that the hosts share."""
    mount: str = ""
    """Where the bucket is mounted."""

    @property
    def visible(self) -> str:
        """What a container has to see of this machine's disks: a folder that is there before the run makes its own."""
        parent = str(Path(self.folder).parent)
        return self.mount or (parent if parent != "/" else self.folder)

    @property
    def url(self) -> str:
        """As the user gave it."""
        return f"{GCS}{self.bucket}{self.folder.removeprefix(self.mount)}" if self.bucket else self.folder


@dataclasses.dataclass(frozen=True)
class Cache:
    """Fast room on each host for files of datasets that lie in object storage."""

    kind: Literal["ram", "local-ssd"]
    gigabytes: int
    shares: Mapping[str, float]
    """What part of it each stream has: {'data': 0.9, 'replay': 0.1}."""

    def flags(self, folder: str) -> tuple[str, ...]:
        """Fields of the config. A tenth stays free: a volume that overflows ends the job."""
        flags = []
        for stream, share in self.shares.items():
            limit = int(self.gigabytes * 0.9 * share * 10**9)
            flags += [f"--{stream}.cache-folder", f"{folder}/{stream}", f"--{stream}.cache-bytes", str(limit)]
        return tuple(flags)


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to be started somewhere."""

    name: str
    """Letters, digits and dashes: a valid name for every engine."""
    config: str
    """A built-in config, as bioclip2; or the path of the user's file on this machine."""
    work_dir: WorkDir
    fields: tuple[str, ...] = ()
    """Flags of `bioclip-jax train` that change the config."""
    variant: str = ""
    """Which one of a grid."""
    config_text: str = ""
    """What the user's file holds; '' for a built-in config."""
    reads: tuple[str, ...] = ()
    """Paths on disks that the config names besides: of datasets, weights and benchmarks."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    max_restarts: int = 50
    grace_seconds: int = 300
    """Between SIGTERM and SIGKILL: time for all processes to agree on a step, and to save."""
    cache: Cache | None = None
    spot: bool = False
    """Machines that may be taken away at any time."""

    def command(self, config_at: str = "", cache_folder: str = "") -> tuple[str, ...]:
        """The words to run on every host.

        Args:
            config_at: where the user's config file lies there; the path on this machine if not given.
            cache_folder: where the cache is mounted, if there is one.
        """
        config = config_at if config_at and self.config_text else self.config
        config += f":{self.variant}" if self.variant else ""
        cache = self.cache.flags(cache_folder) if self.cache and cache_folder else ()
        return "bioclip-jax", "train", config, "--work-dir", self.work_dir.folder, *self.fields, *cache


def parse_work_dir(text: str, mounts: str = "/gcs") -> WorkDir:
    """A shared folder, or gs://BUCKET/FOLDER, which will be mounted in the folder `mounts`.

    Raises:
        UsageError: neither, or a bucket without a folder in it.
    """
    if any(not letter.isprintable() for letter in text):
        raise UsageError(f"--work-dir {text!r} holds letters that cannot be printed; choose another folder")
    if not text.startswith(GCS):
        if re.match(r"\w+://", text):
            raise UsageError(
                f"--work-dir {text} is neither a folder nor {GCS}BUCKET/FOLDER; mount it, and give the folder"
            )
        if not text.strip("/"):
            raise UsageError(f"--work-dir is {text!r}; give a folder of its own")
        return WorkDir(text.rstrip("/"))
    bucket, _, folder = text.removeprefix(GCS).partition("/")
    parts = [part for part in folder.split("/") if part]
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]", bucket) or not parts or {".", ".."} & set(parts):
        raise UsageError(
            f"--work-dir {text} has to be {GCS}BUCKET/FOLDER: a bucket's name (3 letters or more), and a folder in it"
        )
    return WorkDir("/".join([mounts, bucket, *parts]), bucket, f"{mounts}/{bucket}")


def job_name(text: str) -> str:
    """A valid name from any text: lower case, dashes, a letter first; long ones are cut and marked by their hash."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name or not name[0].isalpha():
        name = f"run-{name}".rstrip("-")
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 7].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
    return name


def require_name(name: str) -> str:
    """A name that the user gave.

    Raises:
        UsageError: some engine would refuse it.
    """
    if not re.fullmatch(rf"[a-z]([a-z0-9-]{{0,{LONGEST_NAME - 2}}}[a-z0-9])?", name):
        raise UsageError(
            f"--name is {name!r}; it has to be lower-case letters, digits and dashes, begin with a letter, and have at "
            f"most {LONGEST_NAME} of them"
        )
    return name


def name_of(config: str, work_dir: WorkDir) -> str:
    """The name of a job that was given none: of its config and the last part of its work directory."""
    return job_name(f"{Path(config.partition(':')[0]).stem}-{Path(work_dir.folder).name}")
