"""Answers of compilers, kept as JSON files in the user's cache folder: minutes once, then milliseconds.

A file's name is a hash of all that its answer depends on: the question, the versions of what compiles, the sources of
what is compiled, and the environment variables that compilers read. So nothing is ever out of date.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import tempfile
from pathlib import Path

from bioclip_jax.pipeline.file_cache import cache_folder
from bioclip_jax.planning.question import Question, Reply

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt", "flax", "optax")
SOURCES = (
    "config.py",
    "losses.py",
    "models",
    "parallel",
    "planning",
    "training/objective.py",
    "training/optimizer.py",
    "training/signals.py",
    "training/step.py",
)
"""Files and folders of the package that a compiled step, or what is read from it, comes from."""
# These change what is shown and asked, not what an answer says.
_BESIDE = frozenset(
    f"planning/{name}.py"
    for name in "cache compilers inputs machine plan price progress search study table text work".split()
)
_VARIABLES = ("LIBTPU_INIT_ARGS", "XLA_FLAGS", "JAX_ENABLE_X64")


class AnswerCache:
    """Replies by question. Processes may share the folder: files appear whole.

    Args:
        folder: where they lie; `plans` in the user's cache folder if not given.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = cache_folder() / "plans" if folder is None else folder

    def get(self, question: Question) -> Reply | None:
        """The reply that is kept; None if there is none, or a damaged one."""
        path = self._path(question)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            return Reply.from_json(content["reply"]) if content["question"] == question.to_json() else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def put(self, question: Question, reply: Reply) -> None:
        """Keeps a reply; where the folder cannot be written, nothing is kept."""
        path = self._path(question)
        content = {"question": question.to_json(), "reply": reply.to_json()}
        part = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".", delete=False) as file:
                part = Path(file.name)
                json.dump(content, file, indent=1)
            part.replace(path)
        except OSError:
            if part is not None:
                part.unlink(missing_ok=True)

    def _path(self, question: Question) -> Path:
        parts = (question.to_json(), json.dumps(versions(), sort_keys=True), sources_hash())
        variables = json.dumps([os.environ.get(name, "") for name in _VARIABLES])
        key = hashlib.sha256("\n".join((*parts, variables)).encode()).hexdigest()
        return self.folder / f"{key[:32]}.json"


@functools.cache
def versions() -> dict[str, str]:
    """Of the packages that compile, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def sources_hash() -> str:
    """Of the sources that an answer depends on."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for name in SOURCES:
        place = root / name
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            relative = path.relative_to(root).as_posix()
            if path.is_file() and "__pycache__" not in relative and relative not in _BESIDE:
                digest.update(f"{relative}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
