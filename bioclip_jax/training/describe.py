"""What a config would train, in a few lines: `bioclip-jax train CONFIG --dry-run`."""

from __future__ import annotations

import math

import jax

from bioclip_jax.config import DataConfig, TrainConfig
from bioclip_jax.models import clip
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.pipeline.loader import Loader
from bioclip_jax.training.data import BIO, REPLAY, open_streams, records
from bioclip_jax.training.initial import open_initial
from bioclip_jax.training.loop import check_devices, step_flops


def describe(config: TrainConfig) -> str:
    """Checks data, batch and mesh as a run would, and says how large it is.

    Raises:
        UserError: what the run itself would say of its data, batch and devices.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    check_devices(config)
    streams = open_streams(config, mesh)
    start = "random weights"
    if config.initial_weights:
        start = f"the weights of {config.initial_weights}, {open_initial(config).kind}"
    _, shapes, _ = clip.abstract(config.model)
    towers = {name: sum(math.prod(x.shape) for x in jax.tree.leaves(shapes[name])) for name in ("visual", "text")}
    tokens = streams[BIO].tokens
    pairs = sum(loader.global_batch_size for loader in streams.values())
    step = step_flops(config, streams)
    vision = config.model.vision
    device = jax.local_devices()[0]
    return "\n".join(
        [
            f"model     {sum(towers.values()) / 1e6:.1f} M parameters (image tower {towers['visual'] / 1e6:.1f} M, "
            f"text tower {towers['text'] / 1e6:.1f} M), {vision.image_size} px in patches of {vision.patch_size}, "
            f"{tokens} tokens",
            f"start     {start}",
            *_data_lines("data", streams[BIO], config.data, config.total_steps),
            *(_data_lines("replay", streams[REPLAY], config.replay, config.total_steps) if REPLAY in streams else []),
            f"training  {config.total_steps:,} steps of {pairs:,} pairs: {config.total_steps * pairs:,} pairs",
            f"compute   {step / 1e12:.3g} TFLOP a step, {step * config.total_steps / 1e15:.3g} PFLOP in all, "
            f"in {config.dtype}",
            f"devices   {mesh.size} x {device.device_kind}, mesh {dict(mesh.shape)}",
        ]
    )


def _data_lines(name: str, loader: Loader, data: DataConfig, steps: int) -> list[str]:
    passes = steps * loader.global_batch_size / records(loader)
    where = [f"split {one.split} in {one.dataset}" for one in data.datasets]
    return [
        f"{name:<10}{records(loader):,} records of {', '.join(where)}; {loader.global_batch_size:,} a step, "
        f"{passes:.1f} passes over them"
    ]
