"""Writes a model, wherever it lies, in any of the formats that others use."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from bioclip_jax.convert.card import Provenance, model_card
from bioclip_jax.convert.destination import new_folder
from bioclip_jax.convert.files import write_hugging_face, write_open_clip
from bioclip_jax.convert.hugging_face import write_config
from bioclip_jax.convert.tokenizer_files import write_tokenizer
from bioclip_jax.convert.weights import Cast, Source, layers_of, read_tree
from bioclip_jax.errors import UsageError
from bioclip_jax.inference.provenance import provenance_of
from bioclip_jax.pipeline.progress import RecordProgress
from bioclip_jax.text.tokenizer import VOCABULARY_SIZE
from bioclip_jax.training.sources import open_model

To = Literal["open_clip", "hugging_face", "orbax", "onnx"]
DType = Literal["float32", "float16", "bfloat16"]


def convert(
    where: str | os.PathLike[str],
    destination: Path,
    to: To,
    *,
    model: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    license: str = "",  # noqa: A002 the card's word
    **options: Any,
) -> list[str]:
    """Writes the model at `where` as the folder `destination`, whole or not at all.

    Args:
        where: anything that `bioclip_jax.load` opens.
        destination: folder to make.
        to: format.
        model: what a file of bare weights is of, as ViT-L-14.
        overrides: fields of `Preprocessing` that replace the model's own.
        license: of the weights, for the card; an SPDX identifier.
        options: of `save`.

    Returns:
        Lines that say what was written.

    Raises:
        UsageError: an option that this model or format does not have, or a destination that may not be replaced.
        UserError: the model is damaged, or the folder cannot be written.
    """
    source, run = open_model(where, model, overrides)
    return save(source, destination, to, provenance_of(source, run, license), **options)


def save(
    source: Source,
    destination: Path,
    to: str,
    provenance: Provenance,
    *,
    dtype: str | None = None,
    keep_replay_projector: bool = False,
    overwrite: bool = False,
) -> list[str]:
    """Writes an opened model as the folder `destination`; see `convert`.

    Args:
        source: the model.
        destination: folder to make.
        to: format.
        provenance: what the card says of the weights.
        dtype: type of the weights; each keeps its own if not given.
        keep_replay_projector: also write the second visual projector, which only OpenCLIP's format has a name for.
        overwrite: replace a folder that was written here earlier.
    """
    _check_options(source, to, dtype, keep_replay_projector)
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9.+-]*)?", provenance.license):
        raise UsageError(f"--license {provenance.license!r}: expected an SPDX identifier, as mit or cc-by-4.0")
    with new_folder(destination, overwrite=overwrite, source=source.where) as folder:
        with RecordProgress(sum(1 for _ in layers_of(source.config)), "converting", unit="tensors") as progress:
            lines = _write(folder, source, to, dtype, Cast(dtype, progress.advance), keep_replay_projector)
        if to == "onnx":
            types = {"float16" if dtype == "float16" else "float32"}
        else:
            types = {source.weights.dtype(parameter, layer).name for parameter, layer in layers_of(source.config)}
        has_replay = source.config.replay_projector and (to == "orbax" or keep_replay_projector)
        card = model_card(source, to, dtype or " and ".join(sorted(types)), provenance, has_replay=has_replay)
        (folder / "README.md").write_text(card, encoding="utf-8")
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if to == "orbax":
        names = [name for name in names if not name.startswith("weights/")] + ["weights/"]
    return [f"{destination}: {', '.join(names)}", *lines]


def _check_options(source: Source, to: str, dtype: str | None, keep_replay_projector: bool) -> None:
    if to not in get_args(To):
        raise UsageError(f"to {to!r}: not one of {', '.join(get_args(To))}")
    if dtype not in (None, *get_args(DType)):
        raise UsageError(f"dtype {dtype!r}: not one of {', '.join(get_args(DType))}")
    tokens = source.config.text.vocab_size
    if tokens != VOCABULARY_SIZE and to != "orbax":
        raise UsageError(f"{source.where} has {tokens} tokens; the tokenizer that goes with {to} has {VOCABULARY_SIZE}")
    if keep_replay_projector and to != "open_clip":
        has = "always keeps it" if to == "orbax" else "has no place for it"
        raise UsageError(f"--keep-replay-projector is for --to open_clip; {to} {has}")
    if keep_replay_projector and not source.config.replay_projector:
        raise UsageError(f"--keep-replay-projector: {source.where} has no second visual projector")
    if to == "onnx":
        if dtype == "bfloat16":
            raise UsageError("--dtype bfloat16: onnxruntime does not compute with it; use float32 or float16")
        from bioclip_jax.convert.onnx import require_extra

        require_extra()


def _write(
    folder: Path, source: Source, to: str, dtype: str | None, cast: Cast, keep_replay_projector: bool
) -> list[str]:
    if to == "open_clip":
        write_open_clip(folder, source, cast, keep_replay_projector=keep_replay_projector)
    elif to == "hugging_face":
        write_hugging_face(folder, source, cast)
    elif to == "orbax":
        from bioclip_jax.convert import orbax

        orbax.save(folder, source, cast)
    else:
        from bioclip_jax.convert import onnx

        parameters = read_tree(source, Cast("float32", cast.advance))
        onnx.export(folder, source.config, parameters, dtype="float16" if dtype == "float16" else "float32")
        write_config(folder, source.config, source.preprocessing, "float32")
        write_tokenizer(folder, source.config.text.context_length)
    lines = []
    if source.config.replay_projector and to != "orbax" and not keep_replay_projector:
        keep = "; --keep-replay-projector keeps it" if to == "open_clip" else ""
        lines.append(f"the second visual projector, for experience replay, is left out{keep}")
    if source.config.logit_bias and to in ("hugging_face", "onnx"):
        lines.append("the bias of the logits, for the sigmoid loss, is left out; README.md has its value")
    return lines
