"""One table of names: our parameters and OpenCLIP's, applied in both directions.

A row is (our path, OpenCLIP's key, how the array is laid out). `{i}` in a key is the layer: ours are stacked along a
leading axis, OpenCLIP has one tensor per layer. Every tensor has to be accounted for; all faults are reported at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np

from bioclip_jax.config import CLIPConfig
from bioclip_jax.errors import UserError

Layout = Literal["same", "transposed", "patches"]

_BLOCK: tuple[tuple[str, str, Layout], ...] = (
    ("ln_1/scale", "ln_1.weight", "same"),
    ("ln_1/bias", "ln_1.bias", "same"),
    ("qkv/kernel", "attn.in_proj_weight", "transposed"),
    ("qkv/bias", "attn.in_proj_bias", "same"),
    ("out/kernel", "attn.out_proj.weight", "transposed"),
    ("out/bias", "attn.out_proj.bias", "same"),
    ("ln_2/scale", "ln_2.weight", "same"),
    ("ln_2/bias", "ln_2.bias", "same"),
    ("fc/kernel", "mlp.c_fc.weight", "transposed"),
    ("fc/bias", "mlp.c_fc.bias", "same"),
    ("proj/kernel", "mlp.c_proj.weight", "transposed"),
    ("proj/bias", "mlp.c_proj.bias", "same"),
)

_FIXED: tuple[tuple[str, str, Layout], ...] = (
    ("logit_scale", "logit_scale", "same"),
    ("visual/class_embedding", "visual.class_embedding", "same"),
    ("visual/positional_embedding", "visual.positional_embedding", "same"),
    ("visual/patch_embedding/kernel", "visual.conv1.weight", "patches"),
    ("visual/ln_pre/scale", "visual.ln_pre.weight", "same"),
    ("visual/ln_pre/bias", "visual.ln_pre.bias", "same"),
    ("visual/ln_post/scale", "visual.ln_post.weight", "same"),
    ("visual/ln_post/bias", "visual.ln_post.bias", "same"),
    ("visual/proj", "visual.proj", "same"),
    ("visual/replay_proj", "visual.continual_proj", "same"),
    ("text/token_embedding", "token_embedding.weight", "same"),
    ("text/positional_embedding", "positional_embedding", "same"),
    ("text/ln_final/scale", "ln_final.weight", "same"),
    ("text/ln_final/bias", "ln_final.bias", "same"),
    ("text/proj", "text_projection", "same"),
)


def _rows(config: CLIPConfig) -> Iterator[tuple[str, list[str], Layout]]:
    """(our path, its OpenCLIP keys: several for a stacked array, layout) for every parameter of a model."""
    for ours, theirs, layout in _FIXED:
        if ours != "visual/replay_proj" or config.replay_projector:
            yield ours, [theirs], layout
    towers = (("visual", "visual.", config.vision.layers), ("text", "", config.text.layers))
    for (tower, prefix, layers), (ours, theirs, layout) in itertools.product(towers, _BLOCK):
        keys = [f"{prefix}transformer.resblocks.{i}.{theirs}" for i in range(layers)]
        yield f"{tower}/blocks/{ours}", keys, layout


def _import(array: np.ndarray, layout: Layout) -> np.ndarray:
    if layout == "transposed":
        return array.T
    if layout == "patches":  # [width, channels, row, column] -> [(row, column, channel), width]
        return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    return array


def _export(array: np.ndarray, layout: Layout) -> np.ndarray:
    if layout == "transposed":
        return array.T
    if layout == "patches":
        side = round((array.shape[0] / 3) ** 0.5)
        return array.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
    return array


def to_open_clip(parameters: Mapping[str, Any], config: CLIPConfig) -> dict[str, np.ndarray]:
    """Our parameter tree as OpenCLIP's state dict, types kept, every array C-contiguous."""
    flat = _flatten(parameters)
    state: dict[str, np.ndarray] = {}
    for ours, keys, layout in _rows(config):
        array = np.asarray(flat.pop(ours))
        layers = array if "/blocks/" in ours else array[None]
        for key, layer in zip(keys, layers, strict=True):
            state[key] = np.array(_export(layer, layout), order="C")
    if flat:
        raise UserError(f"no OpenCLIP name for the parameter {sorted(flat)[0]!r}")
    return state


def from_open_clip(state: Mapping[str, np.ndarray], shapes: Mapping[str, Any], config: CLIPConfig) -> dict[str, Any]:
    """OpenCLIP's state dict as our parameter tree; `shapes` is the tree that `models.clip.abstract` gives.

    Raises:
        UserError: keys are missing, left over, or of another shape; the message lists the first of each kind.
    """
    expected, flat = _flatten(shapes), {}
    missing, wrong, used = [], [], set()
    for ours, keys, layout in _rows(config):
        used.update(keys)
        absent = [key for key in keys if key not in state]
        if absent:
            missing += absent
            continue
        arrays = [_import(np.asarray(state[key]), layout) for key in keys]
        array = np.stack(arrays) if "/blocks/" in ours else arrays[0]
        if array.shape != tuple(expected[ours].shape):
            wrong.append(f"{keys[0]} gives {ours} the shape {array.shape}, not {tuple(expected[ours].shape)}")
        flat[ours] = array
    # Old checkpoints carry the causal mask as a buffer; it is no parameter.
    left = sorted(set(state) - used - {"attn_mask", "visual.continual_proj"})
    faults = [f"missing: {missing[0]} (of {len(missing)})"] if missing else []
    faults += [f"left over: {left[0]} (of {len(left)})"] if left else []
    faults += wrong[:1]
    if faults:
        raise UserError("these are not the weights of the model in the config: " + "; ".join(faults))
    return _unflatten(flat)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat.update(_flatten(value, path + "/") if isinstance(value, Mapping) else {path: value})
    return flat


def _unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
