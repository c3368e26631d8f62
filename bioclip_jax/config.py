"""What a run is: frozen dataclasses, every field typed, documented and reachable from the command line.

A recipe in `configs/` is one `TrainConfig` (or a grid of them). Nothing here imports JAX, so that `--help` is quick,
and everything here turns into JSON and back (`config_json`), so that opening a run never executes a file found in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from bioclip_jax.errors import UsageError

Activation = Literal["gelu", "quick_gelu"]
Precision = Literal["float32", "bfloat16", "float64"]
RematPolicy = Literal["none", "dots", "mlp", "attention", "context", "full"]
Attention = Literal["auto", "xla", "cudnn", "pallas"]

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
    """A second visual projector on the same pooled token, for experience replay (BioCLIP 2). A run without replay has
    none."""
    logit_bias: bool = False
    """A bias on the logits (SigLIP; Zhai et al. 2023). While training it is there exactly if loss.kind is sigmoid."""

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
    trim_text: bool = True
    """Cut captions to the shortest length that holds the data's longest, which is exact; otherwise they have the whole
    context, as upstream."""
    restart_every_steps: int = 0
    """Begin the order of the records anew after so many steps, as upstream's replay data do every epoch by mistake; 0
    for never."""
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
        for name in ("cache_bytes", "restart_every_steps"):
            if getattr(self, name) < 0:
                raise UsageError(f"data.{name} is {getattr(self, name)}; it cannot be below 0")
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
class LossConfig:
    """What is minimised. Each stream has this loss over its own rows; the losses are added."""

    kind: Literal["softmax", "sigmoid", "species"] = "softmax"
    """softmax: CLIP's contrastive loss. sigmoid: SigLIP's. species: of the photos of organisms the cross-entropy over
    their species, without captions (the flat baseline); replay keeps its captions. Every record is read once at the
    start, for its species, and the classifier is not cut into chunks: for data of up to some millions of photos."""
    several_positives: bool = False
    """Rows whose captions coincide are not negatives of each other, where plain CLIP has them as negatives: the softmax
    loss leaves them out, to the sigmoid loss they are positives."""
    gather_bfloat16: bool = False
    """Exchange and multiply features in bfloat16 in the loss: half the bytes and memory, at bfloat16's precision."""
    column_chunk: int = -1
    """Texts whose logits are in memory at once, on each device; -1 chooses, 0 takes all of them."""

    def __post_init__(self) -> None:
        if self.column_chunk < -1:
            raise UsageError(f"loss.column_chunk is {self.column_chunk}; it has to be -1, 0 or more")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with warm-up and a schedule, in OpenCLIP's form."""

    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2
    """Decoupled; on matrices and embeddings, not on biases, norms, the class token or the logit scale."""
    warmup_steps: int = 1875
    schedule: Literal["cosine", "constant"] = "cosine"
    """After warm-up: half a cosine to zero, or constant until the cool-down."""
    cooldown_steps: int = 0
    """The last steps of a constant schedule, over which the rate falls linearly to zero."""
    max_logit_scale: float = 100.0
    """The logit scale is held in 1..max_logit_scale after each step."""
    locked: tuple[Literal["visual", "text"], ...] = ()
    """Towers, their projections included, that stay as they are (LiT; Zhai et al. 2022)."""
    ema_decay: float = 0.0
    """Keep an exponential moving average of the parameters, which is what is evaluated and exported; 0 for none."""
    moment_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the first moment; float32 stands for that of the parameters."""

    def __post_init__(self) -> None:
        _require_positive(self, "optimizer", "learning_rate", "eps")
        for name in ("warmup_steps", "weight_decay", "cooldown_steps"):
            if getattr(self, name) < 0:
                raise UsageError(f"optimizer.{name} is {getattr(self, name)}; it cannot be below 0")
        for name in ("b1", "b2", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"optimizer.{name} is {getattr(self, name)}; it has to be in 0..1, below 1")
        if self.max_logit_scale < 1:
            raise UsageError(f"optimizer.max_logit_scale is {self.max_logit_scale}; it has to be at least 1")
        if self.cooldown_steps and self.schedule != "constant":
            raise UsageError("optimizer.cooldown_steps belongs to schedule constant; cosine falls by itself")
        if {"visual", "text"} <= set(self.locked):
            raise UsageError("optimizer.locked has both towers; nothing would be left to train")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are arranged. The batch is split over both axes; parameters over `fsdp`."""

    data: int = -1
    """Devices along the replica axis; -1 takes all that are left."""
    fsdp: int = 1
    """Devices over which parameters and optimiser state are split."""
    shard_optimizer: bool = False
    """Split the optimiser's state over the replicas, too (ZeRO-1)."""


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When to save, and what to keep."""

    every_steps: int = 1000
    every_minutes: float = 0.0
    """Save besides when so much time has passed since the last one; 0 for by steps only."""
    keep: int = 3
    """How many of the latest checkpoints stay on disk."""
    keep_every_steps: int = 0
    """Checkpoints of multiples of this many steps stay for good; 0 for none."""
    best_metric: str = ""
    """Figure of the evaluations while training by which the best checkpoint is kept besides, as validation_loss."""
    best_is: Literal["highest", "lowest"] = "highest"

    def __post_init__(self) -> None:
        _require_positive(self, "checkpoint", "every_steps", "keep")
        for name in ("every_minutes", "keep_every_steps"):
            if getattr(self, name) < 0:
                raise UsageError(f"checkpoint.{name} is {getattr(self, name)}; it cannot be below 0")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured while training."""

    every_steps: int = 0
    """Steps between two evaluations, the last step always included; 0 for none."""
    benchmarks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Benchmark recipes of `evals/`, or paths of others, each with its root folder ('' for its default)."""
    max_images: int = 2000
    """Photos of each split of a benchmark that are looked at."""
    validation_split: str = ""
    """Split of the training dataset whose loss is computed; none if empty."""
    validation_steps: int = 8
    """Batches of it, of the training batch's size."""

    def __post_init__(self) -> None:
        _require_positive(self, "evaluation", "max_images", "validation_steps")
        if self.every_steps < 0:
            raise UsageError(f"evaluation.every_steps is {self.every_steps}; it cannot be below 0")
        if not self.every_steps and (self.benchmarks or self.validation_split):
            raise UsageError("evaluation.every_steps is 0; say how often benchmarks and validation_split are measured")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    model: CLIPConfig = CLIPConfig()
    preprocessing: Preprocessing = Preprocessing()
    normalization: Literal["preprocessing", "imagenet"] = "preprocessing"
    """Mean and standard deviation while training: the model's own preprocessing, or ImageNet's, as upstream trained
    models whose published preprocessing is another."""
    initial_weights: str = ""
    """Model to start from, instead of random weights: a run, folder or hf-hub:owner/name that `bioclip-jax convert`
    reads, of the same shape. A second projector that it lacks starts as a copy of the first."""
    data: DataConfig = DataConfig()
    replay: DataConfig = DataConfig(dataset="", text_types=("caption",))
    """Experience replay (BioCLIP 2): image and text pairs with a contrastive loss of their own, through a second visual
    projector if the model has one. None without a dataset."""
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    mesh: MeshConfig = MeshConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    global_batch_size: int = 4096
    """Pairs of organisms in a step, over all devices."""
    replay_batch_size: int = 0
    """Pairs of replay data in a step, besides those; 0 for training without replay."""
    micro_batches: int = 1
    """Parts in which a batch goes through the towers, one after the other; the loss is still that of the whole batch,
    exactly (with float32 parameters). Saves memory and costs one more forward pass."""
    total_steps: int = 10_000
    steps_per_epoch: int = 0
    """Steps that are called an epoch where a plan is printed; 0: the records over the batch."""
    seed: int = 42
    """Of the initial weights, the order of the data and the crops."""
    dtype: Precision = "bfloat16"
    """Type of the towers' arithmetic. Norms, features, logits and the loss are float32 at least. float64 needs
    JAX_ENABLE_X64=1."""
    parameter_dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of parameters and moments. bfloat16 is pure_bf16 of upstream's later script, in which weight decay does
    nothing, and weights above 0.03 and the logit scale never move: for comparison."""
    remat_policy: RematPolicy = "none"
    """What the forward pass keeps of each block for the backward pass, which recomputes the rest. From large to small:
    none recomputes nothing; dots keeps the results of matrix products and of attention; mlp those of attention and of
    the MLP's first product; attention those of attention and its queries, keys and values; context that of attention;
    full keeps the blocks' inputs only."""
    attention: Attention = "auto"
    """Implementation. auto: the custom kernel (pallas) on TPUs, cudnn on NVIDIA GPUs in bfloat16, else xla. cudnn needs
    an NVIDIA GPU and bfloat16; pallas anywhere but on a TPU is interpreted, for tests."""
    max_skipped_steps: int = 100
    """Steps whose loss or gradient is not finite change nothing and are counted; beyond so many the run stops."""
    log_every: int = 10
    """Steps between two lines where there is no terminal to draw a bar on; metrics.jsonl has every step."""

    def __post_init__(self) -> None:
        _require_positive(self, "", "global_batch_size", "total_steps", "log_every", "micro_batches")
        if self.global_batch_size < 2:
            raise UsageError("global_batch_size is 1; a contrastive batch needs 2 or more")
        if not self.data.dataset:
            raise UsageError("data.dataset is empty; name what to train on")
        if self.replay_batch_size and not self.replay.dataset:
            raise UsageError(f"replay_batch_size is {self.replay_batch_size}, but replay.dataset is empty; name it")
        if self.replay_batch_size < 0 or self.replay_batch_size == 1:
            raise UsageError(f"replay_batch_size is {self.replay_batch_size}; it has to be 0 for none, or 2 or more")
        for name in ("seed", "max_skipped_steps", "steps_per_epoch"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} is {getattr(self, name)}; it cannot be below 0")
        if self.attention == "cudnn" and self.dtype != "bfloat16":
            raise UsageError(f"attention cudnn computes in bfloat16, not in {self.dtype}")
        if self.loss.kind == "species" and self.loss.several_positives:
            raise UsageError("loss.kind species does not go with loss.several_positives, which is about captions")
        if self.optimizer.cooldown_steps > max(0, self.total_steps - self.optimizer.warmup_steps):
            raise UsageError(
                f"optimizer.cooldown_steps {self.optimizer.cooldown_steps} and warmup_steps "
                f"{self.optimizer.warmup_steps} are more than the {self.total_steps} steps of the run"
            )
        # The sigmoid loss needs a bias, and no other has one; a second projector without replay would only decay.
        has_bias, has_projector = (
            self.loss.kind == "sigmoid",
            self.model.replay_projector and self.replay_batch_size > 0,
        )
        model = dataclasses.replace(self.model, logit_bias=has_bias, replay_projector=has_projector)
        object.__setattr__(self, "model", model)
        for name, size in (
            ("global_batch_size", self.global_batch_size),
            ("replay_batch_size", self.replay_batch_size),
        ):
            if size % self.micro_batches:
                raise UsageError(f"{name} {size} does not divide into {self.micro_batches} micro_batches")

    @property
    def locked(self) -> tuple[str, ...]:
        """The towers that are not trained: those that the optimiser locks, and a text tower that no loss asks for."""
        unused = self.loss.kind == "species" and not self.replay_batch_size
        return (*self.optimizer.locked, *(["text"] if unused and "text" not in self.optimizer.locked else []))
