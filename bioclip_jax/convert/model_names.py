"""Shapes of models that come as bare weights: by OpenCLIP's name of the model, or from a config in a file."""

from __future__ import annotations

import re
from pathlib import Path

from bioclip_jax.config import CLIPConfig, TextConfig, VisionConfig
from bioclip_jax.convert.open_clip import config_from
from bioclip_jax.convert.safetensors_files import read_json
from bioclip_jax.errors import UsageError

# Joint width; vision width, layers, heads, MLP ratio; text width, layers (text heads are 64 wide).
_SIZES: dict[str, tuple[int, int, int, int, float, int, int]] = {
    "S": (384, 384, 12, 6, 4.0, 384, 12),
    "M": (512, 512, 12, 8, 4.0, 512, 12),
    "B": (512, 768, 12, 12, 4.0, 512, 12),
    "L": (768, 1024, 24, 16, 4.0, 768, 12),
    "H": (1024, 1280, 32, 16, 4.0, 1024, 24),
    "g": (1024, 1408, 40, 16, 4.3637, 1024, 24),
    "bigG": (1280, 1664, 48, 16, 4.9231, 1280, 32),
}
_NAME = re.compile(rf"ViT-({'|'.join(_SIZES)})-(\d+)(?:-(\d+))?(-quickgelu)?")


def named_config(model: str, *, replay_projector: bool) -> CLIPConfig:
    """The shape of `model`: ViT-SIZE-PATCH[-PIXELS][-quickgelu] as OpenCLIP has it, or the path of a JSON file.

    The file holds what one of OpenCLIP's `model_configs` or an `open_clip_config.json` does.

    Raises:
        UsageError: neither.
        UserError: the file describes another kind of model.
    """
    if model.endswith(".json"):
        path = Path(model)
        description = read_json(path)
        return config_from(
            description.get("model_cfg", description), replay_projector=replay_projector, where=str(path)
        )
    match = _NAME.fullmatch(model)
    if not match:
        raise UsageError(
            f"--model {model!r}: expected ViT-SIZE-PATCH[-PIXELS][-quickgelu] with SIZE one of {', '.join(_SIZES)}, "
            "as ViT-L-14, or the path of a JSON config"
        )
    joint, width, layers, heads, mlp_ratio, text_width, text_layers = _SIZES[match[1]]
    vision = VisionConfig(int(match[3] or 224), int(match[2]), width, layers, heads, mlp_ratio)
    text = TextConfig(width=text_width, layers=text_layers, heads=text_width // 64)
    return CLIPConfig(joint, vision, text, "quick_gelu" if match[4] else "gelu", replay_projector)
