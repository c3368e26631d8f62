"""One process at a time in a directory."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bioclip_jax.errors import UserError


@contextmanager
def exclusive(path: Path, busy: str) -> Iterator[None]:
    """Holds the lock file `path`; the system releases it however the process ends.

    Raises:
        UserError: another process holds it (the message is `busy`), or its file system has no locks.
    """
    while True:
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(busy) from None
            except OSError as error:  # Lustre and NFS may be mounted without
                raise UserError(
                    f"{path} cannot be locked ({error.strerror}); mount this file system with locks (Lustre: flock)"
                ) from None
            if _is_still(path, os.fstat(file.fileno())):
                yield
                return


def _is_still(path: Path, opened: os.stat_result) -> bool:
    """Whether `path` names the file that was opened: its last holder may have removed it in between."""
    try:
        return os.path.samestat(path.stat(), opened)
    except FileNotFoundError:
        return False
