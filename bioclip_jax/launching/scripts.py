"""Shell scripts of `launch/`, filled in.

A script is the same for everybody but for lines `# @name@`, which are replaced. What users give stands in assignments
at its top, quoted, and nowhere else.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from bioclip_jax.errors import UserError
from bioclip_jax.launching.job import Job
from bioclip_jax.launching.rendering import quoted

_PLACE = re.compile(r"^# @([a-z_]+)@\n(\n?)", re.MULTILINE)


def fill(template: str, **parts: str) -> str:
    """The template of that name in `launch/`, with its marked lines replaced by the parts."""
    parts = {"supervise": _read("supervise.sh").partition("\n\n")[2].rstrip("\n"), **parts}
    # What is empty takes the empty line after it along.
    return _PLACE.sub(lambda found: f"{parts[found[1]]}\n{found[2]}" if parts[found[1]] else "", _read(template))


def _read(name: str) -> str:
    package = Path(__file__).resolve().parents[1]
    installed = package / "_recipes" / "launch"
    path = (installed if installed.is_dir() else package.parent / "launch") / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the installation is damaged, install bioclip-jax again") from None


def assignments(values: Mapping[str, str | int | Sequence[str]]) -> str:
    """NAME=VALUE lines, and NAME=(VALUES) for lists."""
    lines = []
    for name, value in values.items():
        text = shlex.quote(str(value)) if isinstance(value, str | int) else f"({quoted(value)})"
        lines.append(f"{name}={text}")
    return "\n".join(lines)


def exports(environment: Mapping[str, str]) -> str:
    """Lines that put variables into the environment."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items())


def settings_of(job: Job, command: Sequence[str], folder: str) -> str:
    """What every script has to know about a job. `folder` is the variable that holds the cache's, or ''."""
    values: dict[str, str | Sequence[str]] = {"JOB_NAME": job.name, "COMMAND": command}
    lines = [assignments(values)]
    if job.cache and folder:  # names of streams and numbers: the folder is known where it runs
        words = job.cache.flags(f"${{{folder}}}")
        lines.append("COMMAND+=(" + " ".join(f'"{word}"' if "$" in word else word for word in words) + ")")
    return "\n".join(lines)
