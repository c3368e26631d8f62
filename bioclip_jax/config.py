"""What a run is: frozen dataclasses, every field typed, documented and reachable from the command line.

A recipe in `configs/` is one `TrainConfig` (or a grid of them). Nothing here imports JAX, so that `--help` is quick,
and everything here turns into JSON and back, so that opening a run never executes a file found in it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from bioclip_jax.errors import UsageError, UserError

Activation = Literal["gelu", "quick_gelu"]
Precision = Literal["float32", "bfloat16", "float64"]
RematPolicy = Literal["none", "dots", "full"]
Attention = Literal["xla", "cudnn"]

MOST_LAYERS = 10_000
LAYER_NORM_EPS = 1e-5
"""PyTorch's default, which every CLIP was trained with (nnx's is 1e-6)."""
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def _require_positive(config: Any, prefix: str, *names: str) -> None:
    """Raises UsageError for the first of the fields (all numbers, if none is named) that is not above zero."""
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    for name in names or fields:
        if isinstance(fields[name], int | float) and fields[name] <= 0:
            raise UsageError(f"{prefix}{'.' if prefix else ''}{name} is {fields[name]}; it has to be above 0")


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """A plain vision Transformer with a class token (Dosovitskiy et al. 2021; OpenCLIP's `VisionTransformer`)."""

    image_size: int = 224
    """Side of the square input, pixels."""
    patch_size: int = 16
    """Side of a patch, pixels; divides image_size."""
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """A causal text Transformer read at the end-of-text token (Radford et al. 2021)."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    layers: int = 12
    heads: int = 8
    mlp_ratio: float = 4.0


@dataclasses.dataclass(frozen=True)
class CLIPConfig:
    """The shape of a CLIP model. Presets follow OpenCLIP's model configurations of the same names."""

    embed_dim: int = 512
    """Width of the space that images and texts share."""
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    activation: Activation = "gelu"
    """gelu is the exact erf form; quick_gelu is x * sigmoid(1.702 x), as in OpenAI's own weights."""
    replay_projector: bool = False
    """A second visual projector on the same pooled token, for experience replay (BioCLIP 2)."""

    def __post_init__(self) -> None:
        _require_positive(self, "model", "embed_dim")
        _require_positive(self.vision, "model.vision")
        _require_positive(self.text, "model.text")
        if self.vision.image_size % self.vision.patch_size:
            raise UsageError(
                f"vision.image_size {self.vision.image_size} is not a multiple of patch_size {self.vision.patch_size}"
            )
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if tower.layers > MOST_LAYERS:
                raise UsageError(f"{name}.layers is {tower.layers}; at most {MOST_LAYERS} make sense")
            if tower.width % tower.heads:
                raise UsageError(f"{name}.width {tower.width} is not a multiple of {name}.heads {tower.heads}")

    @classmethod
    def tiny(cls, image_size: int = 64) -> CLIPConfig:
        """About 8 million parameters, most of them in the token table: for CPUs, tests and demos."""
        return cls(
            embed_dim=128,
            vision=VisionConfig(image_size, patch_size=8, width=128, layers=6, heads=4),
            text=TextConfig(width=128, layers=3, heads=4),
        )

    @classmethod
    def vit_s16(cls) -> CLIPConfig:
        """ViT-S-16."""
        return cls(384, VisionConfig(patch_size=16, width=384, heads=6), TextConfig(width=384, heads=6))

    @classmethod
    def vit_b32(cls) -> CLIPConfig:
        """ViT-B-32."""
        return cls(512, VisionConfig(patch_size=32))

    @classmethod
    def vit_b16(cls) -> CLIPConfig:
        """ViT-B-16: BioCLIP's shape."""
        return cls(512, VisionConfig(patch_size=16))

    @classmethod
    def vit_l14(cls) -> CLIPConfig:
        """ViT-L-14: BioCLIP 2's shape."""
        vision = VisionConfig(patch_size=14, width=1024, layers=24, heads=16)
        return cls(768, vision, TextConfig(width=768, heads=12))

    @classmethod
    def vit_h14(cls) -> CLIPConfig:
        """ViT-H-14: BioCLIP 2.5's shape (vision head width 80)."""
        vision = VisionConfig(patch_size=14, width=1280, layers=32, heads=16)
        return cls(1024, vision, TextConfig(width=1024, layers=24, heads=16))


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How a photo becomes the model's input. Travels with the weights."""

    mean: tuple[float, float, float] = OPENAI_MEAN
    """Subtracted per RGB channel from values in 0..1."""
    std: tuple[float, float, float] = OPENAI_STD
    geometry: Literal["center_crop", "squash"] = "center_crop"
    """Evaluation: shortest side to the input size, then the centre; or both sides to the input size."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"

    def __post_init__(self) -> None:
        for name, low in (("mean", 0.0), ("std", 1e-6)):
            value = getattr(self, name)
            numbers = [x for x in value if isinstance(x, int | float) and low <= x <= 1]
            if len(value) != 3 or len(numbers) != 3:
                raise UsageError(f"preprocessing.{name} is {value}; it has to be three numbers, for values in 0..1")
        for name, choices in (("geometry", ("center_crop", "squash")), ("interpolation", ("bicubic", "bilinear"))):
            if getattr(self, name) not in choices:
                raise UsageError(f"preprocessing.{name} is {getattr(self, name)!r}, not one of {', '.join(choices)}")


@dataclasses.dataclass(frozen=True)
class DatasetConfig:
    """One more dataset in a mixture."""

    dataset: str
    """As `DataConfig.dataset`."""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    split: str = "train"
    weight: float = 1.0
    """Its share of the batches, relative to the other weights."""

    def __post_init__(self) -> None:
        _require_positive(self, "data.mixed_with", "weight")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on."""

    dataset: str = "synthetic"
    """A dataset directory (made by `bioclip-jax data build`), tfds:NAME, or a data recipe that is read or drawn while
    training: a built-in name or the path of a Python file."""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Arguments of the data recipe's `source`; a dataset directory takes none."""
    split: str = "train"
    weight: float = 1.0
    """Share of this dataset in the batches, where others are mixed with it."""
    mixed_with: tuple[DatasetConfig, ...] = ()
    """Further datasets. Each runs through its own records epoch by epoch."""
    with_replacement: bool = False
    """Draw records at random instead of running through them, as the published run drew its shards."""
    block_size: int = 1
    """Neighbouring records that stay together in the order, for object storage: it serves long runs better than single
    records. The records of a file should be mixed then (`bioclip-jax data build --mix`)."""
    text_types: tuple[str, ...] = ("sci", "com", "taxon", "sci_com", "taxon_com")
    """Caption types; each step draws one for its whole batch."""
    text_type_per_sample: bool = False
    """Draw the caption type for each sample instead of for each step."""
    crop_scale: tuple[float, float] = (0.9, 1.0)
    """Random resized crop: range of the share of the image's area."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Random resized crop: range of width over height."""
    horizontal_flip: bool = False
    """Mirror half of the images. The published recipe does not."""
    max_bad_share: float = 0.02
    """Share of the samples that may be unusable; a neighbour replaces each, which is counted. Beyond, the run stops."""
    threads: int = 4
    """Threads that decode and crop on each host, or in each of its processes."""
    processes: int = 0
    """Worker processes on each host, where one process's threads do not suffice; 0 for threads only."""
    prefetch_batches: int = 4
    """Batches that wait in memory for the device."""
    cache_folder: str = ""
    """Local disk for the files of a dataset directory in object storage; the user's cache folder if not given."""
    cache_bytes: int = 0
    """How much may lie there before the files not used for longest are removed; 0 for no limit."""

    @property
    def datasets(self) -> tuple[DatasetConfig, ...]:
        """This and the ones that are mixed with it."""
        return DatasetConfig(self.dataset, self.arguments, self.split, self.weight), *self.mixed_with

    def __post_init__(self) -> None:
        _require_positive(self, "data", "weight", "block_size", "threads", "prefetch_batches")
        if self.cache_bytes < 0:
            raise UsageError(f"data.cache_bytes is {self.cache_bytes}; it cannot be below 0")
        if self.processes < 0 or not 0 <= self.max_bad_share <= 1:
            raise UsageError(
                f"data.processes is {self.processes} and data.max_bad_share {self.max_bad_share}; the first cannot be "
                "below 0, the second has to be in 0..1"
            )
        if not self.text_types:
            raise UsageError("data.text_types is empty; name at least one caption type")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UsageError(
                f"data.crop_scale is {self.crop_scale}; it has to be two rising numbers above 0, at most 1"
            )
        if not 0 < self.crop_ratio[0] <= self.crop_ratio[1]:
            raise UsageError(f"data.crop_ratio is {self.crop_ratio}; it has to be two rising numbers above 0")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and cosine decay to zero, in OpenCLIP's form."""

    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2
    """Decoupled; on matrices and embeddings, not on biases, norms, the class token or the logit scale."""
    warmup_steps: int = 1875
    max_logit_scale: float = 100.0
    """The logit scale is held in 1..max_logit_scale after each step."""

    def __post_init__(self) -> None:
        _require_positive(self, "optimizer", "learning_rate", "eps")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise UsageError("optimizer.warmup_steps and optimizer.weight_decay cannot be below 0")
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise UsageError(f"optimizer.b1 {self.b1} and optimizer.b2 {self.b2} have to be in 0..1, below 1")
        if self.max_logit_scale < 1:
            raise UsageError(f"optimizer.max_logit_scale is {self.max_logit_scale}; it has to be at least 1")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged. The batch is split over both axes; parameters over `fsdp`."""

    data: int = -1
    """Devices along the replica axis; -1 takes all that are left."""
    fsdp: int = 1
    """Devices over which parameters and optimiser state are split."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every_steps: int = 1000
    keep: int = 3
    """How many of the latest checkpoints stay on disk."""

    def __post_init__(self) -> None:
        _require_positive(self, "checkpoint")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: CLIPConfig = CLIPConfig()
    preprocessing: Preprocessing = Preprocessing()
    initial_weights: str = ""
    """Model to start from, instead of random weights: a run, folder or hf-hub:owner/name that `bioclip-jax convert`
    reads, of the same shape. A second projector that it lacks starts as a copy of the first."""
    data: DataConfig = DataConfig()
    replay: DataConfig = DataConfig(dataset="", text_types=("caption",))
    """Experience replay (BioCLIP 2): image and text pairs with a contrastive loss of their own, through a second visual
    projector. None without a dataset."""
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    global_batch_size: int = 4096
    """Pairs of organisms in a step, over all devices."""
    replay_batch_size: int = 0
    """Pairs of replay data in a step, besides those."""
    total_steps: int = 10_000
    seed: int = 42
    """Of the initial weights, the order of the data and the crops."""
    dtype: Precision = "bfloat16"
    """Type of the towers' arithmetic. Parameters, norms, features, logits and the loss are float32 at least. float64
    needs JAX_ENABLE_X64=1."""
    remat_policy: RematPolicy = "none"
    """What the backward pass recomputes: nothing, all but matrix products, or whole blocks."""
    attention: Attention = "xla"
    """Implementation; cudnn needs an NVIDIA GPU and bfloat16."""
    log_every: int = 10
    """Steps between two lines where there is no terminal to draw a bar on; metrics.jsonl has every step."""

    def __post_init__(self) -> None:
        _require_positive(self, "", "global_batch_size", "total_steps", "log_every")
        if self.global_batch_size < 2:
            raise UsageError("global_batch_size is 1; a contrastive batch needs 2 or more")
        if not self.data.dataset:
            raise UsageError("data.dataset is empty; name what to train on")
        if bool(self.replay.dataset) != (self.replay_batch_size > 0):
            raise UsageError(
                f"replay.dataset is {self.replay.dataset!r} and replay_batch_size {self.replay_batch_size}; replay "
                "needs both, and a run without it neither"
            )
        if self.replay.dataset and not (self.model.replay_projector and self.replay_batch_size > 1):
            raise UsageError("replay needs model.replay_projector, and a replay_batch_size of 2 or more")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}; it cannot be below 0")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise UsageError(f"attention cudnn computes in bfloat16, not in {self.dtype}")


def to_json(config: Any) -> str:
    """A config dataclass as indented JSON."""
    return json.dumps(dataclasses.asdict(config), indent=2, default=os.fspath)


_JSON_TYPES: dict[Any, Any] = {int: int, float: (int, float), str: str, bool: bool}


def from_dict(kind: type[Any], value: Any) -> Any:
    """A config dataclass of type `kind` from parsed JSON; lists become tuples, missing fields take their defaults.

    Raises:
        UserError: an unknown field, or a value of another type; the message names it.
        UsageError: a value that makes no sense.
    """
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise UserError(f"{kind.__name__}: expected an object, got {value!r}")
        hints = typing.get_type_hints(kind)
        unknown = sorted(set(value) - set(hints))
        if unknown:
            raise UserError(f"{kind.__name__}: unknown field {unknown[0]!r}")
        fields = {}
        for name in value:
            try:
                fields[name] = from_dict(hints[name], value[name])
            except UserError as error:
                raise UserError(f"{name}: {error}") from None
        return kind(**fields)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise UserError(f"expected a list, got {value!r}")
        return tuple(from_dict(arguments[0], item) for item in value)
    if origin in (typing.Union, types.UnionType) and value is None:
        return None
    if origin is Literal and value not in arguments:
        raise UserError(f"expected one of {', '.join(map(str, arguments))}, got {value!r}")
    if kind in _JSON_TYPES and (
        not isinstance(value, _JSON_TYPES[kind]) or (isinstance(value, bool) and kind is not bool)
    ):
        raise UserError(f"expected {kind.__name__}, got {value!r}")
    return value
