"""Starts what was rendered, by the engine's own command line tool."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bioclip_jax.errors import UserError
from bioclip_jax.launching.rendering import Rendering, quoted, write
from bioclip_jax.launching.targets import TARGETS


def submit(target: str, rendering: Rendering, folder: Path) -> None:
    """Writes the files and runs the commands; what the engine says goes through as it is.

    Raises:
        UserError: the engine's tool is not here, or it failed.
    """
    program = TARGETS[target].program
    if shutil.which(program) is None:
        raise UserError(f"{program} is not on the path, and --submit needs it; {TARGETS[target].install}")
    write(rendering, folder)
    for words in rendering.commands_in(str(folder)):
        print(f"$ {quoted(words)}", file=sys.stderr, flush=True)
        try:
            code = subprocess.run(words, check=False).returncode
        except OSError as error:
            raise UserError(f"{words[0]}: {error.strerror}") from None
        if code:
            raise UserError(f"{program} ended with exit code {code}; what it said stands above")
