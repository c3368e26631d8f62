"""The reference's own way from tars to batches, as BioCLIP 2's trainer sets it up; needs the `peers` extra.

    python tests/benchmarks/loader_reference.py [--workers W] [--batch B] [--batches N] TAR...

Shards drawn with replacement, samples shuffled, photos decoded by Pillow, OpenCLIP's training transform (random resized
crop by torchvision, tensor, normalised), all five captions tokenised, batched in PyTorch's worker processes. Of the
trainer's numbers one is another: 1,000 samples lie in the shuffle buffer instead of 5,000, which takes as long a sample
and is full before the clock starts. The last line is images per second as JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import webdataset

TEXTS = ("sci", "com", "taxon", "sci_com", "taxon_com")
SHUFFLED = 1000


def import_open_clip() -> ModuleType:
    """The stock package; also beside a CPU build of PyTorch, for which torchvision's compiled operators do not load."""
    folder = Path(importlib.util.find_spec("torchvision").submodule_search_locations[0])
    try:
        for extension in folder.glob("_C*.so"):
            torch.ops.load_library(extension)
    except OSError:
        # They are not used here, but torchvision describes two of them when it is imported.
        import_open_clip.declarations = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            import_open_clip.declarations.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
    import open_clip

    return open_clip


def reference_loader(tars: list[str], batch: int, workers: int) -> webdataset.WebLoader:
    """An endless loader of (float32 [batch, 3, 224, 224], five times int64 [batch, 77])."""
    open_clip = import_open_clip()
    transform = open_clip.image_transform(
        224, is_train=True, mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD
    )
    tokenizer = open_clip.SimpleTokenizer()

    def tokenized(text: str) -> torch.Tensor:
        return tokenizer(text)[0]

    def complete(sample: dict) -> bool:
        return any("txt" in key for key in sample) and any(key in sample for key in ("png", "jpg", "jpeg", "webp"))

    pipeline = webdataset.DataPipeline(
        webdataset.ResampledShards(tars),
        webdataset.tarfile_to_samples(handler=webdataset.warn_and_continue),
        webdataset.shuffle(bufsize=SHUFFLED, initial=SHUFFLED),
        webdataset.select(complete),
        webdataset.decode("pilrgb", handler=webdataset.warn_and_continue),
        webdataset.rename(image="jpg;png;jpeg;webp", **{text: f"{text}.txt" for text in TEXTS}),
        webdataset.map_dict(image=transform, **dict.fromkeys(TEXTS, tokenized)),
        webdataset.to_tuple("image", *TEXTS),
        webdataset.batched(batch, partial=False),
    )
    return webdataset.WebLoader(pipeline, batch_size=None, shuffle=False, num_workers=workers)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=6, help="that are timed, after one of each worker")
    parser.add_argument("tars", nargs="+")
    options = parser.parse_args()
    batches = iter(reference_loader(options.tars, options.batch, options.workers))
    for _ in range(options.workers):  # they come together, and so do the last ones: whole turns are timed
        images, *texts = next(batches)
    assert images.shape == (options.batch, 3, 224, 224)
    assert [tuple(text.shape) for text in texts] == [(options.batch, 77)] * 5
    start = time.perf_counter()
    for _ in range(options.batches):
        next(batches)
    rate = options.batches * options.batch / (time.perf_counter() - start)
    print(json.dumps({"rate": rate, "torch": torch.__version__, "webdataset": webdataset.__version__}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
