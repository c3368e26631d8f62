"""Instructions that the attention kernels' schedules have, by the compiler for TPUs: what their time cannot be below.

Very long instruction words, one each cycle if nothing waits, from the final listing that libtpu writes on request. The
request is read when libtpu is loaded, so a process of its own compiles the kernels, and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

KERNELS = ("attention_forward_kernel", "attention_backward_kernel")
_CORES = {"v4": 2, "v5p": 2}  # which share the programs of a call; a device of the other generations has one
_SMALLEST = {"v5e": "v5e:1x1", "v6e": "v6e:1x1"}  # the others' smallest slice is a host
# An address, perhaps a label, as many > as the instruction is deep in loops, and the instruction in braces.
_LINE = re.compile(r"\s*(?:0x[0-9a-f]+|0)\s+(?:[A-Z]{2})?\s*: ([> ]*)\{")
_PATIENCE = 600  # seconds; some are usual


@dataclasses.dataclass(frozen=True)
class Call:
    """The shape of an attention: sequences, and their length; heads, and their width."""

    batch: int
    tokens: int
    heads: int
    head_width: int
    is_causal: bool


@functools.cache
def schedules(generation: str, calls: tuple[Call, ...]) -> tuple[dict[str, int], ...] | None:
    """Cycles of a call of each kernel, for each shape, as far as the compiler writes such listings.

    None where the process that compiles them failed, or took longer than ten minutes.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]
    question = json.dumps({"generation": generation, "calls": [dataclasses.asdict(call) for call in calls]})
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
    try:
        run = subprocess.run(
            command, input=question, env=environment, capture_output=True, text=True, timeout=_PATIENCE, check=True
        )
        return tuple(json.loads(run.stdout.splitlines()[-1]))
    except (subprocess.SubprocessError, ValueError, IndexError):
        return None


def bundles(listing: str) -> dict[int, int]:
    """Instructions of a listing by the depth of the loops that they are in."""
    count: dict[int, int] = {}
    for line in listing.splitlines():
        if found := _LINE.match(line):
            depth = found.group(1).count(">")
            count[depth] = count.get(depth, 0) + 1
    return count


def main() -> None:
    """Answers a question on standard input, as `schedules` asks it."""
    question = json.load(sys.stdin)
    generation, calls = question["generation"], [Call(**call) for call in question["calls"]]
    with tempfile.TemporaryDirectory() as folder:
        flags = (
            f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
        )
        os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {flags}".strip()
        answers = []
        for call in calls:
            before = set(Path(folder).iterdir())
            _compile(generation, call)
            answers.append(_cycles(generation, call, sorted(set(Path(folder).iterdir()) - before)))
    print(json.dumps(answers))


def _compile(generation: str, call: Call) -> None:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from bioclip_jax.models import attention_tpu
    from bioclip_jax.parallel.mesh import make_mesh
    from bioclip_jax.planning import topology

    slice_ = topology.parse(_SMALLEST.get(generation, f"{generation}:2x2x1"))
    placed = NamedSharding(make_mesh(devices=topology.devices(slice_)[:1]), PartitionSpec())

    def gradient(qkv: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
        out, back = jax.vjp(lambda qkv: attention_tpu.attention(qkv, call.heads, call.is_causal), qkv)
        return out, back(cotangent)[0]

    width = call.heads * call.head_width
    arrays = (jax.ShapeDtypeStruct((call.batch, call.tokens, n * width), jnp.bfloat16, sharding=placed) for n in (3, 1))
    jax.jit(gradient).lower(*arrays).compile()


def _cycles(generation: str, call: Call, files: Sequence[Path]) -> dict[str, int]:
    from bioclip_jax.models.attention_tpu import group_lanes, programs

    turns = {0: 1.0, 1: programs(call.batch, call.tokens) / _CORES.get(generation, 1)}
    turns[2] = turns[1] * (call.heads * call.head_width // group_lanes(call.head_width))
    found = {}
    for kernel in KERNELS:
        listings = [file for file in files if re.fullmatch(rf".*{kernel}(?!.*schedule).*final_bundles\.txt", file.name)]
        if len(listings) == 1:
            depths = bundles(listings[0].read_text(errors="replace"))
            found[kernel] = round(sum(turns.get(depth, 0) * count for depth, count in depths.items()))
    return found
