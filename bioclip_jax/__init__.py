"""BioCLIP 2 in JAX: train a CLIP model on the tree of life, measure it, and exchange its weights with PyTorch.

import bioclip_jax
model = bioclip_jax.load("WORK_DIR or OpenCLIP folder")
model.encode_image(["photo.jpg"]) @ model.encode_text(["a photo of Corvus corax."]).T
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bioclip_jax.inference.load import load
    from bioclip_jax.inference.model import Model

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Imports on first use, so that the command line answers before JAX is loaded."""
    if name == "load":
        from bioclip_jax.inference.load import load

        return load
    if name == "Model":
        from bioclip_jax.inference.model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
