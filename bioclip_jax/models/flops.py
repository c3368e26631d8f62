"""Model FLOPs: what the mathematics needs, whatever a device recomputes. A multiply-add counts two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bioclip_jax.config import CLIPConfig, TrainConfig


def _tower(tokens: int, width: int, layers: int, mlp_ratio: float, attended: float) -> float:
    matrices = 2 * tokens * (4 * width * width + 2 * width * int(width * mlp_ratio))
    attention = 2 * 2 * tokens * attended * width
    return layers * (matrices + attention)


def image_flops(config: CLIPConfig) -> float:
    """One photo through the image tower, forwards. Norms, softmax and activations (under 1 %) are left out."""
    c = config.vision
    patches = (c.image_size // c.patch_size) ** 2
    return (
        _patch_embedding(config)
        + _tower(patches + 1, c.width, c.layers, c.mlp_ratio, attended=patches + 1)
        + 2 * c.width * config.embed_dim
    )


def _patch_embedding(config: CLIPConfig) -> float:
    c = config.vision
    return 2 * (c.image_size // c.patch_size) ** 2 * 3 * c.patch_size**2 * c.width


def text_flops(config: CLIPConfig, tokens: int) -> float:
    """One caption cut to `tokens` tokens through the text tower, forwards; causal attention counted as full."""
    c = config.text
    return _tower(tokens, c.width, c.layers, c.mlp_ratio, attended=tokens) + 2 * c.width * config.embed_dim


def train_flops(
    config: CLIPConfig, batch: int, tokens: int, *, locked: Sequence[str] = (), has_text: bool = True
) -> float:
    """One training step on `batch` pairs: three forward passes (forwards once, backwards twice) and the logits.

    Nobody asks for the gradient of pixels, so the patches' embedding counts twice. A `locked` tower ("visual", "text")
    is passed forwards only; without text the logits (of a classifier) are left out.
    """
    image = image_flops(config) if "visual" in locked else 3 * image_flops(config) - _patch_embedding(config)
    if not has_text:
        return batch * image
    text = text_flops(config, tokens) * (1 if "text" in locked else 3)
    return batch * (image + text) + 3 * 2 * batch * batch * config.embed_dim


def step_flops(config: TrainConfig, tokens: Mapping[str, int]) -> float:
    """One step of a run on all its streams, whose captions have `tokens` ids; as {"bio": 32, "replay": 77}."""
    rows = {"bio": config.global_batch_size, "replay": config.replay_batch_size}
    return sum(
        train_flops(
            config.model,
            rows[name],
            length,
            locked=config.locked,
            has_text=name != "bio" or config.loss.kind != "species",
        )
        for name, length in tokens.items()
    )
