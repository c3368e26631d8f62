"""The process that compiles: a question on its standard input, a reply or an error on its standard output, as JSON.

A process of its own gives its memory back, and survives what kills a compiler. Whatever libraries print goes to
standard error.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from typing import Any

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.planning.question import Question, Reply


def main() -> None:
    """Answers one question."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # tracing needs no more, and a device that is here must not be taken
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with out:
        json.dump(_reply(sys.stdin.read()), out)


def _end_with(parent: int) -> None:
    """A parent that is killed cannot end its children."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


def _reply(text: str) -> dict[str, Any]:
    try:
        question = Question.from_json(text)
        from bioclip_jax.planning.ask import ask
        from bioclip_jax.planning.topology import parse

        answer = ask(question.config, parse(question.topology), question.tokens)
        return {"reply": Reply(answer, _checkpoint_bytes(question)).to_json()}
    except UserError as error:
        kind = "usage" if isinstance(error, UsageError) else "user"
        return {"error": str(error), "kind": kind, "details": list(error.details)}


def _checkpoint_bytes(question: Question) -> int:
    """Of the state, wherever it lies: one device holds the same as many."""
    import dataclasses

    import jax

    from bioclip_jax.config import MeshConfig
    from bioclip_jax.parallel.mesh import make_mesh
    from bioclip_jax.training.step import make_program

    config = dataclasses.replace(question.config, mesh=MeshConfig(), attention="xla")
    state = make_program(config, make_mesh(devices=jax.devices()[:1])).abstract_state
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


if __name__ == "__main__":
    main()
