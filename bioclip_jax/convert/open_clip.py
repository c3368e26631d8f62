"""OpenCLIP's folders: `open_clip_config.json` beside the weights.

A folder written here loads with `open_clip.create_model_and_transforms("local-dir:FOLDER")`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bioclip_jax.config import OPENAI_MEAN, OPENAI_STD, CLIPConfig, Preprocessing, TextConfig, VisionConfig
from bioclip_jax.convert.safetensors_files import INDEX_SUFFIX, SafetensorsFiles, read_json
from bioclip_jax.convert.tensors import Tensors, has_replay_projector
from bioclip_jax.convert.torch_files import SUFFIXES, TorchFile
from bioclip_jax.convert.weights import FileWeights, Source
from bioclip_jax.errors import UsageError, UserError

CONFIG_NAME, WEIGHTS_STEM = "open_clip_config.json", "open_clip_model"
WEIGHTS_NAME = f"{WEIGHTS_STEM}.safetensors"

WEIGHTS_NAMES = (
    WEIGHTS_NAME,
    "open_clip_pytorch_model.safetensors",
    f"{WEIGHTS_NAME}{INDEX_SUFFIX}",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Where weights are looked for, in this order: OpenCLIP's, with an index of several files, which it cannot read."""


def open_source(folder: Path) -> Source:
    """An OpenCLIP folder.

    Raises:
        UserError: a file is missing or damaged, the model is not a plain ViT CLIP, or config and weights disagree.
    """
    path = folder / CONFIG_NAME
    description = read_json(path)
    if not isinstance(description.get("model_cfg"), dict):
        raise UserError(f"{path}: there is no model_cfg; it is not an OpenCLIP config")
    found = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: there is {CONFIG_NAME} but no weights ({', '.join(WEIGHTS_NAMES)})")
    # First what kind of model it is: weights of another kind would only give a long list of names.
    config_from(description["model_cfg"], replay_projector=False, where=str(path))
    tensors = open_tensors(found[0])
    config = config_from(
        description["model_cfg"], replay_projector=has_replay_projector(tensors.specs), where=str(path)
    )
    weights = FileWeights(tensors, "open_clip", config, str(found[0]))
    fields = description.get("preprocess_cfg") or {}
    if not isinstance(fields, dict):
        raise UserError(f"{path}: preprocess_cfg is {fields!r:.80}, not an object")
    preprocess = preprocessing_from(fields, config.vision.image_size, str(path))
    return Source(str(folder), "an OpenCLIP folder", config, preprocess, weights, folder.name)


def open_tensors(path: Path) -> Tensors:
    """The tensors of a file, or of several that an index names, by its ending."""
    return TorchFile(path) if path.suffix in SUFFIXES else SafetensorsFiles(path)


def describe(config: CLIPConfig, preprocess: Preprocessing) -> dict[str, Any]:
    """The content of `open_clip_config.json`."""
    vision, text = config.vision, config.text
    model: dict[str, Any] = {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": vision.image_size,
            "layers": vision.layers,
            "width": vision.width,
            "head_width": vision.width // vision.heads,
            "patch_size": vision.patch_size,
            "mlp_ratio": vision.mlp_ratio,
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
            "mlp_ratio": text.mlp_ratio,
        },
    }
    if config.activation == "quick_gelu":
        model["quick_gelu"] = True
    if config.logit_bias:
        model["init_logit_bias"] = -10  # whatever it is: OpenCLIP then has a bias, which the weights replace
    return {
        "model_cfg": model,
        "preprocess_cfg": {
            "size": vision.image_size,
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "resize_mode": "squash" if preprocess.geometry == "squash" else "shortest",
        },
    }


def write_config(folder: Path, config: CLIPConfig, preprocess: Preprocessing) -> None:
    """Writes `open_clip_config.json`."""
    text = json.dumps(describe(config, preprocess), indent=2)
    (folder / CONFIG_NAME).write_text(text + "\n", encoding="utf-8")


def config_from(model: dict[str, Any], *, replay_projector: bool, where: str) -> CLIPConfig:
    """Our config from OpenCLIP's `model_cfg`; absent fields take OpenCLIP's defaults.

    Raises:
        UserError: a field is missing, or asks for what a plain ViT CLIP does not have.
    """
    try:
        vision, text = model["vision_cfg"], model["text_cfg"]
        _refuse_other_models({"model_cfg": model, "vision_cfg": vision, "text_cfg": text}, where)
        width, head_width = whole(vision.get("width", 768)), whole(vision.get("head_width", 64))
        if width % head_width:
            raise UserError(f"{where}: vision_cfg.width {width} is not a multiple of head_width {head_width}")
        return CLIPConfig(
            embed_dim=whole(model["embed_dim"]),
            vision=VisionConfig(
                image_size=_side(vision.get("image_size", 224)),
                patch_size=_side(vision.get("patch_size", 16)),
                width=width,
                layers=whole(vision.get("layers", 12)),
                heads=width // head_width,
                mlp_ratio=float(vision.get("mlp_ratio", 4.0)),
            ),
            text=TextConfig(
                context_length=whole(text.get("context_length", 77)),
                vocab_size=whole(text.get("vocab_size", 49408)),
                width=whole(text.get("width", 512)),
                layers=whole(text.get("layers", 12)),
                heads=whole(text.get("heads", 8)),
                mlp_ratio=float(text.get("mlp_ratio", 4.0)),
            ),
            activation="quick_gelu" if model.get("quick_gelu") else "gelu",
            replay_projector=replay_projector,
            logit_bias=model.get("init_logit_bias") is not None,
        )
    except KeyError as error:
        raise UserError(f"{where}: cannot make a model of it: there is no {error}") from None
    except (TypeError, ValueError, ArithmeticError, AttributeError, UsageError) as error:
        raise UserError(f"{where}: cannot make a model of it: {error}") from None


_READ = {
    "model_cfg": ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias"),
    "vision_cfg": ("image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
}
"""The fields that a plain ViT CLIP has; any other one that is set asks for something else."""
_HARMLESS: dict[str, tuple[Any, ...]] = {
    "pool_type": ("tok", "argmax"),
    "proj_type": ("linear",),
    "pos_embed_type": ("learnable",),
    "block_type": ("default",),
}
"""Values of other fields that say what a plain ViT CLIP does anyway."""
_UNUSED = {
    # Beside a tower of another kind, which is refused itself; for the training of one; for other pools.
    *("timm_pool", "timm_proj", "timm_model_pretrained", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    *("patch_dropout", "attn_pooler_queries", "attn_pooler_heads", "eos_id", "init_logit_scale"),
}
_KINDS = {
    "timm_model_name": "a timm image tower",
    "hf_model_name": "a Hugging Face text tower",
    "hf_tokenizer_name": "another tokenizer",
    "multimodal_cfg": "CoCa",
    "custom_text": "another text tower",
}


def _refuse_other_models(parts: dict[str, dict[str, Any]], where: str) -> None:
    layers = parts["vision_cfg"].get("layers", 12)
    if not isinstance(layers, int):
        raise UserError(f"{where}: vision_cfg.layers is {layers!r}, a ResNet; only plain ViT CLIP models can be read")
    for field, kind in _KINDS.items():  # the telling fields first
        for part, fields in parts.items():
            if fields.get(field):
                raise UserError(
                    f"{where}: {part}.{field} is {fields[field]!r}: {kind}; only plain ViT CLIP models can be read"
                )
    for part, fields in parts.items():
        for name, value in fields.items():
            plain = name in _READ[part] or name in _UNUSED or value in _HARMLESS.get(name, ())
            if value and not plain:
                raise UserError(f"{where}: {part}.{name} is {value!r}; only plain ViT CLIP models can be read")


def _side(value: Any) -> int:
    """A length, or a pair of equal ones."""
    if isinstance(value, list | tuple):
        height, width = value
        if height != width:
            raise ValueError(f"{height} x {width} is not a square")
        value = height
    return whole(value)


def whole(value: Any) -> int:
    """A whole number; not what `int` would make one."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise ValueError(f"{value!r} is not a whole number")
    return int(value)


def preprocessing_from(fields: dict[str, Any], image_size: int, where: str) -> Preprocessing:
    """Our preprocessing from OpenCLIP's `preprocess_cfg`; absent fields take OpenCLIP's defaults.

    Raises:
        UserError: a size, geometry or interpolation that the model or we do not have, or numbers that are none.
    """
    resize, interpolation = fields.get("resize_mode") or "shortest", fields.get("interpolation") or "bicubic"
    if resize not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise UserError(f"{where}: resize_mode {resize!r} with interpolation {interpolation!r} cannot be reproduced")
    size = fields.get("size") or image_size
    if size not in (image_size, [image_size] * 2):
        raise UserError(f"{where}: preprocess_cfg.size is {size}, and the model takes {image_size}")
    return make_preprocessing(
        where,
        mean=three_numbers(fields.get("mean") or OPENAI_MEAN, "preprocess_cfg.mean", where),
        std=three_numbers(fields.get("std") or OPENAI_STD, "preprocess_cfg.std", where),
        geometry="squash" if resize == "squash" else "center_crop",
        interpolation=interpolation,
    )


def make_preprocessing(where: str, **fields: Any) -> Preprocessing:
    """A `Preprocessing`, whose refusals name the file that the fields come from."""
    try:
        return Preprocessing(**fields)
    except UsageError as error:
        raise UserError(f"{where}: {error}") from None


def three_numbers(value: Any, name: str, where: str) -> tuple[float, float, float]:
    """One number for each channel; a single one serves all."""
    try:
        red, green, blue = (float(x) for x in (value if isinstance(value, list | tuple) else [value] * 3))
    except (TypeError, ValueError):
        raise UserError(f"{where}: {name} is {value!r}, not three numbers") from None
    return red, green, blue
