"""OpenCLIP folders: `open_clip_config.json` beside `open_clip_model.safetensors`, read and written without PyTorch.

A folder written here loads with `open_clip.create_model_and_transforms("local-dir:FOLDER")`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from bioclip_jax.config import OPENAI_MEAN, OPENAI_STD, CLIPConfig, Preprocessing, TextConfig, VisionConfig
from bioclip_jax.convert.names import from_open_clip, to_open_clip
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.models import clip

CONFIG_NAME, WEIGHTS_NAME = "open_clip_config.json", "open_clip_model.safetensors"
REPLAY_KEY = "visual.continual_proj"


def is_open_clip(path: Path) -> bool:
    """Whether a folder is meant to be an OpenCLIP model."""
    return (path / CONFIG_NAME).is_file()


def load(path: Path) -> tuple[CLIPConfig, Preprocessing, clip.Parameters]:
    """Shape, preprocessing and parameters (NumPy arrays, the file's types) of an OpenCLIP folder.

    Raises:
        UserError: a file is missing or damaged, the model is not a plain ViT CLIP, or config and weights disagree.
    """
    description = _read_json(path / CONFIG_NAME)
    weights = path / WEIGHTS_NAME
    try:
        state = safetensors.numpy.load_file(weights)
    except FileNotFoundError:
        raise UserError(f"{path}: there is {CONFIG_NAME} but no {WEIGHTS_NAME}") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise UserError(f"{weights}: not a readable safetensors file ({error})") from None
    config = model_config(description, replay_projector=REPLAY_KEY in state, where=path / CONFIG_NAME)
    _, shapes, _ = clip.abstract(config)
    try:
        parameters = from_open_clip(state, shapes, config)
    except UserError as error:
        raise UserError(f"{weights}: {error}") from None
    return config, preprocessing(description, path / CONFIG_NAME), parameters


def save(
    path: Path,
    config: CLIPConfig,
    preprocess: Preprocessing,
    parameters: clip.Parameters,
    *,
    keep_replay_projector: bool = False,
) -> None:
    """Writes an OpenCLIP folder. Stock OpenCLIP has no second projector, so it is left out unless asked for."""
    state = to_open_clip(parameters, config)
    if not keep_replay_projector:
        state.pop(REPLAY_KEY, None)
    temporary = path / (WEIGHTS_NAME + ".tmp")
    try:
        path.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(state, temporary, metadata={"format": "pt"})
        temporary.replace(path / WEIGHTS_NAME)
        (path / CONFIG_NAME).write_text(json.dumps(describe(config, preprocess), indent=2), encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: the weights cannot be written ({error})") from None
    finally:
        if path.is_dir():
            temporary.unlink(missing_ok=True)


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
    return {
        "model_cfg": model,
        "preprocess_cfg": {
            "mean": list(preprocess.mean),
            "std": list(preprocess.std),
            "interpolation": preprocess.interpolation,
            "resize_mode": "squash" if preprocess.geometry == "squash" else "shortest",
        },
    }


def model_config(description: dict[str, Any], *, replay_projector: bool, where: Path) -> CLIPConfig:
    """Our config from the content of `open_clip_config.json`; absent fields take OpenCLIP's defaults.

    Raises:
        UserError: a field is missing, or asks for what a plain ViT CLIP does not have.
    """
    try:
        model = description["model_cfg"]
        vision, text = model["vision_cfg"], model["text_cfg"]
        _refuse_other_models({"model_cfg": model, "vision_cfg": vision, "text_cfg": text}, where)
        width, head_width = int(vision["width"]), int(vision.get("head_width", 64))
        if width % head_width:
            raise UserError(f"{where}: vision_cfg.width {width} is not a multiple of head_width {head_width}")
        return CLIPConfig(
            embed_dim=int(model["embed_dim"]),
            vision=VisionConfig(
                image_size=int(vision["image_size"]),
                patch_size=int(vision["patch_size"]),
                width=width,
                layers=int(vision["layers"]),
                heads=width // head_width,
                mlp_ratio=float(vision.get("mlp_ratio", 4.0)),
            ),
            text=TextConfig(
                context_length=int(text.get("context_length", 77)),
                vocab_size=int(text.get("vocab_size", 49408)),
                width=int(text["width"]),
                layers=int(text["layers"]),
                heads=int(text["heads"]),
                mlp_ratio=float(text.get("mlp_ratio", 4.0)),
            ),
            activation="quick_gelu" if model.get("quick_gelu") else "gelu",
            replay_projector=replay_projector,
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError, UsageError) as error:
        raise UserError(f"{where}: cannot make a model of it: {type(error).__name__} {error}") from None


_READ = {
    "model_cfg": ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu"),
    "vision_cfg": ("image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio"),
    "text_cfg": ("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"),
}
"""The fields that a plain ViT CLIP has; any other one that is set asks for something else."""
_HARMLESS = {"pool_type": ("tok", "argmax"), "proj_type": ("linear",), "pos_embed_type": ("learnable",)}
"""Values of other fields that say what a plain ViT CLIP does anyway."""


def _refuse_other_models(parts: dict[str, dict[str, Any]], where: Path) -> None:
    if not isinstance(parts["vision_cfg"].get("layers"), int):
        raise UserError(f"{where}: vision_cfg.layers is {parts['vision_cfg'].get('layers')!r}; only ViTs can be read")
    for part, fields in parts.items():
        for name, value in fields.items():
            if name not in _READ[part] and value and value not in _HARMLESS.get(name, ()):
                raise UserError(f"{where}: {part}.{name} is {value!r}; only plain ViT CLIP models can be read")


def preprocessing(description: dict[str, Any], where: Path) -> Preprocessing:
    """Our preprocessing from the content of `open_clip_config.json`; absent fields take OpenCLIP's defaults.

    Raises:
        UserError: a geometry or interpolation that we do not have, or numbers that are none.
    """
    fields = description.get("preprocess_cfg") or {}
    resize, interpolation = fields.get("resize_mode") or "shortest", fields.get("interpolation") or "bicubic"
    if resize not in ("shortest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise UserError(f"{where}: resize_mode {resize!r} with interpolation {interpolation!r} cannot be reproduced")
    return Preprocessing(
        mean=_three_numbers(fields.get("mean") or OPENAI_MEAN, "mean", where),
        std=_three_numbers(fields.get("std") or OPENAI_STD, "std", where),
        geometry="squash" if resize == "squash" else "center_crop",
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
    )


def _three_numbers(value: Any, name: str, where: Path) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(x) for x in (value if isinstance(value, list | tuple) else [value] * 3))
    except (TypeError, ValueError):
        raise UserError(f"{where}: preprocess_cfg.{name} is {value!r}, not three numbers") from None
    return red, green, blue


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
