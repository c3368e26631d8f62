"""The two towers as ONNX files, for phones, browsers and every other runtime.

The graphs are a second writing of the forward pass (`convert.onnx_graph`). So every export is run by onnxruntime and
compared with our own model, and one that disagrees is refused.

Needs the packages of the extra `onnx`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from bioclip_jax.config import CLIPConfig
from bioclip_jax.convert.onnx_graph import HALVED, text_graph, vision_graph, write
from bioclip_jax.errors import UserError
from bioclip_jax.models import clip
from bioclip_jax.models.functions import l2_normalize

StoredType = Literal["float32", "float16"]
Tower = Literal["vision", "text"]

FOLDER = "onnx"
SUFFIX: dict[StoredType, str] = {"float32": "", "float16": "_fp16"}
"""Of the file's name by the type of its weights, as transformers.js looks for them."""
MAX_ERROR = 1e-4
"""Largest relative error of a feature that an export may have."""
EXTERNAL_BYTES = 2_000_000_000
"""Weights above this go to a second file, because protobuf stops at 2 GiB."""


def file_name(tower: Tower, dtype: StoredType = "float32") -> str:
    """A tower's file within the exported folder, such as `onnx/vision_model.onnx`."""
    return f"{FOLDER}/{tower}_model{SUFFIX[dtype]}.onnx"


def export(
    folder: Path,
    config: CLIPConfig,
    parameters: clip.Parameters,
    *,
    dtype: StoredType = "float32",
    external_bytes: int = EXTERNAL_BYTES,
) -> None:
    """Writes both towers into `folder/onnx`, and compares them with ours.

    `vision_model.onnx` maps `pixel_values`, float32 [batch, 3, size, size] and normalised, to `image_embeds`, float32
    [batch, embed_dim]. `text_model.onnx` maps `input_ids`, int64 [batch, sequence] with any sequence length up to the
    context length, to `text_embeds`. Both outputs are L2-normalised. Texts may be padded with 0 or with the end-of-text
    token: its first place counts. The second projector for replay is left out.

    Args:
        folder: is there, and holds no export.
        config: the model's shape.
        parameters: a nested dict of float arrays, as `models.clip.split` gives them.
        dtype: float16 halves the files (`vision_model_fp16.onnx`); the arithmetic stays float32.
        external_bytes: a tower with more bytes of weights has them in a second file, `vision_model.onnx_data`.

    Raises:
        UserError: the extra is missing, a value is too large for float16, or onnxruntime's features differ from ours.
        OSError: a file cannot be written.
    """
    require_extra()
    half = dtype == "float16"
    (folder / FOLDER).mkdir()
    write(vision_graph(config, parameters["visual"], half=half), folder / file_name("vision", dtype), external_bytes)
    write(text_graph(config, parameters["text"], half=half), folder / file_name("text", dtype), external_bytes)
    for tower, error in check(folder, config, parameters, dtype).items():
        if not error <= MAX_ERROR:  # also where it is not a number
            raise UserError(f"{folder}: the {tower} tower in ONNX is {error:.1e} off ours, over {MAX_ERROR:.0e}")


def check(
    folder: Path, config: CLIPConfig, parameters: clip.Parameters, dtype: StoredType = "float32"
) -> dict[str, float]:
    """Runs exported towers with onnxruntime beside our own model, on random inputs: batches of 3 and of 1.

    Args:
        folder: what `export` wrote into.
        config: the model's shape.
        parameters: the weights that were exported; those stored as float16 are rounded before the comparison.
        dtype: what was exported.

    Returns:
        By tower (vision, text) the largest relative error of a feature, ||a - b|| / ||b||.
    """
    require_extra()
    size, length, end = config.vision.image_size, config.text.context_length, config.text.vocab_size - 1
    rng = np.random.default_rng(0)
    photos = rng.standard_normal((3, 3, size, size), np.float32)
    tokens = rng.integers(1, end, (3, length))
    for row, (last, padding) in enumerate([(length // 4, 0), (length // 2, end), (length - 1, 0)]):
        tokens[row, last], tokens[row, last + 1 :] = end, padding
    image_features, text_features = _reference(config, _rounded(parameters, dtype), photos, tokens)
    short = tokens[:1, : length // 4 + 1]
    return {
        "vision": _largest_error(folder / file_name("vision", dtype), (photos, photos[:1]), image_features),
        "text": _largest_error(folder / file_name("text", dtype), (tokens, short), text_features),
    }


def require_extra() -> None:
    """Raises UserError where the packages of the extra `onnx` are missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        raise UserError("ONNX export needs the packages of the extra onnx: pip install 'bioclip-jax[onnx]'") from None


def _reference(
    config: CLIPConfig, parameters: clip.Parameters, photos: np.ndarray, tokens: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Our own features of photos [batch, 3, size, size] and tokens [batch, tokens], in float32."""
    definition, _, _ = clip.abstract(config)

    @jax.jit
    def features(parameters: clip.Parameters, photos: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        model = clip.merge(definition, parameters)
        with jax.default_matmul_precision("highest"):
            return l2_normalize(model.encode_image(photos)), l2_normalize(model.encode_text(tokens))

    image, text = features(parameters, photos.transpose(0, 2, 3, 1), tokens.astype(np.int32))
    return np.asarray(image), np.asarray(text)


def _rounded(parameters: clip.Parameters, dtype: StoredType) -> clip.Parameters:
    def leaf(path: Any, array: Any) -> np.ndarray:
        array = np.asarray(array, np.float32)
        return array.astype(dtype).astype(np.float32) if path[-1].key in HALVED else array

    return jax.tree_util.tree_map_with_path(leaf, parameters)


def _largest_error(path: Path, batches: Sequence[np.ndarray], expected: np.ndarray) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    errors = []
    for batch in batches:
        ours = expected[: len(batch)]
        (theirs,) = session.run(None, {name: batch})
        errors.append(np.linalg.norm(theirs - ours, axis=1) / np.linalg.norm(ours, axis=1))
    return float(np.max(np.concatenate(errors)))
