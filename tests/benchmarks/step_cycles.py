"""Where a training step's time goes on a TPU that is not here, by its compiler's own estimates.

    step_cycles.py [--pairs N] [VARIANT ...]

Each scheduled fusion carries `estimated_cycles`; loop bodies count as often as they turn. A custom kernel carries no
estimate. It counts as the longest of its matrix products at peak (padded to whole tiles), its bytes at full bandwidth,
and the instructions of its schedule, one a cycle (planning.kernel_schedule). Not in it: waiting for other chips, copies
that overlap, and whatever the estimate leaves out. Needs pip install 'bioclip-jax[tpu]' on x86 Linux; two to five
minutes a variant on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from bioclip_jax.config import CLIPConfig, MeshConfig, TrainConfig
from bioclip_jax.planning.ask import ask
from bioclip_jax.planning.topology import parse

TOPOLOGY, CHIPS = "v5e-16", 16
# Mesh settings, tokens of a caption and the rest of the config.
VARIANTS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (77, {"attention": "xla", "remat_policy": "attention"}),
    "kernel": (77, {"attention": "pallas", "remat_policy": "attention"}),
    "text-32": (32, {"attention": "pallas", "remat_policy": "attention"}),
    "context": (32, {"attention": "pallas", "remat_policy": "context"}),
    "mlp": (32, {"attention": "pallas", "remat_policy": "mlp"}),
    "full": (32, {"attention": "pallas", "remat_policy": "full"}),
}


def measure(name: str, pairs: int) -> None:
    """Asks about a variant and prints what it takes."""
    tokens, fields = VARIANTS[name]
    config = TrainConfig(
        model=CLIPConfig.vit_l14(),
        global_batch_size=pairs * CHIPS,
        mesh=MeshConfig(shard_optimizer=True),
        **fields,
    )
    answer = ask(config, parse(TOPOLOGY), {"bio": tokens})
    if answer.memory is None:
        print(f"{name}: does not fit: {answer.needed / 2**30:.1f} of {answer.available / 2**30:.1f} GiB", flush=True)
        return
    low, high = (1e3 * sum(part[end] for part in answer.parts.values()) for end in (0, 1))
    line = ", ".join(f"{part} {1e3 * end:.1f}" for part, (_, end) in sorted(answer.parts.items()))
    print(
        f"{name}: {high:.0f} ms, {low:.0f} with kernels by their arithmetic (remat_policy {config.remat_policy}, "
        f"{tokens} tokens; {answer.memory.total / 2**30:.1f} GiB, "
        f"{answer.memory.activations / 2**30:.1f} of it kept): {line}",
        flush=True,
    )


def main() -> None:
    """Measures the variants that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--pairs", type=int, default=128, help="of images and texts on each chip")
    arguments = parser.parse_args()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "libtpu", "flax"))
    print(f"ViT-L/14, {arguments.pairs} pairs a chip, {TOPOLOGY}; {versions}; {datetime.date.today()}", flush=True)
    for name in arguments.variants or VARIANTS:
        measure(name, arguments.pairs)


if __name__ == "__main__":
    main()
