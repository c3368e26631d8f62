"""The command line: one small function per command. What it needs is imported inside it, so that help is quick."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from bioclip_jax.cli.data import data_build, data_show, data_verify
from bioclip_jax.cli.emergence import emergence
from bioclip_jax.cli.inference import embed, predict
from bioclip_jax.cli.launching import launch
from bioclip_jax.cli.models import convert, evaluate, report
from bioclip_jax.cli.parsing import PROGRAM
from bioclip_jax.cli.planning import plan
from bioclip_jax.cli.rehearsal import launch_local
from bioclip_jax.cli.training import train
from bioclip_jax.errors import UsageError, UserError

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "data build": data_build,
    "data verify": data_verify,
    "data show": data_show,
    "train": train,
    "plan": plan,
    "embed": embed,
    "predict": predict,
    "eval": evaluate,
    "report": report,
    "emergence": emergence,
    "convert": convert,
    "launch local": launch_local,
    "launch": launch,
}


def _help() -> str:
    lines = [f"usage: {PROGRAM} COMMAND [ARGUMENTS]", "", "BioCLIP 2 in JAX.", "", "commands:"]
    lines += [f"  {name:<13}{(function.__doc__ or '').splitlines()[0]}" for name, function in COMMANDS.items()]
    return "\n".join([*lines, "", f"`{PROGRAM} COMMAND --help` explains a command."])


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return
    if arguments[0] == "--version":
        from bioclip_jax import __version__

        print(__version__)
        return
    for words in (2, 1):
        command = COMMANDS.get(" ".join(arguments[:words]))
        if command:
            command(arguments[words:])
            return
    names = ", ".join(COMMANDS)
    raise UsageError(f"no command {' '.join(arguments[:2])!r}; the commands are {names}")


def _one_line(text: str) -> str:
    """Names in files may hold anything, and a terminal obeys some of it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 42 run it again, 130 interrupted."""
    # Orbax logs at length what our own errors say in one line.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    try:
        _dispatch(sys.argv[1:] if arguments is None else arguments)
    except UserError as error:
        print(f"error: {_one_line(str(error))}", file=sys.stderr)
        for line in error.details:
            print(f"  {_one_line(line)}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        raise SystemExit(1) from None
    except OSError as error:
        print(f"error: {error.filename or 'reading or writing'}: {error.strerror or error}", file=sys.stderr)
        raise SystemExit(1) from None
