"""Small YAML files that people write: read whole, and refused in one line where they are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bioclip_jax.errors import UsageError

_LARGEST_FILE = 2**20


def read_mapping(path: Path, flag: str, example: str) -> Any:
    """The `NAME: VALUE` lines of a file, as PyYAML's MappingNode, whose keys and values know their lines.

    Args:
        path: of the file.
        flag: that named it, for messages.
        example: of its lines, for messages.

    Raises:
        UsageError: the file cannot be read, is too large, or has no such lines, or one name twice.
    """
    import yaml

    where = f"{flag} {path}"
    try:
        with path.open("rb") as file:  # of a device or pipe only so much
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise UsageError(f"{where}: too large; give a YAML file of a few lines")
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise UsageError(f"{where} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise UsageError(f"{where}: too deep; expected lines such as {example}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{where} is not a text file") from None
    except yaml.YAMLError as error:
        raise _not_yaml(where, error) from None
    if root is None:
        return yaml.MappingNode("tag:yaml.org,2002:map", [])
    if not isinstance(root, yaml.MappingNode):
        raise UsageError(f"{where}: expected lines such as {example}")
    names = set()
    for key, _ in root.value:
        if str(key.value) in names:
            raise UsageError(f"{where}, line {key.start_mark.line + 1}: {key.value} stands there twice")
        names.add(str(key.value))
    return root


def read_values(path: Path, flag: str, example: str) -> dict[Any, Any]:
    """The plain values that such lines stand for; arguments and errors as of `read_mapping`."""
    import yaml

    root, loader = read_mapping(path, flag, example), yaml.SafeLoader("")
    try:
        values: dict[Any, Any] = loader.construct_document(root)
    except yaml.YAMLError as error:
        raise _not_yaml(f"{flag} {path}", error) from None
    finally:
        loader.dispose()
    return values


def _not_yaml(where: str, error: Exception) -> UsageError:
    mark = getattr(error, "problem_mark", None)
    line = f", line {mark.line + 1}" if mark else ""
    return UsageError(f"{where}{line}: {getattr(error, 'problem', None) or 'not YAML'}")
