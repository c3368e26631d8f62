"""Opens other people's models, and our converted ones, by looking at what is there."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from bioclip_jax.config import Preprocessing
from bioclip_jax.convert import hub, hugging_face, open_clip
from bioclip_jax.convert.model_names import named_config
from bioclip_jax.convert.tensors import has_logit_bias, has_replay_projector
from bioclip_jax.convert.torch_files import SUFFIXES
from bioclip_jax.convert.weights import MODEL_NAME, FileWeights, Source
from bioclip_jax.errors import UsageError, UserError


def open_foreign(source: str, model: str | None) -> Source | None:
    """The model at `source`, or None where there is nothing that is known here.

    Args:
        source: hf-hub:owner/name, a folder, or a file of weights.
        model: what the weights in a file are of; folders say it themselves.

    Raises:
        UsageError: `model` is missing or given in vain.
        UserError: what is there is damaged, or another kind of model.
    """
    remote = source.startswith(hub.PREFIX)
    path = hub.fetch(source) if remote else Path(os.path.expanduser(source))  # noqa: PTH111 knows unknown users
    if path.is_file():
        return dataclasses.replace(_open_file(path, model), where=source)
    opened = _open_folder(path)
    if opened:
        name = source.rpartition("/")[2].partition("@")[0] if remote else path.resolve().name
        opened = dataclasses.replace(opened, where=source, name=name)
    if opened and model:
        raise UsageError(f"--model {model!r} is for a file of bare weights; {source} says itself what it holds")
    return opened


def _open_folder(folder: Path) -> Source | None:
    if (folder / open_clip.CONFIG_NAME).is_file():
        return open_clip.open_source(folder)
    if (folder / MODEL_NAME).is_file():
        from bioclip_jax.convert import orbax  # with JAX, which the other formats do not need

        return orbax.open_source(folder)
    if (folder / "onnx").is_dir() and not any((folder / name).is_file() for name in hugging_face.WEIGHTS_NAMES):
        raise UsageError(f"{folder}: an ONNX export cannot be read back; take the model that it was made of")
    if hugging_face.is_hugging_face(folder):
        return hugging_face.open_source(folder)
    return None


def _open_file(path: Path, model: str | None) -> Source:
    if path.suffix not in (*SUFFIXES, ".safetensors"):
        raise UsageError(f"{path}: weights are files in .safetensors, {', '.join(SUFFIXES)}; {path.suffix!r} is none")
    if model is None:
        if (path.parent / open_clip.CONFIG_NAME).is_file() and path.name in open_clip.WEIGHTS_NAMES:
            raise UsageError(f"{path}: give the folder, whose {open_clip.CONFIG_NAME} says what the weights are of")
        raise UsageError(
            f"{path}: bare weights do not say what they are of; tell `bioclip-jax convert` or `bioclip_jax.load` "
            "their model, such as ViT-L-14"
        )
    tensors = open_clip.open_tensors(path)
    config = named_config(model, replay_projector=has_replay_projector(tensors.specs))
    config = dataclasses.replace(config, logit_bias=config.logit_bias or has_logit_bias(tensors.specs))
    try:
        weights = FileWeights(tensors, "open_clip", config, str(path))
    except UserError as error:
        raise UserError(f"{error} (with --model {model})") from None
    return Source(str(path), "a file of bare weights", config, Preprocessing(), weights, path.stem)
