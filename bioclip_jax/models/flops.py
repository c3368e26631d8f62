"""Model FLOPs: what the mathematics needs, whatever a device recomputes. A multiply-add counts two."""

from __future__ import annotations

from bioclip_jax.config import CLIPConfig


def _tower(tokens: int, width: int, layers: int, mlp_ratio: float, attended: float) -> float:
    matrices = 2 * tokens * (4 * width * width + 2 * width * int(width * mlp_ratio))
    attention = 2 * 2 * tokens * attended * width
    return layers * (matrices + attention)


def image_flops(config: CLIPConfig) -> float:
    """One photo through the image tower, forwards. Norms, softmax and activations (under 1 %) are left out."""
    c = config.vision
    patches = (c.image_size // c.patch_size) ** 2
    embed = 2 * patches * 3 * c.patch_size**2 * c.width
    return (
        embed
        + _tower(patches + 1, c.width, c.layers, c.mlp_ratio, attended=patches + 1)
        + 2 * c.width * config.embed_dim
    )


def text_flops(config: CLIPConfig, tokens: int) -> float:
    """One caption cut to `tokens` tokens through the text tower, forwards; causal attention counted as full."""
    c = config.text
    return _tower(tokens, c.width, c.layers, c.mlp_ratio, attended=tokens) + 2 * c.width * config.embed_dim


def train_flops(config: CLIPConfig, batch: int, tokens: int) -> float:
    """One training step on `batch` pairs: three forward passes (forwards once, backwards twice) and the logits."""
    logits = 3 * 2 * batch * batch * config.embed_dim
    return 3 * batch * (image_flops(config) + text_flops(config, tokens)) + logits
