"""The synthetic tree of life: a world with known truth, drawn on demand. `data/synthetic.py` is its recipe."""

from bioclip_jax.pipeline.synthetic.source import SyntheticSource
from bioclip_jax.pipeline.synthetic.splits import synthetic_splits
from bioclip_jax.pipeline.synthetic.world import World, build_world

__all__ = ["SyntheticSource", "World", "build_world", "synthetic_splits"]
