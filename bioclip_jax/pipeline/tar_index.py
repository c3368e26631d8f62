"""Indexes of tars: where each sample lies, so that any one can be read by itself from the tar as it is.

One pass over the headers makes an index (`tar_index_file`), and a tar that has changed gets another. It holds where
each sample begins and ends and where its photo lies. What else a sample has stands in its own headers, which are read
along with it: a table of all members would be several times as large, and could not tell that the tar has changed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.pipeline.storage import FileStatus, listed
from bioclip_jax.pipeline.storage_clients import PATIENCE, Patience
from bioclip_jax.pipeline.tar_files import StrPath, TarFile, open_tar_file, tar_status
from bioclip_jax.pipeline.tar_headers import BLOCK, Plain, TarDamage, read_member, walk
from bioclip_jax.pipeline.tar_index_file import (
    EXAMPLES,
    IndexNotWritten,
    Note,
    TarSummary,
    index_path,
    read_summary,
    write_index,
)
from bioclip_jax.pipeline.tar_samples import TarTooLarge, group, key_and_suffix

DUPLICATE = "key seen before"
_THREADS = 32  # that look at indexes and tars: on network file systems each look is a round trip
_COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}


def index_tar(
    tar: StrPath, *, allow_damaged: bool = False, patience: Patience = PATIENCE
) -> tuple[TarSummary, np.ndarray]:
    """Looks through a tar once; writes nothing.

    Args:
      tar: path of an uncompressed tar.
      allow_damaged: where the tar breaks off take what lies whole before; else it is refused.
      patience: how long to wait for an object store.

    Returns:
      its summary, and its samples in order as an array of `tar_samples.SAMPLE`.

    Raises:
      UserError: there is no such file, it is no tar, compressed, damaged, or changed while it was read.
    """
    file = open_tar_file(tar, patience=patience)
    before = file.status()
    notes: dict[str, Note] = {}
    members = 0
    damage: TarDamage | None = None

    def noted(kind: str, name: bytes) -> None:
        notes.setdefault(kind, Note()).add(name)

    def plain_files() -> Iterator[Plain]:
        nonlocal members, damage
        try:
            for plain in walk(file.read_into, before.size, noted):
                members += len(plain.names)
                yield plain
        except TarDamage as error:
            damage = error

    _refuse_compressed(tar, file)
    try:
        samples = np.concatenate(list(group(plain_files(), noted)))
    except TarTooLarge as error:
        raise UserError(f"tar {tar}: {error}") from None
    if damage:
        samples = samples[:-1]  # its last members may be missing
    if damage and not damage.offset:
        raise UserError(f"tar {tar} is not a tar file, or damaged {damage}")
    if damage and not (allow_damaged and len(samples)):
        raise _damaged(tar, str(damage), len(samples))
    _note_duplicates(file, samples, notes)
    fingerprint, after = file.fingerprint(), file.status()
    if after != before:
        raise UserError(f"tar {tar} was changed while it was read; index it when it is finished")
    summary = TarSummary(
        os.fspath(tar), len(samples), members, before.size, before.mtime_ns, fingerprint, str(damage or ""), notes
    )
    return summary, samples


def ensure_index(
    tar: StrPath, index_folder: StrPath | None = None, *, allow_damaged: bool = False, patience: Patience = PATIENCE
) -> TarSummary:
    """The summary of a tar; makes its index unless one is there that fits.

    Raises:
      UserError: see `index_tar` and `tar_index_file.write_index`.
    """
    summary = _fitting(tar, index_folder, allow_damaged, patience)
    if summary is None:
        summary, samples = index_tar(tar, allow_damaged=allow_damaged, patience=patience)
        write_index(index_path(tar, index_folder), summary, samples)
    return summary


def index_tars(
    paths: Sequence[StrPath],
    index_folder: StrPath | None = None,
    *,
    processes: int | None = None,
    allow_damaged: bool = False,
    console: Console | None = None,
    patience: Patience = PATIENCE,
) -> list[TarSummary]:
    """Makes the indexes that are not there yet. Stopped at any moment and started again, it goes on where it was.

    Args:
      paths: of the tars.
      index_folder: where the indexes go; if not given, beside the tars or where `index_path` says.
      processes: that look through tars, one per CPU if not given; 1 is this process itself. A script that asks for more
        must begin under `if __name__ == "__main__":`, because each process imports it.
      allow_damaged: see `index_tar`.
      console: for the progress; standard error if not given.
      patience: how long to wait for an object store.

    Returns:
      the summary of each tar, in the order of `paths`.

    Raises:
      UsageError: the indexes of two tars would have the same place.
      UserError: a tar is missing; or some cannot be indexed, and all others have their index by then.
    """
    _check_places(paths, index_folder)
    failures: dict[int, UserError] = {}
    found: list[TarSummary | None] = [None] * len(paths)
    known = listed([path for path in paths if isinstance(path, str)], patience)
    with ThreadPoolExecutor(_THREADS) as pool:
        looks = [
            pool.submit(_fitting, path, index_folder, allow_damaged, patience, known.get(os.fspath(path)))
            for path in paths
        ]
        for place, look in enumerate(looks):
            try:
                found[place] = look.result()
            except UserError as error:
                failures[place] = error
    if failures:  # before hours are spent on the others
        raise _failed(failures, len(paths))
    missing = [place for place, summary in enumerate(found) if summary is None]
    if missing:
        with RecordProgress(len(paths), "indexing", console, unit="tars") as progress:
            progress.skip(len(paths) - len(missing))
            make = partial(ensure_index, index_folder=index_folder, allow_damaged=allow_damaged, patience=patience)
            for place, result in _results(make, {place: paths[place] for place in missing}, processes):
                if isinstance(result, UserError):
                    failures[place] = result
                else:
                    found[place] = result
                progress.advance(note=f"{len(failures)} cannot be indexed" if failures else "")
    if failures:
        raise _failed(failures, len(paths))
    return [summary for summary in found if summary is not None]


def _results(
    make: Callable[[StrPath], TarSummary], tars: Mapping[int, StrPath], processes: int | None
) -> Iterator[tuple[int, TarSummary | UserError]]:
    """The summary of each tar, or why there is none, as they come."""
    workers = min(processes or os.cpu_count() or 1, len(tars))
    if workers == 1:
        for place, tar in tars.items():
            try:
                yield place, make(tar)
            except IndexNotWritten:
                raise
            except UserError as error:
                yield place, error
        return
    # A fork of a process with threads, such as JAX's, may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        futures = {pool.submit(make, tar): place for place, tar in tars.items()}
        for future in as_completed(futures):
            failure = future.exception()
            if isinstance(failure, UserError) and not isinstance(failure, IndexNotWritten):
                yield futures[future], failure
            else:
                yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _fitting(
    tar: StrPath, index_folder: StrPath | None, allow_damaged: bool, patience: Patience, now: FileStatus | None = None
) -> TarSummary | None:
    """The summary of a tar whose index is there."""
    now = now or tar_status(tar, patience)
    summary = read_summary(tar, index_path(tar, index_folder), now, patience)
    if summary is not None and summary.damage and not allow_damaged:
        raise _damaged(tar, summary.damage, summary.samples)
    return summary


def _check_places(paths: Sequence[StrPath], index_folder: StrPath | None) -> None:
    places: dict[Path, StrPath] = {}
    for path in paths:
        other = places.setdefault(index_path(path, index_folder), path)
        if other is not path:
            if Path(other) == Path(path):
                raise UsageError(f"tar {path} is given twice")
            raise UsageError(f"tars {other} and {path} would have the same index in {index_folder}; use two folders")


def _refuse_compressed(tar: StrPath, file: TarFile) -> None:
    buffer = bytearray(BLOCK)
    head = bytes(buffer[: file.read_into(memoryview(buffer), 0)])
    if not head:
        raise UserError(f"tar {tar} is empty")
    for magic, name in _COMPRESSIONS.items():
        if head.startswith(magic) and head[257:262] != b"ustar":
            raise UserError(f"tar {tar} is compressed ({name}), so no sample can be read by itself; decompress it")


def _note_duplicates(file: TarFile, samples: np.ndarray, notes: dict[str, Note]) -> None:
    """Counts the samples whose key was there before, and names the first few."""
    order = np.argsort(samples["key_hash"], kind="stable")
    hashes = samples["key_hash"][order]
    again = np.sort(order[1:][hashes[1:] == hashes[:-1]])
    for place in again[:EXAMPLES]:
        member = read_member(file.pread, int(samples["start"][place]) * BLOCK)
        split = key_and_suffix(member.name) if member else None
        notes.setdefault(DUPLICATE, Note()).add(split[0] if split else b"")
    if len(again):
        notes[DUPLICATE].count = len(again)


def _damaged(tar: StrPath, damage: str, samples: int) -> UserError:
    use = f", or allow damaged tars to use the {samples:,} samples before that" if samples else ""
    hint = f"copy it again{use}"
    return UserError(f"tar {tar} is damaged {damage}; {hint}")


def _failed(failures: Mapping[int, UserError], tars: int) -> UserError:
    errors = [failures[place] for place in sorted(failures)]
    if tars == 1:
        return errors[0]
    more = f"; and {len(failures) - EXAMPLES:,} more" if len(failures) > EXAMPLES else ""
    listed = "; ".join(str(error) for error in errors[:EXAMPLES])
    return UserError(f"{len(failures):,} of {tars:,} tars cannot be used: {listed}{more}")
