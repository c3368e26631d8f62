"""A model of a few thousand weights, and a folder of photos of which two cannot be read."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from flax import nnx

import bioclip_jax
from bioclip_jax.config import CLIPConfig, Preprocessing, TextConfig, VisionConfig
from bioclip_jax.models import clip

SMALL = CLIPConfig(24, VisionConfig(32, 16, 32, 2, 2), TextConfig(width=32, layers=2, heads=2))


def small_model(seed: int) -> bioclip_jax.Model:
    parameters = clip.split(clip.CLIP(SMALL, rngs=nnx.Rngs(seed)))[1]
    return bioclip_jax.Model(SMALL, Preprocessing(), parameters, name=f"small-{seed}")


@pytest.fixture(scope="session")
def small() -> bioclip_jax.Model:
    return small_model(0)


@pytest.fixture(scope="session")
def small_folder(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as `bioclip_jax.load` opens it."""
    folder = tmp_path_factory.mktemp("small") / "model"
    small.save(folder, "orbax")
    return folder


@pytest.fixture(scope="session")
def other() -> bioclip_jax.Model:
    """Another model of the same shape."""
    return small_model(1)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six photos in nested folders, a truncated one, a link to nothing, and what is no photo."""
    folder = tmp_path / "album"
    (folder / "trip" / "day 1").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number, name in enumerate(("a.png", "b.JPG", "trip/c.png", "trip/day 1/d.png", "trip/day 1/=e.png", "z.png")):
        pixels = generator.integers(0, 256, (40, 30 + number, 3)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / name)
    whole = (folder / "a.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "notes.txt").write_text("no photo")
    (folder / "._a.png").write_bytes(b"what a Mac leaves")
    (folder / "trip" / "up").symlink_to(folder)
    return folder
