"""The members of a tar file, from one pass over its headers: POSIX ustar, PAX and GNU, long names and large sizes.

Nothing is extracted and no link is followed. Ordinary headers are recognised many at a time in blocks of the file as
it is read; whatever is unusual about a header sends it to a parser that looks at one header at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from bioclip_jax.errors import UserError

BLOCK = 512
Reader = Callable[[int, int], bytes]
"""`read(offset, length)`: the bytes there, fewer only at the end of the file."""

_CHUNK = 1 << 21
_SMALL_CHUNK = 1 << 15
_LARGE = 1 << 16  # bytes a member: it pays to jump over the payloads
_EXTENDED_LIMIT = 1 << 20  # bytes of a PAX header or GNU long name
_END_LIMIT = 1 << 20  # bytes of padding after the last member; writers pad to 10 kB, or to their record size
_ZEROS = bytes(BLOCK)
_PLAIN, _NO_PAYLOAD = b"0\x007", b"123456"
_KINDS = {ord("1"): "hard link", ord("2"): "symbolic link", ord("3"): "device", ord("4"): "device", ord("6"): "pipe"}
_DIRECTORY, _SPARSE = ord("5"), ord("S")
# PAX records that say nothing about a member's name or place. Those with a line break in the value are not matched.
_HARMLESS = re.compile(
    rb"(?:\d+ (?:[mac]time|[ug]id|[ug]name|comment|charset|hdrcharset|LIBARCHIVE\.[^=\n]*|SCHILY\.[^=\n]*)=[^\n]*\n)+"
)
_POWERS = 8 ** np.arange(10, -1, -1, dtype=np.int64)


class TarDamage(UserError):
    """The tar cannot be followed beyond the byte `offset`, for this `reason`."""

    def __init__(self, offset: int, reason: str):
        super().__init__(f"at byte {offset:,}: {reason}")
        self.offset, self.reason = offset, reason


class Member(NamedTuple):
    """One entry. Places are bytes from the start of the file."""

    name: bytes
    start: int
    """Where its first header lies, an extended one if it has that."""
    data: int
    size: int
    end: int
    """Where the next member begins."""
    kind: str
    """'' for a plain file; 'directory', 'symbolic link', ..."""


class Plain(NamedTuple):
    """Plain files in a row: names, first header and payload (in blocks of 512 bytes), sizes (in bytes)."""

    names: list[bytes]
    starts: list[int]
    data: list[int]
    sizes: list[int]


def walk(
    read_into: Callable[[memoryview, int], int], size: int, skipped: Callable[[str, bytes], None]
) -> Iterator[Plain]:
    """All plain files of a tar, in order.

    Args:
      read_into: fills a buffer from an offset, and returns how many bytes there were.
      size: of the file, in bytes.
      skipped: called with the kind and the name of each entry that is neither plain file nor directory.

    Raises:
      TarDamage: after everything before the damage was given out.
    """
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)

    def read(offset: int, length: int) -> bytes:
        piece = bytearray(min(length, max(0, size - offset)))
        return bytes(piece[: read_into(memoryview(piece), offset)])

    position, wanted = 0, _CHUNK
    while True:
        base, found = position, 0
        count = read_into(view[:wanted], base) // BLOCK
        headers = _Headers(buffer, count, (size - base) // BLOCK)
        while position == base or position < base + count * BLOCK:
            plain, position = headers.follow(base, position)
            if plain.names:
                found += len(plain.names)
                yield plain
                continue
            member = read_member(read, position)
            if member is None:
                _check_end(read, position, size)
                return
            if member.data + member.size > size:
                raise TarDamage(member.start, f"the file ends within {shown(member.name)}")
            found, position = found + 1, member.end
            if not member.kind:
                yield Plain([member.name], [member.start // BLOCK], [member.data // BLOCK], [member.size])
            elif member.kind != "directory":
                skipped(member.kind, member.name)
        wanted = _CHUNK if position - base < found * _LARGE else _SMALL_CHUNK


class _Headers:
    """The ordinary headers in a chunk of the file, found without following it: checksum right, nothing unusual."""

    def __init__(self, buffer: bytearray, count: int, left: int):
        self._buffer, self._count = buffer, count
        blocks = np.frombuffer(buffer, np.uint8, count * BLOCK).reshape(count, BLOCK)
        where = np.flatnonzero(blocks[:, 257] == ord("u"))
        self._headers = headers = blocks[where]
        digits = headers[:, 124:135] - ord("0")
        self._sizes = digits @ _POWERS
        kinds = headers[:, 156]
        self._extended = (kinds == ord("x")).tolist()
        after = where + 1 + (self._sizes + BLOCK - 1) // BLOCK
        ordinary = (headers[:, 257:262] == np.frombuffer(b"ustar", np.uint8)).all(1)
        ordinary &= (digits < 8).all(1) & ((headers[:, 135] & 0xDF) == 0) & (after <= left)
        ordinary &= (kinds == ord("0")) | (kinds == 0) | (kinds == ord("x"))
        ordinary &= (headers[:, 0] != 0) & (headers[:, 0] != ord("/")) & (headers[:, 345] == 0)
        ordinary &= _checksums_are_right(headers)
        self._where, self._after, self._payloads = where, after.tolist(), self._sizes.tolist()
        rows = np.flatnonzero(ordinary)
        self._rows = dict(zip(where[rows].tolist(), rows.tolist(), strict=True))

    def follow(self, base: int, position: int) -> tuple[Plain, int]:
        """Plain files from `position` on (the chunk begins at `base`), and where the first other thing begins."""
        chain, starts = [], []
        rows, after, extended, payloads = self._rows, self._after, self._extended, self._payloads
        buffer, match = self._buffer, _HARMLESS.fullmatch
        block = start = (position - base) // BLOCK
        while (row := rows.get(block)) is not None:
            if extended[row]:
                payload = (block + 1) * BLOCK
                if after[row] > self._count or not match(buffer, payload, payload + payloads[row]):
                    break
            else:
                chain.append(row)
                starts.append(start)
                start = after[row]
            block = after[row]
        first = base // BLOCK
        names = np.ascontiguousarray(self._headers[chain, :100]).view("S100")[:, 0].tolist() if chain else []
        data = (self._where[chain] + (first + 1)).tolist()
        plain = Plain(names, [first + place for place in starts], data, self._sizes[chain].tolist())
        return plain, base + start * BLOCK


def _checksums_are_right(headers: np.ndarray) -> np.ndarray:
    """For uint8 [n, 512]: whether the sum of the bytes is what six octal digits in the header say."""
    field = headers[:, 148:156]
    digits = field[:, :6] - ord("0")
    stated = digits @ _POWERS[-6:]
    total = np.add.reduce(headers, axis=1, dtype=np.uint32) - np.add.reduce(field, axis=1, dtype=np.uint32)
    return (digits < 8).all(1) & (total + 8 * ord(" ") == stated)


def read_member(read: Reader, start: int) -> Member | None:
    """The entry whose first header begins at `start`; None at the mark of the archive's end.

    Raises:
      TarDamage: it is no header, or an extended header makes no sense.
    """
    position, long_name = start, b""
    pax: dict[bytes, bytes] = {}
    while True:
        header = read(position, BLOCK)
        if header == _ZEROS and position == start:
            return None
        if not header and position == start:
            raise TarDamage(position, "the file ends without a mark of the archive's end")
        if len(header) < BLOCK:
            raise TarDamage(position, "the file ends within a header")
        if not _checksum_is_right(header):
            raise TarDamage(position, "no header is there (its checksum is wrong)")
        size, kind = _number(header[124:136], position), header[156:157]
        if kind not in (b"x", b"X", b"g", b"L", b"K"):
            break
        if size > _EXTENDED_LIMIT:
            raise TarDamage(position, f"an extended header claims {size:,} bytes")
        payload = read(position + BLOCK, size)
        if len(payload) < size:
            raise TarDamage(position, "the file ends within an extended header")
        if kind == b"L":
            long_name = payload.split(b"\0", 1)[0]
        elif kind != b"K":
            records = _pax_records(payload, position)
            if kind == b"g" and records.keys() & {b"path", b"size"}:
                raise TarDamage(position, "a global header sets the path or size of all that follows")
            pax |= {} if kind == b"g" else records
        position += BLOCK + padded(size)
    return _member(read, header, size, start, position, pax.get(b"path") or long_name, pax)


def _member(
    read: Reader, header: bytes, size: int, start: int, position: int, name: bytes, pax: dict[bytes, bytes]
) -> Member:
    if not name:
        name = header[:100].split(b"\0", 1)[0]
        prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
        name = prefix + b"/" + name if prefix else name
    if b"size" in pax:
        if not pax[b"size"].isdigit() or len(pax[b"size"]) > 18:
            raise TarDamage(position, f"an extended header gives the size as {pax[b'size'][:40]!r}")
        size = int(pax[b"size"])
    data, code = position + BLOCK, header[156]
    kind = _KINDS.get(code, "" if code in _PLAIN else f"entry of type {chr(code)!r}")
    if code == _DIRECTORY or (not kind and name.endswith(b"/")):
        kind = "directory"
    if code in _NO_PAYLOAD:
        size = 0  # some writers state the size of what a link points to
    if code == _SPARSE or any(record.startswith(b"GNU.sparse.") for record in pax):
        kind, more = "sparse file", code == _SPARSE and header[482]
        while more:
            extension = read(data, BLOCK)
            if len(extension) < BLOCK:
                raise TarDamage(position, "the file ends within a header")
            data, more = data + BLOCK, extension[504]
    return Member(name, start, data, size, data + padded(size), kind)


def _checksum_is_right(header: bytes) -> bool:
    try:
        stated = int(header[148:156].replace(b"\0", b" ").strip() or b"0", 8)
    except ValueError:
        return False
    rest = header[:148] + header[156:]
    # Old writers summed signed bytes.
    return stated - 8 * ord(" ") in (total := sum(rest), total - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes, position: int) -> int:
    """A size: octal digits, or base 256 where the first bit is set."""
    if field[0] == 0x80:
        value = int.from_bytes(field[1:], "big")
    else:
        text = field.split(b"\0", 1)[0].strip()
        if field[0] > 0x80 or not re.fullmatch(rb"[0-7]*", text):
            raise TarDamage(position, f"the size in a header is no number ({field!r})")
        value = int(text or b"0", 8)
    if value >= 1 << 62:
        raise TarDamage(position, f"a header claims {value:,} bytes")
    return value


def _pax_records(payload: bytes, position: int) -> dict[bytes, bytes]:
    """The records of an extended header, each a line `LENGTH KEY=VALUE`."""
    records, place = {}, 0
    while place < len(payload) and payload[place]:
        match = re.compile(rb"(\d{1,7}) ([^=\n]+)=").match(payload, place)
        end = place + int(match[1]) if match else 0
        if not match or end <= match.end() or end > len(payload) or payload[end - 1] != ord("\n"):
            raise TarDamage(position, "an extended header makes no sense")
        records[match[2]] = payload[match.end() : end - 1]
        place = end
    return records


def _check_end(read: Reader, position: int, size: int) -> None:
    """After the mark of the end there may be padding, but neither data nor a hole where data should have been."""
    if size - position > _END_LIMIT:
        raise TarDamage(position, f"the archive ends here, and {size - position:,} bytes follow")
    if any(read(position, size - position)):
        raise TarDamage(position, "the archive ends here, but other data follow")


def padded(size: int) -> int:
    """The bytes that a payload takes, whole blocks."""
    return (size + BLOCK - 1) // BLOCK * BLOCK


def shown(name: bytes) -> str:
    """A name for messages: quoted, and cut where it is very long."""
    return repr(name.decode("utf-8", "replace"))[:120]


def reader_of(descriptor: int) -> Callable[[memoryview, int], int]:
    """Reads of a file descriptor at any place, as `walk` wants them."""

    def read_into(view: memoryview, offset: int) -> int:
        done = 0
        while done < len(view):  # one call gives at most 2 GB, and less on some network file systems
            count = os.preadv(descriptor, [view[done:]], offset + done)
            if not count:
                break
            done += count
        return done

    return read_into
