"""How many numbers a model holds, by its shape alone: without JAX, for what has to answer at once."""

from __future__ import annotations

from bioclip_jax.config import CLIPConfig, TextConfig, VisionConfig


def parameter_count(config: CLIPConfig) -> int:
    """All parameters, exactly; the temperature, and where the config has them its bias and the replay projector."""
    towers = image_tower_parameters(config) + text_tower_parameters(config)
    replay_projector = config.replay_projector * config.vision.width * config.embed_dim
    return towers + replay_projector + 1 + config.logit_bias


def image_tower_parameters(config: CLIPConfig) -> int:
    """Patches, class token, positions, blocks, two norms and the projector."""
    c = config.vision
    tokens = (c.image_size // c.patch_size) ** 2 + 1
    patches = 3 * c.patch_size**2
    return block_parameters(c) + (patches + 1 + tokens + 4 + config.embed_dim) * c.width


def text_tower_parameters(config: CLIPConfig) -> int:
    """Token table, positions, blocks, a norm and the projector."""
    c = config.text
    return block_parameters(c) + (c.vocab_size + c.context_length + 2 + config.embed_dim) * c.width


def block_parameters(tower: VisionConfig | TextConfig) -> int:
    """Attention, MLP and two norms of all layers of a tower."""
    width, hidden = tower.width, int(tower.width * tower.mlp_ratio)
    attention = 4 * width**2 + 4 * width
    mlp = 2 * width * hidden + hidden + width
    return tower.layers * (attention + mlp + 4 * width)
