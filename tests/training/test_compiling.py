"""A step that does not fit is one line, and any other failure of the compiler is not taken for that."""

from types import SimpleNamespace

import jax
import pytest

from bioclip_jax.errors import UserError
from bioclip_jax.training.compiling import compile_step

pytestmark = pytest.mark.core


def program_that_fails(message):
    def compile_():
        raise jax.errors.JaxRuntimeError(message)

    step = SimpleNamespace(lower=lambda *arguments: SimpleNamespace(compile=compile_))
    return SimpleNamespace(step=step, abstract_state=None, abstract_batch=lambda tokens: None, abstract_signals=None)


def test_step_that_does_not_fit_says_what_to_try():
    with pytest.raises(UserError, match=r"does not fit .*Out of memory.*--micro-batches"):
        compile_step(program_that_fails("RESOURCE_EXHAUSTED: Out of memory allocating 94 GiB"), {})


def test_other_failures_of_the_compiler_stay_what_they_are():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        compile_step(program_that_fails("INTERNAL: something else"), {})
