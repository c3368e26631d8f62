"""Small values and failures that the processes of a run share, so that all of them go on alike or stop alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from bioclip_jax.errors import UsageError, UserError

Result = TypeVar("Result")


def gather(value: Any) -> list[Any]:
    """`value` of every process, in their order, as JSON has it; every process calls this at the same point."""
    text = json.dumps(value)
    if jax.process_count() == 1:
        return [json.loads(text)]
    data = np.frombuffer(text.encode(), np.uint8)
    with jax.transfer_guard("allow"):
        lengths = np.asarray(multihost_utils.process_allgather(np.int32(len(data)))).ravel()
        # A power of two: every size is another program.
        padded = np.zeros(1 << (int(lengths.max()) - 1).bit_length(), np.uint8)
        padded[: len(data)] = data
        rows = np.asarray(multihost_utils.process_allgather(padded))
    return [json.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


def together(work: Callable[[], Result]) -> Result:
    """What `work` returns, which is each process's own, once it has succeeded on all of them.

    A process that raised alone would leave the others waiting for it in their next exchange.

    Raises:
        UserError: `work` raised one here or in another process.
    """
    failure: UserError | None = None
    try:
        result = work()
    except UserError as error:
        failure = error
    except OSError as error:
        failure = UserError(f"{error.filename or 'reading or writing'}: {error.strerror or error}")
    failures = gather(None if failure is None else [failure.exit_code, str(failure)])
    if failure is not None:
        raise failure
    for exit_code, message in filter(None, failures):
        theirs = (UsageError if exit_code == UsageError.exit_code else UserError)(message)
        theirs.exit_code = exit_code
        raise theirs
    return result
