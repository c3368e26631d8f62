"""CLIP in Flax NNX: one Transformer block, two towers, a temperature."""
