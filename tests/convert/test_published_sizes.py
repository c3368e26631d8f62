"""ViT-B/16, L/14 and H/14 with random weights: the stock packages' features, the same bytes back, and little memory.

Whatever holds a model is a process of its own, so that two of these tests have room beside each other: the largest
needs 8 GB, while Orbax's files are written.
"""

import filecmp
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.config import Preprocessing
from bioclip_jax.convert.open_clip import CONFIG_NAME, WEIGHTS_NAME

pytestmark = pytest.mark.slow

SIZES = (
    pytest.param("ViT-B-16", marks=pytest.mark.full),
    "ViT-L-14",
    pytest.param("ViT-H-14", marks=pytest.mark.full),
)
PHOTOS, TEXTS = 2, ("a photo of Corvus corax.", "a photo of Animalia Chordata Aves with common name common raven.")


def stock_packages(*arguments: str | Path) -> None:
    """Runs stock_packages.py, which says what its arguments are."""
    script = Path(__file__).with_name("stock_packages.py")
    subprocess.run([sys.executable, script, *arguments], check=True)


@pytest.fixture(scope="module", params=SIZES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """(name, OpenCLIP folder of random weights)."""
    folder = tmp_path_factory.mktemp(request.param) / "open_clip"
    stock_packages("random", request.param, folder)
    yield request.param, folder
    shutil.rmtree(folder)  # gigabytes


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """The same photos and texts as files for us and for the stock packages."""
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS, 224, 224, 3)).astype(np.uint8)
    batch = (pixels / 255 - Preprocessing().mean) / Preprocessing().std
    np.savez(tmp_path / "ours.npz", pixels=pixels, texts=TEXTS)
    np.savez(tmp_path / "stock.npz", pixels=batch.transpose(0, 3, 1, 2).astype(np.float32), texts=TEXTS)
    return {who: tmp_path / f"{who}.npz" for who in ("ours", "stock")}


OURS = """
import sys
import numpy as np
import bioclip_jax

inputs = np.load(sys.argv[1])
for folder in sys.argv[2:]:
    model = bioclip_jax.load(folder)
    image, text = model.encode_image(inputs["pixels"]), model.encode_text(inputs["texts"].tolist())
    np.savez(f"{folder}/ours.npz", image=image, text=text)
    del model  # before the next one is loaded
"""


def assert_same_features(package: str, folder: Path, inputs: dict[str, Path]) -> None:
    """A stock package's features of a folder's model, once they are normalised, are ours, with either GELU."""
    folders = [folder, with_quick_gelu(folder)]
    stock_packages(package, inputs["stock"], *folders)
    # Each device would hold a copy of the weights of its own; one alone may use threads (see conftest.py).
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": ""}
    subprocess.run([sys.executable, "-c", OURS, inputs["ours"], *folders], check=True, env=environment)
    for folder in folders:
        ours, theirs = np.load(folder / "ours.npz"), np.load(folder / "stock.npz")
        for name in ("image", "text"):
            assert relative(ours[name], normalised(theirs[name])) <= 1e-4
    shutil.rmtree(folders[1])


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b))


def normalised(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def with_quick_gelu(folder: Path) -> Path:
    """The same weights, by a second link to the file, with a config that asks for the other GELU."""
    twin = folder.with_name(f"{folder.name}_quick_gelu")
    shutil.copytree(folder, twin, copy_function=os.link)
    path = next(twin / name for name in (CONFIG_NAME, "config.json") if (twin / name).is_file())
    content = json.loads(path.read_text())
    if path.name == CONFIG_NAME:
        content["model_cfg"]["quick_gelu"] = True
    else:
        for tower in ("text_config", "vision_config"):
            assert content[tower]["hidden_act"] == "gelu"
            content[tower]["hidden_act"] = "quick_gelu"
    path.unlink()  # the link: the first folder's config stays
    path.write_text(json.dumps(content))
    return twin


CONVERT = "import sys; from bioclip_jax.cli import main; main(['convert', *sys.argv[1:]])"


def test_features_bytes_and_memory(model, inputs, peak_memory, tmp_path):
    name, folder = model
    size = (folder / WEIGHTS_NAME).stat().st_size

    def convert(source: Path, destination: Path, to: str) -> float:
        return peak_memory(CONVERT, str(source), str(destination), "--to", to) / size

    assert_same_features("open_clip", folder, inputs)

    hugging_face, back = tmp_path / "hf", tmp_path / "back"
    peaks = {"to hugging_face": convert(folder, hugging_face, "hugging_face")}
    peaks["from hugging_face"] = convert(hugging_face, back, "open_clip")
    assert_same_file(back, folder)
    assert_same_features("hugging_face", hugging_face, inputs)
    shutil.rmtree(hugging_face)

    peaks["to orbax"] = convert(folder, tmp_path / "orbax", "orbax")
    peaks["from orbax"] = convert(tmp_path / "orbax", tmp_path / "again", "open_clip")
    assert_same_file(tmp_path / "again", folder)
    shutil.rmtree(tmp_path / "orbax")
    print(name, {step: f"{peak:.2f} x" for step, peak in peaks.items()})
    if name != "ViT-B-16":  # whose weights are not large against the programs themselves
        assert max(peaks["to hugging_face"], peaks["from hugging_face"]) <= 1.3
        assert max(peaks["to orbax"], peaks["from orbax"]) <= 2.5


def assert_same_file(one: Path, other: Path) -> None:
    assert filecmp.cmp(one / WEIGHTS_NAME, other / WEIGHTS_NAME, shallow=False)
    (one / WEIGHTS_NAME).unlink()
