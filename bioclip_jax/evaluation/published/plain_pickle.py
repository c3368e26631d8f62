"""Reads pickle files that hold nothing but dictionaries, lists, tuples, whole numbers and texts.

Nothing is executed and nothing is imported: the opcodes are read one by one, and one that is not on the list below ends
the reading. Python's own `pickle` would run whatever the file asks for.
"""

from __future__ import annotations

import pickletools
from pathlib import Path
from typing import Any

from bioclip_jax.errors import UserError

LARGEST = 1 << 24
"""Bytes; lists of class numbers take thousands."""

_MARK = object()
_VALUES = frozenset(
    "BININT BININT1 BININT2 INT LONG LONG1 LONG4 SHORT_BINUNICODE BINUNICODE BINUNICODE8 UNICODE "
    "SHORT_BINSTRING BINSTRING STRING".split()
)
_EMPTY: dict[str, type] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_PUTS = frozenset("BINPUT LONG_BINPUT PUT".split())
_GETS = frozenset("BINGET LONG_BINGET GET".split())
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_plain_pickle(path: Path) -> Any:
    """The value that the file holds.

    Raises:
        UserError: it is no pickle, damaged, larger than `LARGEST`, or holds anything else.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if not data:
        raise UserError(f"{path} is empty, or larger than the {LARGEST:,} bytes that lists of classes take")
    reader = _Reader()
    try:
        for opcode, argument, _ in pickletools.genops(data):
            reader.step(opcode.name, argument)
        if reader.stack[-1] is _MARK:
            raise ValueError("it ends at a mark")
        return reader.stack[-1]
    except _NotPlain as error:
        raise UserError(
            f"{path} holds more than lists and numbers (pickle opcode {error}), and is not executed; if you trust it, "
            "write its lists as JSON with Python's own pickle"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no pickle file, or damaged; fetch it again") from error


class _NotPlain(Exception):
    pass


class _Reader:
    """The stack machine of the pickle format, of which it knows the opcodes of plain values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        stack, memo = self.stack, self.memo
        if name in _VALUES:
            stack.append(argument)
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in _PUTS:
            memo[argument] = stack[-1]
        elif name in _GETS:
            stack.append(memo[argument])
        elif name == "APPEND":
            value = stack.pop()
            stack[-1].append(value)
        elif name == "APPENDS":
            values = self._since_mark()
            stack[-1].extend(values)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            pairs = _pairs(self._since_mark())
            stack[-1].update(pairs)
        elif name == "LIST":
            stack.append(self._since_mark())
        elif name == "DICT":
            stack.append(_pairs(self._since_mark()))
        elif name == "TUPLE":
            stack.append(tuple(self._since_mark()))
        elif name in _TUPLES:
            values = stack[-_TUPLES[name] :]
            del stack[-_TUPLES[name] :]
            stack.append(tuple(values))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise _NotPlain(name)

    def _since_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
        values = self.stack[place + 1 :]
        del self.stack[place:]
        return values


def _pairs(values: list[Any]) -> dict[Any, Any]:
    return dict(zip(values[::2], values[1::2], strict=True))
