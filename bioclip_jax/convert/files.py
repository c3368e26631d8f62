"""Writes models in OpenCLIP's and Hugging Face's formats, a tensor at a time: memory holds one, whatever the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bioclip_jax.convert import hugging_face, open_clip
from bioclip_jax.convert.names import Format, Parameter, from_ours
from bioclip_jax.convert.safetensors_files import ShardedWriter
from bioclip_jax.convert.tensors import DTYPES, Spec
from bioclip_jax.convert.tokenizer_files import write_tokenizer
from bioclip_jax.convert.weights import Cast, Source, layers_of, write_all

SHARD_BYTES = 5_000_000_000
"""Hugging Face's models are cut into files of at most this size."""


def write_open_clip(folder: Path, source: Source, cast: Cast, *, keep_replay_projector: bool = False) -> None:
    """An OpenCLIP folder. It is one file at any size, because OpenCLIP reads no others.

    Args:
        folder: is there, and empty.
        source: the model.
        cast: type of the weights.
        keep_replay_projector: stock OpenCLIP has no second projector, so it is left out unless asked for.
    """
    left_out = () if keep_replay_projector else ("visual/replay_proj",)
    _write(folder, source, cast, "open_clip", open_clip.WEIGHTS_STEM, shard_bytes=None, left_out=left_out)
    open_clip.write_config(folder, source.config, source.preprocessing)
    write_tokenizer(folder, source.config.text.context_length)


def write_hugging_face(folder: Path, source: Source, cast: Cast, *, shard_bytes: int = SHARD_BYTES) -> None:
    """A Hugging Face folder for `CLIPModel`, which has no second projector.

    Args:
        folder: is there, and empty.
        source: the model.
        cast: type of the weights.
        shard_bytes: larger models become several files.
    """
    dtype = _write(folder, source, cast, "hugging_face", hugging_face.WEIGHTS_STEM, shard_bytes=shard_bytes)
    hugging_face.write_config(folder, source.config, source.preprocessing, dtype)
    write_tokenizer(folder, source.config.text.context_length)


def _write(
    folder: Path,
    source: Source,
    cast: Cast,
    form: Format,
    stem: str,
    *,
    shard_bytes: int | None,
    left_out: tuple[str, ...] = (),
) -> str:
    """Writes the weights and returns the name of their widest type."""

    def is_written(parameter: Parameter) -> bool:
        return parameter.exists_in(form) and parameter.path not in left_out

    specs: dict[str, Spec] = {}
    for parameter, layer in layers_of(source.config):
        if is_written(parameter):
            dtype = (cast.target or source.weights.dtype(parameter, layer)).name
            specs.update(dict.fromkeys(parameter.keys(form, layer), Spec(dtype, parameter.part_shape(form))))
    writer = ShardedWriter(folder, stem, specs, shard_bytes or 2**63)

    def write(parameter: Parameter, layer: int, array: np.ndarray) -> None:
        if is_written(parameter):
            keys = parameter.keys(form, layer)
            whole = from_ours(array, parameter.layouts[form])
            for key, part in zip(keys, np.split(whole, len(keys)) if len(keys) > 1 else [whole], strict=True):
                writer.write(key, part)

    try:
        write_all(source, cast, write)
    finally:
        writer.close()
    return max((spec.dtype for spec in specs.values()), key=lambda name: DTYPES[name].itemsize)
