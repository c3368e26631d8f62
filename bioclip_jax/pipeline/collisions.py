"""Finds training photos that are also in an evaluation set, by BioCLIP 2's rule.

A photo collides if its file has the MD5 of an evaluation image, or if the PDQ hashes of the two differ in less than 10
of 256 bits. The search is exact: of ten groups of bits, nine differing bits leave one untouched, so only hashes that
share a group with the query are compared.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.images import ImageError, decode
from bioclip_jax.pipeline.ordered import ordered_map
from bioclip_jax.pipeline.pdq import PDQ_BYTES, pdq_hash
from bioclip_jax.pipeline.progress import RecordProgress

PDQ_DISTANCE = 10
"""Bits; less than this is the same picture (TreeOfLife-200M)."""

StrPath = str | os.PathLike[str]

_SUFFIXES = frozenset(".jpg .jpeg .jpe .png .webp .gif .bmp .tif .tiff .jp2 .ppm .pgm".split())
_BANDS, _BITS = PDQ_DISTANCE, 8 * PDQ_BYTES
_SPANS = [(_BITS * band // _BANDS, _BITS * (band + 1) // _BANDS) for band in range(_BANDS)]
_NAMED = 3
_NO_HASH = bytes(PDQ_BYTES)  # of a picture too small to have one


class Collisions:
    """What evaluation images look like; picklable, safe to use from many threads.

    Args:
      files: names of the evaluation images.
      md5: the MD5 digest of each, 16 bytes.
      pdq: the PDQ hash of each, 32 bytes; None where it could not be decoded.
      unreadable: files that could not be read or decoded, with the reason.

    Attributes:
      unreadable: as given.
      needs_pdq: whether any image has a PDQ hash, so that `find` wants one.
      fingerprint: SHA-256 over all the hashes in hexadecimal, whatever the order and names of the files.
    """

    def __init__(
        self,
        files: Sequence[str],
        md5: Sequence[bytes],
        pdq: Sequence[bytes | None],
        unreadable: Sequence[str] = (),
    ):
        self.unreadable = tuple(unreadable)
        self._files = tuple(files)
        self._by_md5 = {digest: place for place, digest in reversed(list(enumerate(md5)))}
        by_pdq = {code: place for place, code in reversed(list(enumerate(pdq))) if code and code != _NO_HASH}
        self._places = np.array(list(by_pdq.values()), np.int64)
        self._codes = np.frombuffer(b"".join(by_pdq), np.uint64).reshape(-1, PDQ_BYTES // 8)
        # One sorted list of (band, its bits) over all hashes, and beside it which hash each is of.
        keys = np.array([_band_keys(code) for code in by_pdq], np.uint64).reshape(-1, _BANDS)
        order = np.argsort(keys, axis=None, kind="stable")
        self._keys, self._owners = keys.ravel()[order], (order // _BANDS).astype(np.uint32)
        self.needs_pdq = bool(by_pdq)
        hashes = b"".join([*sorted(self._by_md5), b"/", *sorted(by_pdq)])
        self.fingerprint = hashlib.sha256(hashes).hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def find(self, md5: bytes, pdq: bytes | None = None) -> str:
        """The evaluation image that a photo collides with: the same file, else the one with the nearest PDQ hash.

        Args:
          md5: of the file's bytes, 16 bytes.
          pdq: its PDQ hash, 32 bytes; without it only the MD5 is compared.

        Returns:
          the file's name; '' if there is none.
        """
        place = self._by_md5.get(md5)
        if place is None and pdq is not None and self.needs_pdq:
            place = self._nearest(pdq)
        return "" if place is None else self._files[place]

    def _nearest(self, pdq: bytes) -> int | None:
        keys = np.array(_band_keys(pdq), np.uint64)
        starts = self._keys.searchsorted(keys, "left")
        ends = self._keys.searchsorted(keys, "right")
        found = [self._owners[start:end] for start, end in zip(starts, ends, strict=True) if start < end]
        if not found:
            return None
        owners = np.concatenate(found)
        distances = np.bitwise_count(self._codes[owners] ^ np.frombuffer(pdq, np.uint64)).sum(axis=1)
        nearest = int(distances.argmin())
        return int(self._places[owners[nearest]]) if distances[nearest] < PDQ_DISTANCE else None

    def lines(self) -> list[str]:
        """What was read, for people."""
        lines = [f"{len(self):,} evaluation images, {len(self._places):,} different ones by PDQ hash"]
        if self.unreadable:
            lines.append(f"{len(self.unreadable):,} files cannot be decoded; they are compared by MD5 at best:")
            lines += [f"  {name}" for name in self.unreadable[:_NAMED]]
            lines += [f"  and {more:,} more"] if (more := len(self.unreadable) - _NAMED) > 0 else []
        return lines


def read_collisions(
    paths: Sequence[StrPath], *, threads: int | None = None, console: Console | None = None
) -> Collisions:
    """Reads and hashes the images of evaluation sets; one that cannot be decoded is counted, named and kept by its MD5.

    Args:
      paths: folders, searched through for image files by their suffix, or image files.
      threads: that read; one per CPU if not given.
      console: for the progress; standard error if not given.

    Raises:
      UsageError: a path does not exist or holds no image files.
      UserError: a folder cannot be searched.
    """
    files = [file for path in paths for file in _image_files(Path(path))]
    threads, console = threads or os.cpu_count() or 1, console or Console(stderr=True)
    names, digests, codes, unreadable = [], [], [], []
    with (
        ThreadPoolExecutor(threads) as pool,
        RecordProgress(len(files), "reading evaluation sets", console, "images") as progress,
    ):
        for path, (md5, pdq, problem) in zip(
            files, ordered_map(pool, lambda index: _hashes(files[index]), range(len(files)), 4 * threads), strict=True
        ):
            if md5 is not None:
                names.append(str(path))
                digests.append(md5)
                codes.append(pdq)
            if problem:
                unreadable.append(f"{path}: {problem}")
            progress.advance(note=f"{len(unreadable):,} unreadable" if unreadable else "")
    collisions = Collisions(names, digests, codes, unreadable)
    console.print("\n".join(collisions.lines()), highlight=False, markup=False, soft_wrap=True)
    return collisions


def _image_files(path: Path) -> Iterator[Path]:
    """The image files at or below `path`, in order of their names."""
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise UsageError(f"evaluation set {path}: no such folder")
    count = 0
    for folder, folders, names in os.walk(path, onerror=_refuse):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in _SUFFIXES:  # noqa: PTH122 a Path for each of millions takes longer
                count += 1
                yield Path(folder, name)
    if not count:
        raise UsageError(f"evaluation set {path}: no image files below it")


def _refuse(error: OSError) -> None:
    raise UserError(f"evaluation set: {error.filename} cannot be searched: {error.strerror}") from error


def _hashes(path: Path) -> tuple[bytes | None, bytes | None, str]:
    """MD5 and PDQ of an image file, and why one is missing."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, None, error.strerror or str(error)
    md5 = hashlib.md5(data, usedforsecurity=False).digest()
    try:
        return md5, pdq_hash(decode(data)), ""
    except ImageError as error:
        return md5, None, error.reason


def _band_keys(code: bytes) -> list[int]:
    """For each of ten groups of neighbouring bits its number, and below it what it holds."""
    bits = int.from_bytes(code, "big")
    return [band << 32 | (bits >> low) & ((1 << (high - low)) - 1) for band, (low, high) in enumerate(_SPANS)]
