"""Runs the units of work of a build by Apache Beam, on any of its runners: the extra `beam`.

One element per unit, and no shuffle of the data: every worker reads the source and writes to the dataset's directory,
so both must be visible to all of them, as on a shared or mounted file system.

The tests run Beam's own DirectRunner with several processes. It waits for ever for a worker process that was killed:
interrupt it, and the same command goes on. PrismRunner, and FlinkRunner and SparkRunner without a job server of yours,
download a program when they start, so they need the network; no test runs them, nor Dataflow.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Sequence
from typing import Any

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.build_workers import DoUnit, Job


def check_flags(flags: Sequence[str]) -> None:
    """Raises `UsageError` if Beam is not installed or cannot run with its flags; of an unknown flag Beam only warns."""
    shutil.rmtree(_pipeline(flags).local_tempdir, ignore_errors=True)


def run_by_beam(job: Job, units: Sequence[Any], flags: Sequence[str]) -> None:
    """Does all units of work, and waits for them.

    Args:
      job: what is done to each.
      units: picklable.
      flags: of Apache Beam, such as `--runner=FlinkRunner`.

    Raises:
      UsageError: see `check_flags`.
      UserError: the work failed; units that were done are kept.
    """
    pipeline = _pipeline(flags)
    import apache_beam

    do = DoUnit(job)
    try:
        with pipeline:
            pipeline | apache_beam.Create(list(units)) | apache_beam.Reshuffle() | apache_beam.Map(do)
    except Exception as error:
        raise UserError(f"Apache Beam: {_without_trace(str(error))}") from error


def _pipeline(flags: Sequence[str]) -> Any:
    """An `apache_beam.Pipeline` without a step, whose flags have been looked at."""
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise UsageError(f"--beam needs Apache Beam ({error}); pip install 'bioclip-jax[beam]'") from error
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(flags))
            options.get_all_options()  # it reads the flags when it is asked for one
        return apache_beam.Pipeline(options=options)
    except SystemExit as error:
        raise UsageError(f"flags of Apache Beam: {said.getvalue().strip().rpartition('error: ')[2]}") from error
    except (ValueError, ImportError, AttributeError) as error:  # no such runner, or it needs other flags
        raise UsageError(f"flags of Apache Beam: {' '.join(str(error).split())}") from error


def _without_trace(message: str) -> str:
    """The last line, which says what happened, without the step of Beam's in which it did."""
    last = next((line for line in reversed(message.splitlines()) if line.strip()), message)
    return last.partition(" [while running")[0].removeprefix("bioclip_jax.errors.UserError: ")
