"""Hugging Face's `CLIPModel` folders: `config.json`, `preprocessor_config.json` and safetensors.

A folder written here loads offline with `CLIPModel`, `CLIPProcessor` and the `Auto` classes of transformers. Neither
transformers nor PyTorch is needed to read or write one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bioclip_jax.config import (
    LAYER_NORM_EPS,
    OPENAI_MEAN,
    OPENAI_STD,
    Activation,
    CLIPConfig,
    Preprocessing,
    TextConfig,
    VisionConfig,
)
from bioclip_jax.convert.open_clip import make_preprocessing, open_tensors, three_numbers, whole
from bioclip_jax.convert.safetensors_files import INDEX_SUFFIX, read_json
from bioclip_jax.convert.weights import FileWeights, Source
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.text.tokenizer import END_OF_TEXT, START_OF_TEXT

CONFIG_NAME, WEIGHTS_STEM = "config.json", "model"
PREPROCESSOR_NAME, PROCESSOR_NAME = "preprocessor_config.json", "processor_config.json"
WEIGHTS_NAMES = ("model.safetensors", f"model.safetensors{INDEX_SUFFIX}", "pytorch_model.bin")

# transformers' defaults: a config.json leaves out what equals them.
_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 8,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "eos_token_id": END_OF_TEXT,
}
_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 32,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
}
_PROJECTION_DIM = 512


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder's config.json is that of a Hugging Face model, of whatever kind."""
    path = folder / CONFIG_NAME
    return path.is_file() and bool({"model_type", "architectures"} & read_json(path).keys())


def open_source(folder: Path) -> Source:
    """A Hugging Face folder.

    Raises:
        UserError: a file is missing or damaged, the model is not a CLIP, or config and weights disagree.
    """
    path = folder / CONFIG_NAME
    config = config_from(read_json(path), str(path))
    found = [folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: there is {CONFIG_NAME} but no weights ({', '.join(WEIGHTS_NAMES)})")
    weights = FileWeights(open_tensors(found[0]), "hugging_face", config, str(found[0]))
    preprocess = _preprocessing(folder, config.vision.image_size)
    return Source(str(folder), "a Hugging Face folder", config, preprocess, weights, folder.name)


def _preprocessing(folder: Path, image_size: int) -> Preprocessing:
    for name in (PREPROCESSOR_NAME, PROCESSOR_NAME):
        path = folder / name
        if path.is_file():
            content = read_json(path)
            # What transformers 5 writes of a whole CLIPProcessor.
            fields = content.get("image_processor") if name == PROCESSOR_NAME else content
            if isinstance(fields, dict):
                return preprocessing_from(fields, image_size, str(path))
    print(f"note: {folder} does not say how photos are prepared; OpenAI CLIP's way is assumed", file=sys.stderr)
    return Preprocessing()


def config_from(description: dict[str, Any], where: str) -> CLIPConfig:
    """Our config from a `config.json`; absent fields take transformers' defaults.

    Raises:
        UserError: it describes another kind of model, or one that CLIP's towers here cannot compute.
    """
    kind = description.get("model_type")
    if kind != "clip":
        raise UserError(f"{where}: model_type is {kind!r}; only whole CLIP models (model_type 'clip') can be read")
    try:
        text, vision = (
            _tower(description, name, defaults) for name, defaults in (("text", _TEXT), ("vision", _VISION))
        )
        return CLIPConfig(
            embed_dim=whole(description.get("projection_dim", _PROJECTION_DIM)),
            vision=VisionConfig(
                image_size=whole(vision["image_size"]),
                patch_size=whole(vision["patch_size"]),
                width=whole(vision["hidden_size"]),
                layers=whole(vision["num_hidden_layers"]),
                heads=whole(vision["num_attention_heads"]),
                mlp_ratio=_mlp_ratio(vision),
            ),
            text=TextConfig(
                context_length=whole(text["max_position_embeddings"]),
                vocab_size=whole(text["vocab_size"]),
                width=whole(text["hidden_size"]),
                layers=whole(text["num_hidden_layers"]),
                heads=whole(text["num_attention_heads"]),
                mlp_ratio=_mlp_ratio(text),
            ),
            activation=_checked_activation(text, vision, where),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError, UsageError) as error:
        raise UserError(f"{where}: cannot make a model of it: {error}") from None


def _tower(description: dict[str, Any], name: str, defaults: dict[str, Any]) -> dict[str, Any]:
    # Where old files have the second of the two, it counts alone, as transformers reads them.
    old = description.get(f"{name}_config_dict")
    return {**defaults, **(old if old is not None else description.get(f"{name}_config") or {})}


def _mlp_ratio(tower: dict[str, Any]) -> float:
    width, hidden = whole(tower["hidden_size"]), whole(tower["intermediate_size"])
    ratio = hidden / width
    # Where the product is rounded down to one less, the middle of the ratios that give `hidden`.
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def _checked_activation(text: dict[str, Any], vision: dict[str, Any], where: str) -> Activation:
    """The towers' GELU, after a look at all that our towers cannot vary."""
    end, last = text["eos_token_id"], text["vocab_size"] - 1
    # 2 is what old files say, and transformers then takes the largest id, as we do.
    if end not in (2, last):
        raise UserError(f"{where}: text_config.eos_token_id is {end}, and texts are read at the largest id, {last}")
    for name, tower in (("text_config", text), ("vision_config", vision)):
        if tower["layer_norm_eps"] != LAYER_NORM_EPS:
            raise UserError(f"{where}: {name}.layer_norm_eps is {tower['layer_norm_eps']}, not {LAYER_NORM_EPS}")
    if vision["num_channels"] != 3:
        raise UserError(f"{where}: vision_config.num_channels is {vision['num_channels']}, not 3")
    acts = text["hidden_act"], vision["hidden_act"]
    if acts not in (("gelu", "gelu"), ("quick_gelu", "quick_gelu")):
        raise UserError(
            f"{where}: hidden_act is {acts[0]!r} for texts and {acts[1]!r} for images; "
            "both have to be gelu, or both quick_gelu"
        )
    return "gelu" if acts[0] == "gelu" else "quick_gelu"


def preprocessing_from(fields: dict[str, Any], image_size: int, where: str) -> Preprocessing:
    """Our preprocessing from a `preprocessor_config.json`.

    Raises:
        UserError: it does what the geometries and interpolations here do not, or makes no sense.
    """
    steps = {name: fields.get(name, True) for name in ("do_resize", "do_rescale", "do_normalize")}
    resample, factor = fields.get("resample", 3), fields.get("rescale_factor", 1 / 255)
    rescales = isinstance(factor, int | float) and abs(factor * 255 - 1) < 1e-6
    if not all(steps.values()) or not rescales or resample not in (2, 3):
        raise UserError(
            f"{where}: resample {resample!r} and rescale_factor {factor!r} with {steps} cannot be reproduced"
        )
    crops, size = fields.get("do_center_crop", True), fields.get("size", {"shortest_edge": image_size})
    both = {"height": image_size, "width": image_size}
    cuts_whole = fields.get("crop_size", both) in (image_size, both)
    if crops and cuts_whole and size in (image_size, {"shortest_edge": image_size}):
        geometry = "center_crop"
    elif size == both and (not crops or cuts_whole):
        geometry = "squash"
    else:
        crop = fields.get("crop_size") if crops else None
        raise UserError(f"{where}: size {size!r} with crop {crop!r} is not the model's {image_size} pixels")
    return make_preprocessing(
        where,
        mean=three_numbers(fields.get("image_mean") or OPENAI_MEAN, "image_mean", where),
        std=three_numbers(fields.get("image_std") or OPENAI_STD, "image_std", where),
        geometry=geometry,
        interpolation="bilinear" if resample == 2 else "bicubic",  # Pillow's numbers
    )


def describe(config: CLIPConfig, dtype: str) -> dict[str, Any]:
    """The content of `config.json`; `dtype` is that of the weights."""
    act = config.activation
    shared = {"hidden_act": act, "layer_norm_eps": LAYER_NORM_EPS, "projection_dim": config.embed_dim}

    def tower(shape: TextConfig | VisionConfig) -> dict[str, Any]:
        return {
            "hidden_size": shape.width,
            "intermediate_size": int(shape.width * shape.mlp_ratio),
            "num_hidden_layers": shape.layers,
            "num_attention_heads": shape.heads,
            **shared,
        }

    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "dtype": dtype,
        "torch_dtype": dtype,  # its name before transformers 5
        "text_config": {
            "model_type": "clip_text_model",
            **tower(config.text),
            "vocab_size": config.text.vocab_size,
            "max_position_embeddings": config.text.context_length,
            "bos_token_id": START_OF_TEXT,
            # With 2, the old default, transformers would take the largest id instead of the first end of text.
            "eos_token_id": END_OF_TEXT,
            "pad_token_id": END_OF_TEXT,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            **tower(config.vision),
            "image_size": config.vision.image_size,
            "patch_size": config.vision.patch_size,
        },
    }


def describe_preprocessing(preprocess: Preprocessing, image_size: int) -> dict[str, Any]:
    """The content of `preprocessor_config.json`."""
    both = {"height": image_size, "width": image_size}
    squash = preprocess.geometry == "squash"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": both if squash else {"shortest_edge": image_size},
        "resample": 2 if preprocess.interpolation == "bilinear" else 3,
        "do_center_crop": not squash,
        "crop_size": both,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def write_config(folder: Path, config: CLIPConfig, preprocess: Preprocessing, dtype: str) -> None:
    """Writes `config.json` and `preprocessor_config.json`."""
    processor = describe_preprocessing(preprocess, config.vision.image_size)
    for name, content in ((CONFIG_NAME, describe(config, dtype)), (PREPROCESSOR_NAME, processor)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
