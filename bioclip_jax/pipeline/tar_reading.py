"""Reads one sample from an open tar: its photo and its small texts, with one read of the file where it is compact.

The samples of a tar are alike. Where the members of one lay relative to its photo is remembered, and in the next each
of these places is looked at for the name that has to be there; the headers are followed only where one differs.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline.read_ahead import ReadableFile
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.tar_headers import BLOCK, Member, Reader, TarDamage, padded, read_member
from bioclip_jax.pipeline.tar_index_file import map_samples
from bioclip_jax.pipeline.tar_samples import PROBLEMS, is_unsafe, key_and_suffix, key_hash
from bioclip_jax.pipeline.tar_texts import TEXT_SUFFIXES

_READ_WHOLE = 1 << 18  # a sample with no more bytes than this besides its photo is read at once
_TEXT_LIMIT = 1 << 16
_LAYOUTS = 256
_OCTAL = re.compile(rb"[0-7]+")
_AGAIN = "start again, and it will be indexed again"


class Place(NamedTuple):
    """Where the header of a member lies."""

    suffix: bytes
    """As it is written, from the dot on, with the zero that ends a name."""
    offset: int
    """In bytes, from the sample's start, or for members behind the photo from its end."""
    behind: bool
    blocks: int
    """Of the payload."""
    text: str
    """What `TEXT_SUFFIXES` calls it; '' for a member that is not read."""


Layouts = dict[tuple[int, int], tuple[Place, ...]]
"""By the bytes before and behind the photo."""


class Sample(NamedTuple):
    """A sample as it stands in the tar."""

    key: bytes
    image: bytes
    texts: dict[str, bytes]


class _Disagreement(Exception):
    """Between an index and its tar."""


class OpenTar:
    """A tar and its index, open until the last user of this object is gone.

    Args:
      file: the tar.
      index: path of its index.
      samples: number of samples in the index.
      size: bytes of the tar when it was indexed.

    Raises:
      UserError: either is gone, or has changed since.
    """

    def __init__(self, file: ReadableFile, index: Path, samples: int, size: int):
        self._file, self._path, self._size = file, file.path, size
        if file.size != size:
            raise UserError(f"tar {file.path} had {size:,} bytes, and now has {file.size:,}; {_AGAIN}")
        self._samples = map_samples(index, samples)

    def read(self, row: int, layouts: Layouts) -> Sample:
        """The sample at `row` of the index. `layouts` is what is remembered of earlier ones.

        Raises:
          BadRecord: it has no usable photo, or a text that is none.
          UserError: the tar cannot be read there, or is not as it was when it was indexed.
        """
        start, blocks, image, image_bytes, hashed = self._samples[row].item()
        try:
            if not image:
                member = read_member(lambda offset, length: self._bytes(start * BLOCK + offset, length), 0)
                sample = _checked(Sample(_split(member)[0], b"", {}), hashed)
            else:
                sample = self._read(start * BLOCK, blocks * BLOCK, image * BLOCK, image_bytes, hashed, layouts)
        except (_Disagreement, TarDamage) as error:
            where = f"the sample at byte {start * BLOCK:,}: {error}"
            hint = "start again, and it will be indexed again; if it is not, remove its index"
            raise UserError(f"tar {self._path} does not agree with its index ({where}); {hint}") from None
        if not image:
            raise BadRecord(sample.key.decode("utf-8", "replace"), PROBLEMS[min(image_bytes, len(PROBLEMS) - 1)])
        return sample

    def _read(self, start: int, length: int, image: int, image_bytes: int, hashed: int, layouts: Layouts) -> Sample:
        end = image + padded(image_bytes)
        if start + length > self._size or end > length:
            raise _Disagreement("it ends outside of the file")
        if length - image_bytes > _READ_WHOLE:
            read: Reader = lambda offset, count: self._bytes(start + offset, count)  # noqa: E731
            return _checked(_take(read, _members(read, length), image, image_bytes), hashed)
        data = self._bytes(start, length)
        shape = image, length - end
        sample = _read_alike(data, layouts.get(shape, ()), image, image_bytes, end)
        # Where an extended header gives the name, what stands in the header itself may be another.
        if sample is not None and key_hash(sample.key) == hashed:
            return sample
        read = lambda offset, count: data[offset : offset + count]  # noqa: E731
        members = _members(read, length)
        if len(layouts) >= _LAYOUTS:
            layouts.clear()
        layouts[shape] = _layout(data, members, image, end)
        return _checked(_take(read, members, image, image_bytes), hashed)

    def _bytes(self, offset: int, length: int) -> bytes:
        data = self._file.pread(offset, length)
        if len(data) < length:
            raise UserError(f"tar {self._path} has become shorter: it ends before byte {offset + length:,}; {_AGAIN}")
        return data


def _checked(sample: Sample, hashed: int) -> Sample:
    if key_hash(sample.key) != hashed:
        raise _Disagreement("it is another one")
    return sample


def _members(read: Reader, length: int) -> list[Member]:
    """The plain files of a sample; places are relative to its start."""
    members, position = [], 0
    while position < length:
        member = read_member(read, position)
        if member is None or member.end > length:
            raise _Disagreement("it has another length")
        if not member.kind and not is_unsafe(member.name) and key_and_suffix(member.name):
            members.append(member)
        position = member.end
    return members


def _take(read: Reader, members: list[Member], image: int, image_bytes: int) -> Sample:
    """Reads photo and texts of a sample whose members are known."""
    key = b""
    texts: dict[str, bytes] = {}
    for member in members:
        suffix = _split(member)[1].decode("utf-8", "replace")
        if member.data == image:
            key = _split(member)[0]
            if member.size != image_bytes:
                raise _Disagreement("its photo has another size")
        elif suffix in TEXT_SUFFIXES:
            if member.size > _TEXT_LIMIT:
                raise BadRecord(
                    _split(member)[0].decode("utf-8", "replace"), f"text is too long: {member.size:,} bytes"
                )
            texts.setdefault(suffix, read(member.data, member.size))
    if not key:
        raise _Disagreement("its photo is not there")
    return Sample(key, read(image, image_bytes), texts)


def _layout(data: bytes, members: list[Member], image: int, end: int) -> tuple[Place, ...]:
    """Where the members of this sample lie; empty if their names stand elsewhere than in their headers."""
    places = []
    for member in members:
        key, suffix = _split(member)
        written = member.name[member.name.rfind(key) + len(key) :] + b"\0"
        header, behind = member.data - BLOCK, member.data > image
        if not data.startswith(member.name + b"\0", header):
            return ()
        text = suffix.decode("utf-8", "replace") if member.data != image else ""
        text = text if text in TEXT_SUFFIXES else ""
        places.append(Place(written, header - end * behind, behind, padded(member.size) // BLOCK, text))
    # The first is the photo, whose name tells the key.
    return tuple(sorted(places, key=lambda place: place.offset != image - BLOCK))


def _read_alike(data: bytes, places: tuple[Place, ...], image: int, image_bytes: int, end: int) -> Sample | None:
    """The sample in `data` if its members lie at these places, else None."""
    if not places:
        return None
    first = image - BLOCK
    stop = data.find(places[0].suffix, first, first + 100)
    prefix = data[first : max(stop, first)]
    texts = {}
    for suffix, offset, behind, blocks, text in places:
        header = offset + end if behind else offset
        if not data.startswith(prefix + suffix, header):
            return None
        if text or header == first:
            digits = data[header + 124 : header + 135]
            size = int(digits, 8) if _OCTAL.fullmatch(digits) else -1
            if size != image_bytes if header == first else padded(size) != blocks * BLOCK:
                return None
            if text:
                texts[text] = data[header + BLOCK : header + BLOCK + size]
    return Sample(prefix.removeprefix(b"./"), data[image : image + image_bytes], texts)


def _split(member: Member | None) -> tuple[bytes, bytes]:
    split = key_and_suffix(member.name) if member else None
    if split is None:
        raise _Disagreement("its name has no key")
    return split
