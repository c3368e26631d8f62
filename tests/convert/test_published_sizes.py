"""ViT-B/16, L/14 and H/14 with random weights: the stock packages' features, the same bytes back, and little memory."""

import filecmp
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bioclip_jax.config import Preprocessing
from bioclip_jax.convert.open_clip import CONFIG_NAME, WEIGHTS_NAME

pytestmark = pytest.mark.slow

SIZES = ("ViT-B-16", "ViT-L-14", "ViT-H-14")
PHOTOS, TEXTS = 2, ("a photo of Corvus corax.", "a photo of Animalia Chordata Aves with common name common raven.")


@pytest.fixture(scope="module", params=SIZES)
def model(request, open_clip, tmp_path_factory):
    """(name, OpenCLIP folder); all weights random, so that no bias or norm is trivially 0 or 1."""
    import safetensors.torch
    import torch

    folder = tmp_path_factory.mktemp(request.param) / "open_clip"
    folder.mkdir()
    description = open_clip.get_model_config(request.param)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in open_clip.CLIP(**description).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {key: torch.randn(shape, generator=generator) * 0.02 for key, shape in shapes.items()}
    for key, tensor in state.items():
        if ".ln_" in f".{key}" and key.endswith("weight"):
            tensor.add_(1)
    state["logit_scale"].fill_(4.5)
    safetensors.torch.save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": description}))
    yield request.param, folder
    for path in folder.iterdir():  # gigabytes
        path.unlink()


def convert(source: Path, destination: Path, to: str) -> int:
    """Converts in a process of its own, and returns its peak memory in bytes (mapped files count)."""
    # Not getrusage's ru_maxrss, which a child process inherits from this one.
    code = (
        "import re, sys; from pathlib import Path; from bioclip_jax.cli import main; main(sys.argv[1:])\n"
        "print('peak', 1024 * int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]))"
    )
    command = [sys.executable, "-c", code, "convert", str(source), str(destination), "--to", to]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    return int(shown.stdout.split()[-1])


def relative(a, b):
    return np.linalg.norm(np.asarray(a, np.float64) - b) / np.linalg.norm(b)


def normalised(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def inputs():
    pixels = np.random.default_rng(0).integers(0, 256, (PHOTOS, 224, 224, 3)).astype(np.uint8)
    batch = (pixels / 255 - Preprocessing().mean) / Preprocessing().std
    return pixels, batch.transpose(0, 3, 1, 2).astype(np.float32)


OURS = """
import json, sys
import numpy as np
import bioclip_jax
from bioclip_jax.inference.model import Model

pixels, texts = np.load(sys.argv[2]), json.loads(sys.argv[3])
model = bioclip_jax.load(sys.argv[1])
np.savez(sys.argv[4], image=model.encode_image(pixels), text=model.encode_text(texts))
"""


def ours(folder: Path, scratch: Path) -> dict[str, np.ndarray]:
    """Our features, from a process that gives its memory back."""
    np.save(scratch / "pixels.npy", inputs()[0])
    command = [sys.executable, "-c", OURS, folder, scratch / "pixels.npy", json.dumps(TEXTS), scratch / "ours.npz"]
    subprocess.run([str(part) for part in command], check=True)
    return dict(np.load(scratch / "ours.npz"))


def with_activation(folder: Path, name: str, activation: str) -> None:
    """Changes the GELU that a folder's config asks for."""
    content = json.loads((folder / name).read_text())
    if name == CONFIG_NAME:
        content["model_cfg"]["quick_gelu"] = activation == "quick_gelu"
    else:
        for tower in ("text_config", "vision_config"):
            content[tower]["hidden_act"] = activation
    (folder / name).write_text(json.dumps(content))


def test_features_bytes_and_memory(model, open_clip, tmp_path):
    import torch
    from transformers import CLIPModel

    name, folder = model
    size = (folder / WEIGHTS_NAME).stat().st_size
    _, batch = inputs()
    tokens = open_clip.get_tokenizer("ViT-B-32")(list(TEXTS))

    for activation in ("gelu", "quick_gelu"):
        with_activation(folder, CONFIG_NAME, activation)
        theirs = open_clip.create_model(f"local-dir:{folder}").eval()
        with torch.no_grad():
            image = theirs.encode_image(torch.from_numpy(batch), normalize=True).numpy()
            text = theirs.encode_text(tokens, normalize=True).numpy()
        del theirs
        features = ours(folder, tmp_path)
        assert relative(features["image"], image) <= 1e-4
        assert relative(features["text"], text) <= 1e-4

    with_activation(folder, CONFIG_NAME, "gelu")
    peaks = {"to hugging_face": convert(folder, tmp_path / "hf", "hugging_face") / size}
    for activation in ("quick_gelu", "gelu"):
        with_activation(tmp_path / "hf", "config.json", activation)
        theirs = CLIPModel.from_pretrained(tmp_path / "hf").eval()
        with torch.no_grad():
            image = theirs.get_image_features(torch.from_numpy(batch))
            text = theirs.get_text_features(tokens)
        del theirs
        features = ours(tmp_path / "hf", tmp_path)
        for value, mine in ((image, features["image"]), (text, features["text"])):
            assert relative(mine, normalised(getattr(value, "pooler_output", value).numpy())) <= 1e-4

    peaks["from hugging_face"] = convert(tmp_path / "hf", tmp_path / "back", "open_clip") / size
    assert_same_file(tmp_path / "back", folder)
    shutil.rmtree(tmp_path / "hf")
    peaks["to orbax"] = convert(folder, tmp_path / "orbax", "orbax") / size
    peaks["from orbax"] = convert(tmp_path / "orbax", tmp_path / "again", "open_clip") / size
    assert_same_file(tmp_path / "again", folder)
    shutil.rmtree(tmp_path / "orbax")
    print(name, {step: f"{peak:.2f} x" for step, peak in peaks.items()})
    if name != "ViT-B-16":  # whose weights are not large against the programs themselves
        assert max(peaks["to hugging_face"], peaks["from hugging_face"]) <= 1.3
        assert max(peaks["to orbax"], peaks["from orbax"]) <= 2.5


def assert_same_file(one: Path, other: Path) -> None:
    assert filecmp.cmp(one / WEIGHTS_NAME, other / WEIGHTS_NAME, shallow=False)
    (one / WEIGHTS_NAME).unlink()
