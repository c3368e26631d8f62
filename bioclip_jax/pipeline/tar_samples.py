"""The samples of a tar: members in a row whose names agree up to the first dot, and where the photo of each lies.

The rule is webdataset's. The folder in front of a name is part of the key, so that two folders do not collide.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.tar_headers import BLOCK, Plain

SAMPLE = np.dtype([("start", "<u4"), ("blocks", "<u4"), ("image", "<u4"), ("image_bytes", "<u4"), ("key_hash", "<u8")])
"""A sample in an index, 24 bytes: its first header, its length, and where in it the photo begins, all in blocks of 512
bytes; the photo's size in bytes. `image` 0 stands for no usable photo, and `image_bytes` then for which problem."""

IMAGE_SUFFIXES = (b"jpg", b"jpeg", b"png", b"webp")
PROBLEMS = ("no image", "image is empty", "image of 2 GB or more")
"""Why a sample has no usable photo."""
UNSAFE, NAMELESS, COMPRESSED = "unsafe path", "name without a dot", "compressed member"
IN_FOLDER = "key with a folder"
_COMPRESSED = re.compile(rb"(?:.*\.)?(?:gz|bz2|xz|zst|lz4)")
_IMAGE_LIMIT = 1 << 31
_BLOCK_LIMIT = 1 << 32
_ROWS = 1 << 16  # given out at a time
_KNOWN_SUFFIXES = 64
Noted = Callable[[str, bytes], None]


class TarTooLarge(UserError):
    """The index has no numbers for places in it."""


def key_and_suffix(name: bytes) -> tuple[bytes, bytes] | None:
    """`folder/key.some.TXT` -> (`folder/key`, `some.txt`), the suffix in lower case; None where there is no key."""
    name = name.removeprefix(b"./")
    folder = name.rfind(b"/") + 1
    dot = name.find(b".", folder)
    return (name[:dot], name[dot + 1 :].lower()) if dot > folder else None


def is_unsafe(name: bytes) -> bool:
    """Whether a member's name would lead out of the folder that it is unpacked in."""
    return name.startswith(b"/") or b".." in name.split(b"/")


def key_hash(key: bytes) -> int:
    """64 bits that stand for a key."""
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


class _Suffixes:
    """Gives each suffix a bit, so that the suffixes of a sample are a number."""

    def __init__(self) -> None:
        self.bits: dict[bytes, int] = {}
        self.images = self.compressed = 0

    def bit(self, suffix: bytes, as_written: bytes) -> int:
        """The bit of a suffix; 0 beyond what a sane tar has."""
        bit = self.bits.get(suffix, 0)
        if not bit and len(self.bits) < _KNOWN_SUFFIXES:
            bit = self.bits[suffix] = 1 << len(self.bits)
            self.images |= bit if suffix in IMAGE_SUFFIXES else 0
            self.compressed |= bit if _COMPRESSED.fullmatch(suffix) else 0
        if bit and len(self.bits) < _KNOWN_SUFFIXES:
            self.bits[as_written] = bit
        return bit


def group(batches: Iterable[Plain], noted: Noted) -> Iterator[np.ndarray]:
    """The samples of a tar's plain files, as arrays of `SAMPLE`.

    Members of one sample stand in a row; a suffix that comes again begins another sample with the same key. Of two
    photos in a sample the first counts.

    Args:
      batches: the plain files in order.
      noted: called with the kind and the name of each member or sample that is of no use.

    Raises:
      TarTooLarge: it has more than 2 TiB.
    """
    suffixes, rows = _Suffixes(), []
    key, prefix, skip, seen = b"", b"\0", 0, 0
    start = end = image = image_bytes = 0

    def finished() -> tuple[int, int, int, int, int]:
        if end >= _BLOCK_LIMIT:
            raise TarTooLarge(f"it is larger than {_BLOCK_LIMIT * BLOCK:,} bytes; split it into smaller tars")
        if seen & suffixes.compressed:
            noted(COMPRESSED, key)
        if b"/" in key:
            noted(IN_FOLDER, key)
        problem = 0 if not image else 1 if not image_bytes else 2 if image_bytes >= _IMAGE_LIMIT else None
        if problem is None:
            return start, end - start, image, image_bytes, key_hash(key)
        noted(PROBLEMS[problem], key)
        return start, end - start, 0, problem, key_hash(key)

    for plain in batches:
        for name, first, data, size in zip(*plain, strict=True):
            bit = suffixes.bits.get(name[skip:], 0) if name.startswith(prefix) else 0
            if not bit or bit & seen:
                name = name.split(b"\0", 1)[0]
                split = _usable(name, noted)
                if split is None:
                    continue
                here = len(name) - len(split[1])
                bit = suffixes.bit(split[1], name[here:])
                if split[0] != key or bit & seen:
                    if key:
                        rows.append(finished())
                    key, prefix, skip, seen = split[0], name[:here], here, 0
                    start, image, image_bytes = first, 0, 0
            seen |= bit
            if bit & suffixes.images and not image:
                image, image_bytes = data - start, size
            end = data + (size + BLOCK - 1) // BLOCK
        if len(rows) >= _ROWS:
            yield np.array(rows, SAMPLE)
            rows = []
    if key:
        rows.append(finished())
    yield np.array(rows, SAMPLE)


def _usable(name: bytes, noted: Noted) -> tuple[bytes, bytes] | None:
    """Key and suffix of a member that can be part of a sample."""
    if is_unsafe(name):
        noted(UNSAFE, name)
        return None
    split = key_and_suffix(name)
    if split is None:
        noted(NAMELESS, name)
    return split
