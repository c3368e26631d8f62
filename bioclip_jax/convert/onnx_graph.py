"""The two towers as ONNX graphs, written operator by operator with the ONNX project's own package.

No tracer and no PyTorch; thirty operators per block, all of ONNX opset 17. This is a second writing of the forward pass
in `models`; `convert.onnx` compares the two at every export.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bioclip_jax.config import LAYER_NORM_EPS, CLIPConfig
from bioclip_jax.errors import UserError
from bioclip_jax.models import clip

OPSET, IR_VERSION = 17, 8
"""The first opset with LayerNormalization, and the file format of its time: onnxruntime 1.12 and later read it."""
EMBEDDED_BYTES = 1 << 16
"""Smaller arrays stay in the first of two files; also the alignment in the second, which lets a runtime map it."""
HALVED = ("kernel", "proj", "token_embedding")
"""Parameters that float16 storage rounds: nearly all bytes. Norms, biases and positions stay float32."""


@dataclasses.dataclass
class Graph:
    """Operators in order and the arrays they use; a value is a name. `half`: matrices are stored as float16."""

    name: str
    input: tuple[str, str, list[str | int]]
    """Name, element type, shape."""
    output: tuple[str, str, list[str | int]]
    half: bool
    nodes: list[tuple[str, list[str], list[str], dict[str, Any]]] = dataclasses.field(default_factory=list)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def node(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Adds an operator with one output, and returns that."""
        output = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append((operator, list(inputs), [output], attributes))
        return output

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """An array that is kept as it is; a name stands for one value."""
        self.arrays[name] = np.asarray(value, dtype, order="C")  # ascontiguousarray would turn a scalar into [1]
        return name

    def matrix(self, name: str, value: np.ndarray) -> str:
        """A parameter that may be stored as float16, as float32."""
        if not self.half:
            return self.constant(name, value)
        return self.node("Cast", self.halved(name, value), to=_element_type("float32"))

    def halved(self, name: str, value: np.ndarray) -> str:
        """An array as float16."""
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.isfinite(half).all():
            raise UserError(f"values in {name} are too large for float16; use float32")
        return self.constant(name, half, np.float16)


def vision_graph(config: CLIPConfig, tower: clip.Parameters, *, half: bool) -> Graph:
    """`pixel_values` [batch, 3, size, size] to `image_embeds` [batch, embed_dim], from the parameters of `visual`."""
    c, tower = config.vision, _as_float32(tower)
    graph = Graph(
        "vision",
        ("pixel_values", "float32", ["batch", 3, c.image_size, c.image_size]),
        ("image_embeds", "float32", ["batch", config.embed_dim]),
        half,
    )
    side = c.patch_size
    kernel = tower["patch_embedding"]["kernel"].reshape(side, side, 3, c.width).transpose(3, 2, 0, 1)
    kernel_name = graph.matrix("visual/patch_embedding/kernel", kernel)
    x = graph.node("Conv", "pixel_values", kernel_name, kernel_shape=[side, side], strides=[side, side])
    x = graph.node("Reshape", x, graph.constant("flat_patches", [0, c.width, -1], np.int64))
    x = graph.node("Transpose", x, perm=[0, 2, 1])  # [batch, patches, width]
    # The class token is the same for every photo: a token of zeros, to which its position adds it.
    x = graph.node("Pad", x, graph.constant("before_the_patches", [0, 1, 0, 0, 0, 0], np.int64))
    positions = tower["positional_embedding"].copy()
    positions[0] += tower["class_embedding"]
    x = graph.node("Add", x, graph.constant("visual/positional_and_class_embedding", positions))
    x = _layer_norm(graph, x, "visual/ln_pre", tower["ln_pre"])
    x = _blocks(graph, x, "visual", tower["blocks"], c.heads, config)
    x = graph.node("Gather", x, graph.constant("class_token", 0, np.int64), axis=1)
    return _project(graph, _layer_norm(graph, x, "visual/ln_post", tower["ln_post"]), "visual/proj", tower["proj"])


def text_graph(config: CLIPConfig, tower: clip.Parameters, *, half: bool) -> Graph:
    """`input_ids` [batch, sequence] to `text_embeds` [batch, embed_dim], from the parameters of `text`."""
    c, tower = config.text, _as_float32(tower)
    graph = Graph(
        "text",
        ("input_ids", "int64", ["batch", "sequence"]),
        ("text_embeds", "float32", ["batch", config.embed_dim]),
        half,
    )
    store = graph.halved if graph.half else graph.constant
    x = graph.node("Gather", store("text/token_embedding", tower["token_embedding"]), "input_ids")
    if graph.half:
        x = graph.node("Cast", x, to=_element_type("float32"))
    length = graph.node("Shape", "input_ids", start=1, end=2)
    zero, zeros = graph.constant("zero", [0], np.int64), graph.constant("zeros", [0, 0], np.int64)
    positions = graph.constant("text/positional_embedding", tower["positional_embedding"])
    x = graph.node("Add", x, graph.node("Slice", positions, zero, length, zero))
    # The lowest finite number: infinities make some GPU runtimes compute NaN.
    hidden = np.triu(np.full((c.context_length, c.context_length), np.finfo(np.float32).min), 1)
    lengths, axes = graph.node("Concat", length, length, axis=0), graph.constant("both_axes", [0, 1], np.int64)
    mask = graph.node("Slice", graph.constant("causal_mask", hidden), zeros, lengths, axes)
    x = _blocks(graph, x, "text", tower["blocks"], c.heads, config, mask)
    # Not every runtime has ArgMax of int64. Of equal ids the first counts.
    ids = graph.node("Cast", "input_ids", to=_element_type("int32"))
    x = graph.node("GatherND", x, graph.node("ArgMax", ids, axis=1, keepdims=1), batch_dims=1)
    return _project(graph, _layer_norm(graph, x, "text/ln_final", tower["ln_final"]), "text/proj", tower["proj"])


def _blocks(
    graph: Graph, x: str, tower: str, blocks: clip.Parameters, heads: int, config: CLIPConfig, mask: str = ""
) -> str:
    """x + Attention(LN(x)), then x + MLP(LN(x)), for each layer; `mask` is added to the attention logits."""
    layers, width = blocks["ln_1"]["scale"].shape
    split = graph.constant("split_heads", [0, 0, heads, width // heads], np.int64)
    merge = graph.constant("merge_heads", [0, 0, width], np.int64)
    scale = graph.constant("attention_scale", (width // heads) ** -0.5)
    for layer in range(layers):
        block, path = jax.tree.map(lambda array, i=layer: array[i], blocks), f"{tower}/blocks/{layer}"
        qkv = _linear(graph, _layer_norm(graph, x, f"{path}/ln_1", block["ln_1"]), f"{path}/qkv", block["qkv"])
        parts = [f"{path}/{name}" for name in ("query", "key", "value")]
        graph.nodes.append(("Split", [qkv], parts, {"axis": 2}))
        query, key, value = (
            graph.node("Transpose", graph.node("Reshape", part, split), perm=perm)
            for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        logits = graph.node("MatMul", graph.node("Mul", query, scale), key)  # [batch, heads, tokens, tokens]
        logits = graph.node("Add", logits, mask) if mask else logits
        context = graph.node("MatMul", graph.node("Softmax", logits, axis=-1), value)
        context = graph.node("Reshape", graph.node("Transpose", context, perm=[0, 2, 1, 3]), merge)
        x = graph.node("Add", x, _linear(graph, context, f"{path}/out", block["out"]))
        hidden = _linear(graph, _layer_norm(graph, x, f"{path}/ln_2", block["ln_2"]), f"{path}/fc", block["fc"])
        hidden = _activate(graph, hidden, config)
        x = graph.node("Add", x, _linear(graph, hidden, f"{path}/proj", block["proj"]))
    return x


def _activate(graph: Graph, x: str, config: CLIPConfig) -> str:
    """As `models.functions.activate`; runtimes know these forms and fuse them."""
    if config.activation == "quick_gelu":
        return graph.node("Mul", x, graph.node("Sigmoid", graph.node("Mul", x, graph.constant("steepness", 1.702))))
    erf = graph.node("Erf", graph.node("Div", x, graph.constant("root_of_two", math.sqrt(2))))
    twice = graph.node("Mul", x, graph.node("Add", erf, graph.constant("one", 1)))
    return graph.node("Mul", twice, graph.constant("half", 0.5))


def _layer_norm(graph: Graph, x: str, path: str, norm: clip.Parameters) -> str:
    scale, bias = (graph.constant(f"{path}/{name}", norm[name]) for name in ("scale", "bias"))
    return graph.node("LayerNormalization", x, scale, bias, axis=-1, epsilon=LAYER_NORM_EPS)


def _linear(graph: Graph, x: str, path: str, layer: clip.Parameters) -> str:
    product = graph.node("MatMul", x, graph.matrix(f"{path}/kernel", layer["kernel"]))
    return graph.node("Add", product, graph.constant(f"{path}/bias", layer["bias"]))


def _project(graph: Graph, pooled: str, path: str, proj: np.ndarray) -> Graph:
    """Ends a graph: into the shared space, and to length 1."""
    x = graph.node("MatMul", pooled, graph.matrix(path, proj))
    norm = graph.node("Max", graph.node("ReduceL2", x, axes=[-1], keepdims=1), graph.constant("tiny", 1e-12))
    graph.node("Div", x, norm, output=graph.output[0])
    return graph


def _as_float32(tower: clip.Parameters) -> clip.Parameters:
    return jax.tree.map(lambda array: np.asarray(array, np.float32), tower)


def _element_type(dtype: Any) -> int:
    from onnx import helper

    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def write(graph: Graph, path: Path, external_bytes: int) -> None:
    """Writes the graph, and its larger arrays to `path` + `_data` if all together are above `external_bytes`.

    Raises:
        OSError: a file cannot be written.
    """
    from onnx import TensorProto, helper

    nodes = [helper.make_node(op, ins, outs, name=outs[0], **rest) for op, ins, outs, rest in graph.nodes]
    ins, outs = (
        helper.make_tensor_value_info(name, _element_type(dtype), shape)
        for name, dtype, shape in (graph.input, graph.output)
    )
    model = helper.make_model(
        helper.make_graph(nodes, graph.name, [ins], [outs]),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="bioclip_jax",
    )
    external = sum(array.nbytes for array in graph.arrays.values()) > external_bytes
    data = path.with_name(f"{path.name}_data")
    with data.open("wb") as file:
        for name, array in graph.arrays.items():
            # In place: each helper that takes finished tensors would copy all weights once more.
            tensor = model.graph.initializer.add(name=name, data_type=_element_type(array.dtype), dims=array.shape)
            if not external or array.nbytes < EMBEDDED_BYTES:
                tensor.raw_data = array.tobytes()
                continue
            file.write(bytes(-file.tell() % EMBEDDED_BYTES))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", data.name), ("offset", file.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(array.data)
    if not data.stat().st_size:
        data.unlink()
    path.write_bytes(model.SerializeToString())
