"""One process at a time in a directory."""

import errno
import fcntl

import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.lock import exclusive

pytestmark = pytest.mark.core


def test_the_second_one_is_told_that_it_is_busy(tmp_path):
    with (
        exclusive(tmp_path / "lock", "busy"),
        pytest.raises(UserError, match="busy"),
        exclusive(tmp_path / "lock", "busy"),
    ):
        pass
    with exclusive(tmp_path / "lock", "busy"):  # it is free again
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    message = r"lock cannot be locked \(Function not implemented\); mount"
    with pytest.raises(UserError, match=message), exclusive(tmp_path / "lock", "busy"):
        pass
