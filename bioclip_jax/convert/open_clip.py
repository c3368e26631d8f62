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
from bioclip_jax.errors import UserError
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
    return config, preprocessing(description), parameters


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
    path.mkdir(parents=True, exist_ok=True)
    temporary = path / (WEIGHTS_NAME + ".tmp")
    safetensors.numpy.save_file(state, temporary, metadata={"format": "pt"})
    temporary.replace(path / WEIGHTS_NAME)
    (path / CONFIG_NAME).write_text(json.dumps(describe(config, preprocess), indent=2), encoding="utf-8")


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
        _refuse_other_models(vision, text, where)
        width = int(vision["width"])
        return CLIPConfig(
            embed_dim=int(model["embed_dim"]),
            vision=VisionConfig(
                image_size=int(vision["image_size"]),
                patch_size=int(vision["patch_size"]),
                width=width,
                layers=int(vision["layers"]),
                heads=width // int(vision.get("head_width", 64)),
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
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}: cannot make a model of it: {type(error).__name__} {error}") from None


_PLAIN = {
    "timm_model_name": None,
    "hf_model_name": None,
    "ls_init_value": None,
    "patch_dropout": 0.0,
    "attentional_pool": False,
    "no_ln_pre": False,
    "pos_embed_type": "learnable",
    "final_ln_after_pool": False,
    "pool_type": ("tok", "argmax"),
    "embed_cls": False,
    "no_causal_mask": False,
    "proj_bias": False,
    "proj_type": "linear",
}


def _refuse_other_models(vision: dict[str, Any], text: dict[str, Any], where: Path) -> None:
    for tower, fields in (("vision_cfg", vision), ("text_cfg", text)):
        for name, plain in _PLAIN.items():
            allowed = plain if isinstance(plain, tuple) else (plain, None)
            if name in fields and fields[name] not in allowed:
                raise UserError(f"{where}: {tower}.{name} is {fields[name]!r}; only plain ViT CLIP models can be read")
    if not isinstance(vision.get("layers"), int):
        raise UserError(f"{where}: vision_cfg.layers is {vision.get('layers')!r}; ResNet towers cannot be read")


def preprocessing(description: dict[str, Any]) -> Preprocessing:
    """Our preprocessing from the content of `open_clip_config.json`; absent fields take OpenCLIP's defaults."""
    fields = description.get("preprocess_cfg") or {}
    return Preprocessing(
        mean=tuple(fields.get("mean", OPENAI_MEAN)),
        std=tuple(fields.get("std", OPENAI_STD)),
        geometry="squash" if fields.get("resize_mode") == "squash" else "center_crop",
        interpolation=fields.get("interpolation", "bicubic"),
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object")
    return value
