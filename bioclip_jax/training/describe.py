"""What a config would train, in a few lines: `bioclip-jax train CONFIG --dry-run`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from bioclip_jax.config import DataConfig, TrainConfig
from bioclip_jax.convert.hub import PREFIX
from bioclip_jax.models.flops import step_flops
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.pipeline.loader import Loader
from bioclip_jax.pipeline.names import is_missing
from bioclip_jax.training.data import BIO, REPLAY, open_streams, records, species_of
from bioclip_jax.training.initial import open_initial
from bioclip_jax.training.run import check_devices
from bioclip_jax.training.step import make_program


def describe(config: TrainConfig) -> str:
    """Checks data, batch and mesh as a run would, and says how large it is; a plan can be read where its data are not.

    Raises:
        UserError: what the run itself would say of its data, batch and devices.
    """
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp)
    check_devices(config)
    datas = {BIO: config.data, **({REPLAY: config.replay} if config.replay_batch_size else {})}
    missing = [one.dataset for data in datas.values() for one in data.datasets if is_missing(one.dataset)]
    streams = {} if missing else open_streams(config, mesh)
    context = config.model.text.context_length
    tokens = {name: streams[name].tokens if streams else context for name in datas}
    state = make_program(config, mesh, species_of(streams) if streams else 1).abstract_state
    lines = [
        _model_line(config, state.parameters, tokens),
        f"start     {_start(config)}",
        *(_data_line(name, data, config, streams.get(name)) for name, data in datas.items()),
        _training_line(config),
        _schedule_line(config),
        _compute_line(config, tokens),
        _memory_line(state, mesh),
        _checkpoint_line(config, state),
        f"devices   {mesh.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}",
    ]
    if missing:
        lines.append(
            f"missing   {', '.join(missing)}: not on this machine; captions count as {context} tokens till then"
        )
    return "\n".join(lines)


def _model_line(config: TrainConfig, parameters: Mapping[str, Any], tokens: Mapping[str, int]) -> str:
    towers = {name: sum(math.prod(x.shape) for x in jax.tree.leaves(parameters[name])) for name in ("visual", "text")}
    vision = config.model.vision
    locked = f"; locked: {' and '.join(config.locked)}" if config.locked else ""
    lengths = " and ".join(str(length) for length in tokens.values())
    return (
        f"model     {sum(towers.values()) / 1e6:.1f} M parameters (image tower {towers['visual'] / 1e6:.1f} M, "
        f"text tower {towers['text'] / 1e6:.1f} M), {vision.image_size} px in patches of {vision.patch_size}, "
        f"{lengths} tokens{locked}"
    )


def _start(config: TrainConfig) -> str:
    if not config.initial_weights:
        return "random weights"
    if config.initial_weights.startswith(PREFIX):  # a plan asks no network
        return f"the weights of {config.initial_weights}"
    return f"the weights of {config.initial_weights}, {open_initial(config).kind}"


def _data_line(name: str, data: DataConfig, config: TrainConfig, loader: Loader | None) -> str:
    label = "data" if name == BIO else name
    rows = config.global_batch_size if name == BIO else config.replay_batch_size
    where = ", ".join(f"split {one.split} in {one.dataset}" for one in data.datasets)
    if loader is None:
        return f"{label:<10}{where}; {rows:,} a step, {rows * config.total_steps:,} in all"
    count = records(loader)
    passes = config.total_steps * rows / count
    return f"{label:<10}{count:,} records of {where}; {rows:,} a step, {passes:.1f} passes over them"


def _training_line(config: TrainConfig) -> str:
    rows = config.global_batch_size + config.replay_batch_size
    pairs = f"{rows:,} pairs"
    if config.replay_batch_size:
        pairs = f"{config.global_batch_size:,} + {config.replay_batch_size:,} pairs"
    epochs = ""
    if each := config.steps_per_epoch:
        epochs = f" ({config.total_steps / each:g} epochs of {each:,})"
    parts = f" in {config.micro_batches} micro-batches" if config.micro_batches > 1 else ""
    total = config.total_steps * rows
    return f"training  {config.total_steps:,} steps{epochs} of {pairs}{parts}: {total:,} pairs; loss {config.loss.kind}"


def _schedule_line(config: TrainConfig) -> str:
    c = config.optimizer
    then = f"half a cosine to 0 at step {config.total_steps:,}"
    if c.schedule == "constant":
        then = f"constant, the last {c.cooldown_steps:,} steps down to 0" if c.cooldown_steps else "constant"
    warm = f"{c.warmup_steps:,} steps of warm-up to {c.learning_rate:g}"
    return f"schedule  {warm}, {then}; weight decay {c.weight_decay:g}"


def _compute_line(config: TrainConfig, tokens: Mapping[str, int]) -> str:
    step = step_flops(config, tokens)
    total = step * config.total_steps
    return f"compute   {in_flop(step)} a step, {in_flop(total)} in all, in {config.dtype}"


def _memory_line(state: Any, mesh: Mesh) -> str:
    parts = {"parameters": state.parameters, "optimiser": state.optimizer_state, "average": state.ema}
    sizes = {name: _gigabytes(part, per_device=True) for name, part in parts.items() if jax.tree.leaves(part)}
    each = ", ".join(f"{name} {size:.3g}" for name, size in sizes.items())
    return (
        f"memory    {sum(sizes.values()):.3g} GB of state on each of {mesh.size} devices ({each}); gradients and "
        "activations come to it"
    )


def _checkpoint_line(config: TrainConfig, state: Any) -> str:
    c, size = config.checkpoint, _gigabytes(state, per_device=False)
    when = f"every {c.every_steps:,} steps" + (f" and {c.every_minutes:g} minutes" if c.every_minutes else "")
    kept = f"the last {c.keep}"
    if c.keep_every_steps:
        kept += f" and every {c.keep_every_steps:,}th step"
    if c.best_metric:
        kept += f" and the {c.best_is} {c.best_metric}"
    return f"saves     {when}, {size:.3g} GB each; {kept} are kept"


def in_flop(number: float) -> str:
    """As `52.8 PFLOP`."""
    prefixes = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")
    place = min(int(math.log10(max(number, 1)) // 3), len(prefixes) - 1)
    return f"{number / 1000**place:.3g} {prefixes[place]}FLOP"


def _gigabytes(tree: Any, *, per_device: bool) -> float:
    leaves = jax.tree.leaves(tree)
    shapes = [(leaf.sharding.shard_shape(leaf.shape) if per_device else leaf.shape, leaf.dtype) for leaf in leaves]
    return sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes) / 1e9
