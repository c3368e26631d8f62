"""One table of names: our parameters, OpenCLIP's tensors and Hugging Face's, applied in every direction.

A row says how a parameter is called by each and how its array is laid out there. Ours are stacked over layers; the
others have one tensor for each layer, named with its number, and Hugging Face has queries, keys and values apart.
Everything here works on shapes and NumPy (or JAX) arrays; nothing is read or computed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from bioclip_jax.config import CLIPConfig

Format = Literal["open_clip", "hugging_face"]
Layout = Literal["same", "transposed", "patches"]
"""`patches`: [width, channels, row, column] where ours is [(row, column, channel), width]."""
Shape = tuple[int, ...]

REPLAY_KEY, BIAS_KEY = "visual.continual_proj", "logit_bias"

# Ours, OpenCLIP's, Hugging Face's, the layout of both. `q|k|v` stands for three tensors, one below the other.
_BLOCK: tuple[tuple[str, str, str, Layout], ...] = (
    ("ln_1/scale", "ln_1.weight", "layer_norm1.weight", "same"),
    ("ln_1/bias", "ln_1.bias", "layer_norm1.bias", "same"),
    ("qkv/kernel", "attn.in_proj_weight", "self_attn.q|k|v_proj.weight", "transposed"),
    ("qkv/bias", "attn.in_proj_bias", "self_attn.q|k|v_proj.bias", "same"),
    ("out/kernel", "attn.out_proj.weight", "self_attn.out_proj.weight", "transposed"),
    ("out/bias", "attn.out_proj.bias", "self_attn.out_proj.bias", "same"),
    ("ln_2/scale", "ln_2.weight", "layer_norm2.weight", "same"),
    ("ln_2/bias", "ln_2.bias", "layer_norm2.bias", "same"),
    ("fc/kernel", "mlp.c_fc.weight", "mlp.fc1.weight", "transposed"),
    ("fc/bias", "mlp.c_fc.bias", "mlp.fc1.bias", "same"),
    ("proj/kernel", "mlp.c_proj.weight", "mlp.fc2.weight", "transposed"),
    ("proj/bias", "mlp.c_proj.bias", "mlp.fc2.bias", "same"),
)
_BLOCKS = {
    "visual": ("visual.transformer.resblocks.{layer}.", "vision_model.encoder.layers.{layer}."),
    "text": ("transformer.resblocks.{layer}.", "text_model.encoder.layers.{layer}."),
}
# Here the two differ in layout as well; the empty name: that format has no such tensor.
_REST: tuple[tuple[str, str, Layout, str, Layout], ...] = (
    ("visual/class_embedding", "visual.class_embedding", "same", "vision_model.embeddings.class_embedding", "same"),
    (
        "visual/positional_embedding",
        "visual.positional_embedding",
        "same",
        "vision_model.embeddings.position_embedding.weight",
        "same",
    ),
    (
        "visual/patch_embedding/kernel",
        "visual.conv1.weight",
        "patches",
        "vision_model.embeddings.patch_embedding.weight",
        "patches",
    ),
    (
        "visual/ln_pre/scale",
        "visual.ln_pre.weight",
        "same",
        "vision_model.pre_layrnorm.weight",
        "same",
    ),  # their spelling
    ("visual/ln_pre/bias", "visual.ln_pre.bias", "same", "vision_model.pre_layrnorm.bias", "same"),
    ("visual/ln_post/scale", "visual.ln_post.weight", "same", "vision_model.post_layernorm.weight", "same"),
    ("visual/ln_post/bias", "visual.ln_post.bias", "same", "vision_model.post_layernorm.bias", "same"),
    ("visual/proj", "visual.proj", "same", "visual_projection.weight", "transposed"),
    ("visual/replay_proj", REPLAY_KEY, "same", "", "same"),
    ("text/token_embedding", "token_embedding.weight", "same", "text_model.embeddings.token_embedding.weight", "same"),
    (
        "text/positional_embedding",
        "positional_embedding",
        "same",
        "text_model.embeddings.position_embedding.weight",
        "same",
    ),
    ("text/ln_final/scale", "ln_final.weight", "same", "text_model.final_layer_norm.weight", "same"),
    ("text/ln_final/bias", "ln_final.bias", "same", "text_model.final_layer_norm.bias", "same"),
    ("text/proj", "text_projection", "same", "text_projection.weight", "transposed"),
    ("logit_scale", "logit_scale", "same", "logit_scale", "same"),
    ("logit_bias", BIAS_KEY, "same", "", "same"),
)

IGNORED: Mapping[Format, frozenset[str]] = {
    # Buffers of old checkpoints, and what OpenAI's own files say about themselves.
    "open_clip": frozenset({"attn_mask", "input_resolution", "context_length", "vocab_size"}),
    "hugging_face": frozenset(
        {"text_model.embeddings.position_ids", "vision_model.embeddings.position_ids", "text_model.eos_token_id"}
    ),
}
"""Names in files that are no parameters."""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One of our parameters, and what it is called and how it lies elsewhere."""

    path: str
    """Ours, as text/blocks/qkv/kernel."""
    shape: Shape
    """Ours, of one layer."""
    layers: int | None
    """Length of the leading axis; None for what is not stacked."""
    names: Mapping[Format, str]
    layouts: Mapping[Format, Layout]

    @property
    def full_shape(self) -> Shape:
        """Ours, layers included."""
        return self.shape if self.layers is None else (self.layers, *self.shape)

    def exists_in(self, form: Format) -> bool:
        """Whether that format has a place for it."""
        return bool(self.names[form])

    def keys(self, form: Format, layer: int = 0) -> list[str]:
        """The tensors that one layer of it is made of there: one, or three that stand below one another."""
        name = self.names[form].format(layer=layer)
        return [name.replace("q|k|v", letter) for letter in "qkv"] if "q|k|v" in name else [name]

    def file_shape(self, form: Format) -> Shape:
        """Shape of one layer there, its parts below one another."""
        if self.layouts[form] == "patches":
            values, width = self.shape
            side = math.isqrt(values // 3)
            return (width, 3, side, side)
        return self.shape[::-1] if self.layouts[form] == "transposed" else self.shape

    def part_shape(self, form: Format) -> Shape:
        """Shape of each tensor that one layer of it is made of there."""
        shape = self.file_shape(form)
        return (shape[0] // len(self.keys(form)), *shape[1:]) if shape else ()

    def layer_indices(self) -> range:
        """0 .. layers - 1; one pass for what is not stacked."""
        return range(1 if self.layers is None else self.layers)


def parameters_of(config: CLIPConfig) -> tuple[Parameter, ...]:
    """Every parameter of a model."""
    return tuple(_parameters(config))


@lru_cache(maxsize=8)
def expected_shapes(config: CLIPConfig, form: Format) -> Mapping[str, Shape]:
    """Name and shape of every tensor that a file of a model has in that format."""
    shapes: dict[str, Shape] = {}
    for parameter in parameters_of(config):
        if parameter.exists_in(form):
            for layer in parameter.layer_indices():
                shapes.update(dict.fromkeys(parameter.keys(form, layer), parameter.part_shape(form)))
    return shapes


def to_ours(array: Any, layout: Layout, leading: int = 0) -> Any:
    """An array of a file in our layout, as a view where possible; NumPy or JAX, after `leading` axes of any meaning."""
    ahead = tuple(range(leading))
    if layout == "transposed":
        return array.transpose(*ahead, leading + 1, leading)
    if layout == "patches":
        moved = array.transpose(*ahead, leading + 2, leading + 3, leading + 1, leading)
        return moved.reshape(*array.shape[:leading], -1, array.shape[leading])
    return array


def from_ours(array: np.ndarray, layout: Layout) -> np.ndarray:
    """The inverse of `to_ours` for one layer."""
    if layout == "transposed":
        return array.T
    if layout == "patches":
        side = math.isqrt(array.shape[0] // 3)
        return array.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)
    return array


def _parameters(config: CLIPConfig) -> Iterator[Parameter]:
    shapes = _shapes(config)
    absent = {"visual/replay_proj": not config.replay_projector, "logit_bias": not config.logit_bias}
    for path, open_clip, open_clip_layout, hugging_face, hugging_face_layout in _REST:
        if not absent.get(path):
            names: Mapping[Format, str] = {"open_clip": open_clip, "hugging_face": hugging_face}
            layouts: Mapping[Format, Layout] = {"open_clip": open_clip_layout, "hugging_face": hugging_face_layout}
            yield Parameter(path, shapes[path], None, names, layouts)
    for tower, layers in (("visual", config.vision.layers), ("text", config.text.layers)):
        for path, open_clip, hugging_face, layout in _BLOCK:
            before = _BLOCKS[tower]
            names = {"open_clip": before[0] + open_clip, "hugging_face": before[1] + hugging_face}
            layouts = {"open_clip": layout, "hugging_face": layout}
            yield Parameter(f"{tower}/blocks/{path}", shapes[f"{tower}/blocks/{path}"], layers, names, layouts)


def _shapes(config: CLIPConfig) -> dict[str, Shape]:
    """Our shape of every parameter, of one layer; a test compares them with the model's."""
    vision, text, joint = config.vision, config.text, config.embed_dim
    shapes: dict[str, Shape] = {
        "logit_scale": (),
        "logit_bias": (),
        "visual/class_embedding": (vision.width,),
        "visual/positional_embedding": ((vision.image_size // vision.patch_size) ** 2 + 1, vision.width),
        "visual/patch_embedding/kernel": (3 * vision.patch_size**2, vision.width),
        "visual/proj": (vision.width, joint),
        "visual/replay_proj": (vision.width, joint),
        "text/token_embedding": (text.vocab_size, text.width),
        "text/positional_embedding": (text.context_length, text.width),
        "text/proj": (text.width, joint),
    }
    for name, width in (
        ("visual/ln_pre", vision.width),
        ("visual/ln_post", vision.width),
        ("text/ln_final", text.width),
    ):
        shapes |= {f"{name}/scale": (width,), f"{name}/bias": (width,)}
    for name, tower in (("visual", vision), ("text", text)):
        width, hidden = tower.width, int(tower.width * tower.mlp_ratio)
        block: dict[str, Shape] = {
            **{f"ln_{n}/{part}": (width,) for n in (1, 2) for part in ("scale", "bias")},
            "qkv/kernel": (width, 3 * width),
            "qkv/bias": (3 * width,),
            "out/kernel": (width, width),
            "out/bias": (width,),
            "fc/kernel": (width, hidden),
            "fc/bias": (hidden,),
            "proj/kernel": (hidden, width),
            "proj/bias": (width,),
        }
        shapes |= {f"{name}/blocks/{path}": shape for path, shape in block.items()}
    return shapes
