"""What a config would train, in a few lines: `bioclip-jax train CONFIG --dry-run`."""

from __future__ import annotations

import math

import jax

from bioclip_jax.config import TrainConfig
from bioclip_jax.models import clip, flops
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.training.initial import open_initial
from bioclip_jax.training.loop import check_devices, open_loader


def describe(config: TrainConfig) -> str:
    """Checks data, batch and mesh as a run would, and says how large it is.

    Raises:
        UserError: what the run itself would say of its data, batch and devices.
    """
    loader, mesh = open_loader(config), make_mesh(config.mesh.data, config.mesh.fsdp)
    check_devices(config, mesh.size)
    start = "random weights"
    if config.initial_weights:
        start = f"the weights of {config.initial_weights}, {open_initial(config).kind}"
    _, shapes, _ = clip.abstract(config.model)
    towers = {name: sum(math.prod(x.shape) for x in jax.tree.leaves(shapes[name])) for name in ("visual", "text")}
    tokens, records = loader.sample.tokens, len(loader.source)
    seen = config.total_steps * config.global_batch_size
    step = flops.train_flops(config.model, config.global_batch_size, tokens)
    vision = config.model.vision
    device = jax.local_devices()[0]
    return "\n".join(
        [
            f"model     {sum(towers.values()) / 1e6:.1f} M parameters (image tower {towers['visual'] / 1e6:.1f} M, "
            f"text tower {towers['text'] / 1e6:.1f} M), {vision.image_size} px in patches of {vision.patch_size}, "
            f"{tokens} tokens",
            f"start     {start}",
            f"data      {records:,} records of split {config.data.split} in {config.data.dataset}",
            f"training  {config.total_steps:,} steps of {config.global_batch_size:,} pairs: {seen:,} pairs, "
            f"{seen / records:.1f} passes over the data",
            f"compute   {step / 1e12:.3g} TFLOP a step, {step * config.total_steps / 1e15:.3g} PFLOP in all, "
            f"in {config.dtype}",
            f"devices   {mesh.size} x {device.device_kind}, mesh {dict(mesh.shape)}",
        ]
    )
