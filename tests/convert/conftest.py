"""Small models in the formats that are tested."""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from bioclip_jax.config import CLIPConfig, Preprocessing, TextConfig, VisionConfig
from bioclip_jax.convert.card import Provenance
from bioclip_jax.convert.tensors import DTYPES
from bioclip_jax.convert.weights import Source, TreeWeights, flatten, unflatten
from bioclip_jax.inference import export
from bioclip_jax.models import clip

# Widths that differ wherever two could be mistaken for each other; image heads of 20, text heads of 16.
SMALL = CLIPConfig(24, VisionConfig(32, 16, 60, 2, 3, 2.5), TextConfig(width=32, layers=3, heads=2))


@functools.cache
def random_parameters(config: CLIPConfig, dtype: str = "float32", seed: int = 3):
    """No bias or norm is trivially 0 or 1."""
    generator = np.random.default_rng(seed)
    shapes = clip.split(nnx.eval_shape(lambda: clip.CLIP(config, rngs=nnx.Rngs(0))))[1]
    flat = {
        path: (generator.normal(0, 0.2, leaf.shape) + (path.endswith("scale"))).astype(DTYPES[dtype])
        for path, leaf in flatten(shapes).items()
    }
    return unflatten(flat)


@pytest.fixture(scope="session")
def small() -> CLIPConfig:
    """A plain CLIP that resembles no published one."""
    return SMALL


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The reference's tiny CLIP as an OpenCLIP folder, and what it computes."""
    return Path(__file__).parents[1] / "goldens" / "tiny_clip"


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Writes a random model as a folder: write(folder, to, config, dtype=..., preprocessing=..., other options)."""

    def write(
        folder: Path,
        to: str = "open_clip",
        config: CLIPConfig = SMALL,
        *,
        dtype: str = "float32",
        preprocessing: Preprocessing | None = None,
        **options,
    ) -> Path:
        weights = TreeWeights(random_parameters(config, dtype))
        source = Source("small", "a test", config, preprocessing or Preprocessing(), weights, "small")
        export.save(source, folder, to, Provenance(), **options)
        return folder

    return write


@pytest.fixture(scope="session")
def edit() -> Callable[[Path, Callable[[dict], object]], None]:
    """Changes the dictionary in a JSON or safetensors file: edit(path, change)."""

    def edit(path: Path, change: Callable[[dict], object]) -> None:
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        else:
            content = safetensors.numpy.load_file(path)
            change(content)
            safetensors.numpy.save_file(content, path)

    return edit
