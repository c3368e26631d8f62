"""Configs as JSON and back: what a run leaves of its config, and how it is opened again."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from typing import Any, Literal

from bioclip_jax.errors import UserError


def to_json(config: Any) -> str:
    """A config dataclass as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=os.fspath)


_JSON_TYPES: dict[Any, Any] = {int: int, float: (int, float), str: str, bool: bool}


def from_dict(kind: type[Any], value: Any) -> Any:
    """A config dataclass of type `kind` from parsed JSON; lists become tuples, missing fields take their defaults.

    Raises:
        UserError: an unknown field, or a value of another type; the message names it.
        UsageError: a value that makes no sense.
    """
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{kind.__name__}: expected an object, got {value!r}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise UserError(f"{kind.__name__}: unknown field {unknown[0]!r}")
        fields = {}
        for name in value:
            try:
                fields[name] = from_dict(hints[name], value[name])
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        return kind(**fields)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"expected a list, got {value!r}")
        return tuple(from_dict(arguments[0], item) for item in value)
    if origin in (typing.Union, types.UnionType) and value is None:
        return None
    if origin is Literal and value not in arguments:
        raise UserError(f"expected one of {', '.join(map(str, arguments))}, got {value!r}")
    if kind in _JSON_TYPES and (
        not isinstance(value, _JSON_TYPES[kind]) or (isinstance(value, bool) and kind is not bool)
    ):
        raise UserError(f"expected {kind.__name__}, got {value!r}")
    return value
