"""What the stock packages write and compute, in a process of its own, which gives its gigabytes back at its end.

    python stock_packages.py random ViT-H-14 FOLDER     writes an OpenCLIP folder of random weights
    python stock_packages.py PACKAGE INPUTS FOLDER...   PACKAGE: open_clip or hugging_face; writes FOLDER/stock.npz

INPUTS is an .npz of `pixels`, float32 [n, 3, h, w], and `texts`; a stock.npz holds what the package's own methods give
for them, `image` and `text`, float32 [n, d]. One copy of the weights is in memory at a time.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from conftest import stock_open_clip

from bioclip_jax.convert.open_clip import CONFIG_NAME, WEIGHTS_NAME


def write_random(open_clip: ModuleType, name: str, folder: Path) -> None:
    """An OpenCLIP folder; all weights random, so that no bias or norm is trivially 0 or 1."""
    import safetensors.torch

    description = open_clip.get_model_config(name)
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in open_clip.CLIP(**description).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        is_scale = ".ln_" in f".{key}" and key.endswith("weight")
        state[key] = torch.randn(shape, generator=generator).mul_(0.02).add_(1 if is_scale else 0)
    state["logit_scale"].fill_(4.5)
    folder.mkdir()
    safetensors.torch.save_file(state, folder / WEIGHTS_NAME, metadata={"format": "pt"})
    (folder / CONFIG_NAME).write_text(json.dumps({"model_cfg": description}))


def open_clip_features(open_clip: ModuleType, folder: Path, pixels: torch.Tensor, texts: list[str]) -> dict:
    """What `open_clip` gives, normalised."""
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    return {"image": model.encode_image(pixels, normalize=True), "text": model.encode_text(tokens, normalize=True)}


def hugging_face_features(open_clip: ModuleType, folder: Path, pixels: torch.Tensor, texts: list[str]) -> dict:
    """What `transformers` gives, not normalised, for open_clip's tokens."""
    from transformers import CLIPModel

    model = CLIPModel.from_pretrained(folder).eval()
    tokens = open_clip.get_tokenizer("ViT-B-32")(texts)
    features = {"image": model.get_image_features(pixels), "text": model.get_text_features(tokens)}
    return {name: getattr(value, "pooler_output", value) for name, value in features.items()}


PACKAGES: dict[str, Callable[..., dict]] = {"open_clip": open_clip_features, "hugging_face": hugging_face_features}


def main(what: str, argument: str, *folders: str) -> None:
    with stock_open_clip() as open_clip, torch.no_grad():
        if what == "random":
            write_random(open_clip, argument, Path(folders[0]))
            return
        inputs = np.load(argument)
        for folder in map(Path, folders):
            pixels, texts = torch.from_numpy(inputs["pixels"]), inputs["texts"].tolist()
            features = PACKAGES[what](open_clip, folder, pixels, texts)
            np.savez(folder / "stock.npz", **{name: value.numpy() for name, value in features.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
