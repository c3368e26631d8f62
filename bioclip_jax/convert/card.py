"""The model card beside an export: what the model is, how photos reach it, what it was trained on, how good it is.

Strings that come from data are escaped; nothing is stated that is not known.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bioclip_jax.config import CLIPConfig, Preprocessing
from bioclip_jax.convert.names import parameters_of
from bioclip_jax.convert.weights import Source, shapes_of

CITATION = """@inproceedings{gu2025bioclip2,
  title = {{BioCLIP 2}: Emergent Properties from Scaling Hierarchical Contrastive Learning},
  author = {Gu, Jianyang and Stevens, Samuel and Campolongo, Elizabeth G and Thompson, Matthew J and Zhang, Net and
    Wu, Jiaman and Kopanev, Andrei and Mai, Zheda and White, Alexander E. and Balhoff, James and Dahdul, Wasila and
    Rubenstein, Daniel and Lapp, Hilmar and Berger-Wolf, Tanya and Chao, Wei-Lun and Su, Yu},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {38},
  year = {2025}
}"""

REPLAY = (
    "With these weights comes a second visual projector, `visual.continual_proj` in OpenCLIP's names, which served "
    "experience replay. Stock OpenCLIP refuses a folder that holds it; BioCLIP 2's training code takes it."
)

BIAS = (
    "These weights were trained with the sigmoid loss: the probability that a photo and a text belong together is the "
    "sigmoid of their logit plus the bias {bias:.6g}, which `CLIPModel` and ONNX have no place for. Which of several "
    "texts fits best does not depend on it."
)

USE = {
    "open_clip": """```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")
tokenizer = open_clip.get_tokenizer("local-dir:FOLDER")
```""",
    "hugging_face": """```python
from transformers import CLIPModel, CLIPProcessor

model, processor = CLIPModel.from_pretrained("FOLDER"), CLIPProcessor.from_pretrained("FOLDER")
```""",
    "orbax": """```python
import bioclip_jax

model = bioclip_jax.load("FOLDER")
```""",
    "onnx": """```python
import onnxruntime, tokenizers

images = onnxruntime.InferenceSession("FOLDER/onnx/vision_model.onnx")
texts = onnxruntime.InferenceSession("FOLDER/onnx/text_model.onnx")
tokenizer = tokenizers.Tokenizer.from_file("FOLDER/tokenizer.json")
tokenizer.enable_padding(pad_id=49407, pad_token="<|endoftext|>")
ids = [encoding.ids for encoding in tokenizer.encode_batch(["a photo of Corvus corax.", "a photo of Vulpes vulpes."])]
(text_embeds,) = texts.run(None, {"input_ids": ids})  # int64 [batch, up to the context]
(image_embeds,) = images.run(None, {"pixel_values": pixels})  # float32 [batch, 3, size, size], prepared as below
logits = LOGIT_SCALE * image_embeds @ text_embeds.T  # both are L2-normalised; a softmax over texts gives probabilities
```""",
}
"""How the folder is opened, by format."""


@dataclass(frozen=True)
class Accuracy:
    """One figure with its 95 % interval, as a share."""

    benchmark: str
    dataset_hash: str
    split: str
    rank: str
    metric: str
    value: float
    low: float
    high: float
    chance: float
    classes: int


@dataclass(frozen=True)
class Provenance:
    """What is known about where the weights come from."""

    training: Mapping[str, Any] | None = None
    """The config of the run."""
    step: int | None = None
    initial_weights: str = ""
    """What the run started from, where that was not random."""
    dataset: str = ""
    dataset_hash: str = ""
    """Of the training data's manifest."""
    weights: str = ""
    """The fingerprint under which results and features of these weights are kept."""
    accuracies: Sequence[Accuracy] = ()
    citations: Sequence[str] = ()
    """Of the benchmarks."""
    license: str = ""


@dataclass
class _Page:
    lines: list[str] = field(default_factory=list)

    def section(self, title: str, *lines: str) -> None:
        self.lines += ["", f"## {title}", "", *lines]

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def model_card(source: Source, to: str, dtype: str, provenance: Provenance, *, has_replay: bool = False) -> str:
    """The card as Markdown with the Hub's YAML head.

    Args:
        source: the model.
        to: format of the folder.
        dtype: type of its weights.
        provenance: what else is known.
        has_replay: whether the second visual projector is in the folder.
    """
    page = _Page([*_head(to, provenance), "", f"# {_text(source.name)}"])
    page.lines += ["", f"A CLIP model of images and texts, written by bioclip_jax from {_text(source.kind)}."]
    scale = logit_scale(source)
    use = USE[to].replace("FOLDER", "path/of/this/folder").replace("LOGIT_SCALE", f"{scale:.6g}")
    page.section("Use", use.replace("_model.onnx", "_model_fp16.onnx") if dtype == "float16" else use)
    sizes = page.table(("", "images", "texts"), _sizes(source.config))
    page.section("Sizes", *sizes, "", _totals(source.config, dtype), f"The logit scale is {scale:.6g}.")
    if source.config.logit_bias:
        page.lines.append(BIAS.format(bias=_scalar(source, "logit_bias")))
    if has_replay:
        page.lines += ["", REPLAY]
    page.section("Preprocessing", *page.table(("", ""), _preprocessing(source.config, source.preprocessing)))
    page.section("Training", *_training(provenance))
    page.section("Accuracy", *_accuracy(page, provenance))
    license_line = (
        f"{_text(provenance.license)}." if provenance.license else "Not stated: ask whoever made the weights."
    )
    page.section("Licence", license_line)
    page.section("Citation", *_citation(provenance))
    return "\n".join(page.lines) + "\n"


def logit_scale(source: Source) -> float:
    """The factor between cosine similarities and logits."""
    return math.exp(_scalar(source, "logit_scale"))


def _scalar(source: Source, path: str) -> float:
    (parameter,) = (parameter for parameter in parameters_of(source.config) if parameter.path == path)
    return float(source.weights.read(parameter))


def _head(to: str, provenance: Provenance) -> list[str]:
    fields: dict[str, Any] = {}
    if provenance.license:
        fields["license"] = provenance.license.lower()
    if to in ("open_clip", "hugging_face", "onnx"):
        fields["library_name"] = {"hugging_face": "transformers", "onnx": "transformers.js"}.get(to, to)
        fields["pipeline_tag"] = "zero-shot-image-classification"
    if provenance.initial_weights.startswith("hf-hub:"):
        fields["base_model"] = provenance.initial_weights.removeprefix("hf-hub:").partition("@")[0]
    fields["tags"] = ["clip", *(["biology"] if provenance.training is not None else [])]
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in fields.items()), "---"]


def _citation(provenance: Provenance) -> list[str]:
    if provenance.training is None:
        return ["Cite those who made the weights, as their own card says."]
    return ["```bibtex", CITATION, "```", *(f"\n{_text(text)}" for text in provenance.citations if text)]


def _sizes(config: CLIPConfig) -> list[list[str]]:
    vision, text = config.vision, config.text
    rows: list[list[Any]] = [
        ["layers", vision.layers, text.layers],
        ["width", vision.width, text.width],
        ["heads", vision.heads, text.heads],
        ["MLP width", int(vision.width * vision.mlp_ratio), int(text.width * text.mlp_ratio)],
        ["input", f"{vision.image_size} x {vision.image_size} pixels", f"{text.context_length} tokens"],
        ["patch or vocabulary", f"{vision.patch_size} x {vision.patch_size} pixels", f"{text.vocab_size:,} tokens"],
    ]
    return [[str(cell) for cell in row] for row in rows]


def _totals(config: CLIPConfig, dtype: str) -> str:
    count = {"visual": 0, "text": 0}
    for path, shape in shapes_of(config).items():
        tower = path.partition("/")[0]
        if tower in count and path != "visual/replay_proj":
            count[tower] += math.prod(shape)
    gelu = "exact GELU" if config.activation == "gelu" else "QuickGELU"
    return (
        f"{count['visual'] / 1e6:.1f} million parameters for images and {count['text'] / 1e6:.1f} million for texts in "
        f"{dtype}; {gelu}; both give {config.embed_dim} numbers."
    )


def _preprocessing(config: CLIPConfig, preprocess: Preprocessing) -> list[list[str]]:
    size = config.vision.image_size
    geometry = {
        "center_crop": f"shortest side to {size} pixels, then the central {size} x {size}",
        "squash": f"both sides to {size} pixels, whatever the aspect ratio",
    }
    numbers = {name: ", ".join(str(x) for x in getattr(preprocess, name)) for name in ("mean", "std")}
    return [
        ["geometry", geometry[preprocess.geometry]],
        ["interpolation", f"{preprocess.interpolation}, antialiased"],
        ["mean of R, G, B in 0..1", numbers["mean"]],
        ["standard deviation", numbers["std"]],
    ]


def _training(provenance: Provenance) -> list[str]:
    lines = []
    if provenance.training is None:
        lines.append("Not known here: the weights were converted, and their own card says how they were trained.")
    else:
        start = (
            f"from the weights of {_text(provenance.initial_weights)}" if provenance.initial_weights else "from scratch"
        )
        lines.append(f"Step {provenance.step:,} of a run that started {start}, with this config:")
        # Indented, so that no string in it can end a fence.
        lines += ["", *(f"    {line}" for line in json.dumps(provenance.training, indent=2).splitlines())]
    if provenance.dataset:
        known = f", manifest hash `{provenance.dataset_hash}`" if provenance.dataset_hash else ""
        lines += ["", f"Dataset: {_text(provenance.dataset)}{known}."]
    if provenance.weights:
        lines += ["", f"Fingerprint of the weights as measured: `{provenance.weights}`."]
    return lines


def _accuracy(page: _Page, provenance: Provenance) -> list[str]:
    if not provenance.accuracies:
        return ["No results of these weights were found beside them. `bioclip-jax eval` makes them."]
    rows = [
        [
            _text(a.benchmark),
            _text(a.split),
            _text(a.rank),
            _text(a.metric.replace("_", " ")),
            f"{100 * a.value:.1f} ({100 * a.low:.1f} to {100 * a.high:.1f})",
            f"{100 * a.chance:.1f}",
            str(a.classes),
        ]
        for a in provenance.accuracies
    ]
    hashes = {a.benchmark: a.dataset_hash for a in provenance.accuracies}
    table = page.table(("benchmark", "species", "rank", "metric", "% (95 % interval)", "chance", "taxa"), rows)
    data = ", ".join(f"{_text(name)} `{value[:16]}`" for name, value in hashes.items())
    return ["Zero-shot, by text features of the taxa of the split.", "", *table, "", f"Hash of the data: {data}."]


def _text(value: str) -> str:
    """Text of unknown origin as one line of Markdown that is nothing but text."""
    line = html.escape(" ".join(value.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", line)
