"""Measures training: images per second of whole steps, ours beside stock open_clip's, on the same inputs and device.

    python tests/benchmarks/train_step.py [--model B/16] [--dtype float32] [--batch 16] [--turns 5] [--json FILE]

A step is forwards, contrastive loss, backwards and AdamW, on random photos and captions of at most 32 tokens that lie
in memory. open_clip (the `peers` extra) takes captions at 77 tokens; ours is measured at 77 and cut to 32, which is
exact. On a GPU each side has the batch size and settings at which it is fastest, found first, unless --batch fixes one.
Sides are measured in turns, each turn in a process of its own, so that none holds memory while another runs; what the
first turn compiles the others find on disk. Rows are medians over turns with their ranges, ratios are taken turn by
turn. Utilisation is the model's own arithmetic (`models/flops.py`) over the device's peak in bfloat16; on a CPU over a
float32 product's rate.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bioclip_jax.config import CLIPConfig, DataConfig, TrainConfig
from bioclip_jax.models.flops import train_flops

MODELS = {
    "B/16": (CLIPConfig.vit_b16, "ViT-B-16"),
    "L/14": (CLIPConfig.vit_l14, "ViT-L-14"),
    "H/14": (CLIPConfig.vit_h14, "ViT-H-14"),
}
CONTEXT, BUCKET = 77, 32
START_OF_TEXT, END_OF_TEXT = 49406, 49407
OURS = ("none/auto", "none/xla", "dots/auto", "attention/auto")
ABOUT = "device", "jax", "torch", "open_clip_torch", "threads", "parameters", "environment"
ENVIRONMENT = "XLA_FLAGS", "GLIBC_TUNABLES", "OMP_NUM_THREADS"
"""Settings of the caller's that both sides run with, and that change their speed."""
PEER = {"float32": ("float32/eager", "float32/compile"), "bfloat16": ("autocast/compile", "pure/compile")}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One side with all that may be chosen."""

    side: str
    """ours, or open_clip."""
    model: str
    dtype: str
    batch: int
    tokens: int = CONTEXT
    option: str = ""
    """ours: the remat policy and attention, as none/auto. open_clip: autocast or pure, and eager or compile."""

    @property
    def name(self) -> str:
        return f"{self.side}, {self.tokens} tokens"


def inputs(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """uint8 photos [batch, 224, 224, 3] and int32 token ids [batch, tokens]; the same for both sides."""
    generator = np.random.default_rng(0)
    photos = generator.integers(0, 256, (setting.batch, 224, 224, 3), dtype=np.uint8)
    tokens = np.zeros((setting.batch, CONTEXT), np.int32)
    for row, length in zip(tokens, generator.integers(8, BUCKET - 1, setting.batch), strict=True):
        row[: length + 2] = START_OF_TEXT, *generator.integers(1, START_OF_TEXT, length), END_OF_TEXT
    return photos, tokens[:, : setting.tokens]


def prepare_ours(setting: Setting) -> tuple[Callable[[], float], dict[str, Any]]:
    """A step of ours that returns its loss, and what it ran with."""
    os.environ.setdefault("JAX_NUM_CPU_DEVICES", "1")
    import jax
    import jax.numpy as jnp

    from bioclip_jax.parallel.mesh import make_mesh
    from bioclip_jax.training.step import make_program
    from bioclip_jax.training.throughput import peak_flops

    policy, attention = setting.option.split("/")
    model, data = MODELS[setting.model][0](), DataConfig(dataset="random")
    options = {"dtype": setting.dtype, "remat_policy": policy, "attention": attention}
    config = TrainConfig(model=model, data=data, global_batch_size=setting.batch, **options)
    photos, tokens = inputs(setting)
    peak = peak_flops()
    program = make_program(config, make_mesh())
    shardings = jax.tree.map(lambda leaf: leaf.sharding, program.abstract_batch({"bio": setting.tokens}))
    batch = jax.device_put({"bio": {"image": photos, "tokens": tokens}}, shardings)
    signals = jax.device_put(jnp.zeros(program.abstract_signals.shape, jnp.int32), program.abstract_signals.sharding)
    state = program.init()
    step = program.step.lower(state, batch, signals).compile()

    def run() -> jax.Array:
        nonlocal state
        state, metrics = step(state, batch, signals)
        return metrics["loss"]

    about = {"jax": jax.__version__, "platform": jax.default_backend()}
    about |= {"device": jax.local_devices()[0].device_kind, "peak": peak}
    return run, about | {"parameters": sum(leaf.size for leaf in jax.tree.leaves(state.parameters))}


def prepare_open_clip(setting: Setting) -> tuple[Callable[[], float], dict[str, Any]]:
    """A step as in open_clip's own trainer; photos are normalised beforehand, as its data loader does."""
    import torch

    open_clip = import_open_clip()
    precision, mode = setting.option.split("/")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True  # as open_clip's trainer
    weights = {"float32": "fp32", "autocast": "amp_bf16", "pure": "pure_bf16"}[precision]
    model = open_clip.create_model(MODELS[setting.model][1], precision=weights, device=device)
    model.train()
    loss = open_clip.ClipLoss(cache_labels=True)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=1e-6, betas=(0.9, 0.98), eps=1e-6, fused=True)
    photos, tokens = inputs(setting)
    mean, std = (np.asarray(x, np.float32) for x in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
    normalized = torch.from_numpy(((photos / np.float32(255) - mean) / std).transpose(0, 3, 1, 2).copy())
    images = normalized.to(device, torch.bfloat16 if precision == "pure" else torch.float32)
    captions = torch.from_numpy(tokens.astype(np.int64)).to(device)
    forwards = torch.compile(model) if mode == "compile" else model

    def run() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "autocast"):
            value = loss(*forwards(images, captions))
        value.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        return value.detach()

    about = {"torch": torch.__version__, "open_clip_torch": open_clip.__version__, "threads": torch.get_num_threads()}
    about |= {"platform": "gpu" if device == "cuda" else "cpu"}
    return run, about | {"parameters": sum(p.numel() for p in model.parameters())}


def import_open_clip() -> Any:
    """The stock package; also beside a CPU build of PyTorch, for which torchvision's compiled operators do not load."""
    import torch

    folder = Path(importlib.util.find_spec("torchvision").submodule_search_locations[0])
    try:
        for extension in folder.glob("_C*.so"):
            torch.ops.load_library(extension)
    except OSError:
        # They are not used here, but torchvision describes two of them when it is imported.
        declarations = import_open_clip.declarations = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            declarations.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip

    return open_clip


def child(setting: Setting, seconds: float) -> dict[str, Any]:
    """Images per second over about so many seconds, by the median of several rounds."""
    run, about = (prepare_ours if setting.side == "ours" else prepare_open_clip)(setting)
    for _ in range(3):
        start = time.perf_counter()
        loss = float(run())
        took = time.perf_counter() - start
    rounds = max(3, min(10, round(seconds / took)))
    steps = max(1, round(seconds / took / rounds))
    rates, used = [], time.process_time()
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(steps):
            last = run()
        loss = float(last)  # waits for the device
        rates.append(steps * setting.batch / (time.perf_counter() - start))
    if not np.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}")
    processor = (time.process_time() - used) / (rounds * steps * setting.batch)
    return {"rate": statistics.median(rates), "rounds": rates, "processor": processor, "loss": loss, **about}


class Runner:
    """Starts children, whose compiled programs are kept in a folder."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._seconds = seconds
        caches = ("JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
        self._environment = {**os.environ, "HF_HUB_OFFLINE": "1", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self._environment |= {name: str(folder / name.lower()) for name in caches}

    def __call__(self, setting: Setting, seconds: float = 0.0) -> dict[str, Any]:
        """What `child` gives; RuntimeError with its last error if it fails, as where memory is short."""
        arguments = [json.dumps(dataclasses.asdict(setting)), str(seconds or self._seconds)]
        command = [sys.executable, __file__, "--child", *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, env=self._environment)
        if ended.returncode:
            errors = [line for line in ended.stderr.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
            raise RuntimeError((errors or [f"{setting} ended with code {ended.returncode}"])[-1])
        return json.loads(ended.stdout.splitlines()[-1])


def fastest(run: Runner, settings: Iterable[Setting]) -> Setting:
    """The setting with most images per second; the only one is not tried."""
    settings = list(dict.fromkeys(settings))
    rates = {}
    for setting in settings if len(settings) > 1 else []:
        what = f"  {setting.name}, {setting.option}, batch {setting.batch}"
        try:
            rates[setting] = run(setting, seconds=2.0)["rate"]
            print(f"{what:64} {rates[setting]:10,.2f} images/s", flush=True)
        except RuntimeError as error:
            print(f"{what:64} fails: {str(error)[:100]}", flush=True)
    return max(rates, key=lambda setting: rates[setting]) if rates else settings[0]


def best_setting(run: Runner, first: Setting, options: Sequence[str], batches: Sequence[int]) -> Setting:
    """The best option at the middle batch size, then the best batch size with it."""
    middle = sorted(batches)[len(batches) // 2]
    best = fastest(run, [dataclasses.replace(first, batch=middle, option=option) for option in options])
    return fastest(run, [dataclasses.replace(best, batch=batch) for batch in sorted(batches)])


def show(what: str, values: Sequence[float], unit: str) -> None:
    """Prints a row: median, range and unit."""
    median, low, high = (f"{value:,.2f}" for value in (statistics.median(values), min(values), max(values)))
    print(f"{what:64} {median:>10} ({low} to {high}) {unit}".rstrip(), flush=True)


def report(settings: Sequence[Setting], results: Mapping[Setting, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Prints the rows, and returns them for the file. The first setting is what the others are compared with."""
    peak = max(result["peak"] for turns in results.values() for result in turns if "peak" in result)
    about = {key: value for setting in settings for key, value in results[setting][0].items()}
    same = {(result["parameters"], result["platform"]) for turns in results.values() for result in turns}
    if len(same) != 1:
        raise RuntimeError(f"the sides do not train one model on one device: {sorted(same)}")
    versions = ", ".join(f"{name} {about[name]}" for name in ("jax", "torch", "open_clip_torch"))
    about["environment"] = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    print(f"{versions}, {about['threads']} threads of PyTorch; environment {about['environment']}")
    print(f"{about['device']}, peak {peak / 1e12:,.2f} TFLOP/s; {about['parameters'] / 1e6:,.1f} million parameters")
    rows, base = [], [result["rate"] for result in results[settings[0]]]
    for setting in settings:
        rates = [result["rate"] for result in results[setting]]
        flops = train_flops(MODELS[setting.model][0](), setting.batch, setting.tokens) / setting.batch  # of a pair
        ratios = [ours / theirs for ours, theirs in zip(rates, base, strict=True)]
        used = [100 * rate * flops / peak for rate in rates]
        show(f"{setting.name} ({setting.option}, batch {setting.batch})", rates, "images/s")
        show("  utilisation", used, "%")
        if setting is not settings[0]:
            show("  over open_clip", ratios, "x")
        processor = [result["processor"] for result in results[setting]]
        show("  processor time", processor, "s/image")
        rows.append(dataclasses.asdict(setting) | {"rates": rates, "ratios": ratios, "utilisation": used})
        rows[-1] |= {"processor": processor, "peak": peak} | {name: about[name] for name in ABOUT}
    return rows


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(child(Setting(**json.loads(sys.argv[2])), float(sys.argv[3]))))
        return 0
    # In a process of its own: JAX would hold the device's memory in this one.
    ask = [sys.executable, "-c", "import jax; print(jax.default_backend())"]
    backend = subprocess.run(ask, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    on_cpu = backend == "cpu"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="B/16" if on_cpu else "L/14")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32" if on_cpu else "bfloat16")
    parser.add_argument("--batch", type=int, nargs="+", default=[16] if on_cpu else [64, 128, 256, 512, 1024])
    parser.add_argument("--ours", nargs="+", metavar="REMAT/ATTENTION", default=["none/auto"] if on_cpu else OURS)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0 if on_cpu else 5.0, help="of each side in a turn")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args()
    processor = platform.processor() or platform.machine()
    print(f"{processor}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    print(f"{options.model}, {options.dtype} on {backend}, medians of {options.turns} turns", flush=True)
    rows = (
        ("open_clip", CONTEXT, PEER[options.dtype]),
        ("ours", CONTEXT, options.ours),
        ("ours", BUCKET, options.ours),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Runner(Path(folder), options.seconds)
        settings = [
            best_setting(run, Setting(side, options.model, options.dtype, 0, tokens), choices, options.batch)
            for side, tokens, choices in rows
        ]
        results: dict[Setting, list[dict[str, Any]]] = {setting: [] for setting in settings}
        for _ in range(options.turns):
            for setting in settings:
                results[setting].append(run(setting))
    figures = report(settings, results)
    print(f"load {os.getloadavg()[0]:.1f} at the end")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
