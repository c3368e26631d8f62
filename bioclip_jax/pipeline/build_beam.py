"""Runs the units of work of a build by Apache Beam, on any of its runners: the extra `beam`.

One element per unit, and no shuffle of the data: every worker reads the source and writes to the dataset's directory,
so both must be visible to all of them, as on a shared or mounted file system.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.build_workers import DoUnit, Job


def beam_options(flags: Sequence[str]) -> Any:
    """The `PipelineOptions` that the flags of Apache Beam mean; it warns of a flag that it does not know.

    Raises:
      UsageError: Beam is not installed, or does not like the value of a flag.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UsageError(f"--beam needs Apache Beam ({error}); pip install 'bioclip-jax[beam]'") from error
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(flags))
            options.get_all_options()  # it reads the flags when it is asked for one
    except SystemExit as error:
        raise UsageError(f"flags of Apache Beam: {said.getvalue().strip().rpartition('error: ')[2]}") from error
    return options


def run_by_beam(job: Job, units: Sequence[Any], flags: Sequence[str]) -> None:
    """Does all units of work, and waits for them.

    Args:
      job: what is done to each.
      units: picklable.
      flags: of Apache Beam, such as `--runner=FlinkRunner`.

    Raises:
      UsageError: see `beam_options`.
      UserError: the work failed; units that were done are kept.
    """
    options = beam_options(flags)
    import apache_beam

    do = DoUnit(job)
    try:
        with apache_beam.Pipeline(options=options) as pipeline:
            pipeline | apache_beam.Create(list(units)) | apache_beam.Reshuffle() | apache_beam.Map(do)
    except UserError as error:
        raise UserError(_without_trace(str(error))) from error
    except Exception as error:
        raise UserError(f"Apache Beam: {_without_trace(str(error))}") from error


def _without_trace(message: str) -> str:
    """The last line, which says what happened, without the step of Beam's in which it did."""
    last = next((line for line in reversed(message.splitlines()) if line.strip()), message)
    return last.partition(" [while running")[0].removeprefix("bioclip_jax.errors.UserError: ")
