"""An evaluation that is killed loses nothing that was finished, and the same command again completes it."""

import contextlib
import signal
import subprocess
import sys

import pytest
from flax import nnx

import bioclip_jax
from bioclip_jax.cli import main
from bioclip_jax.config import CLIPConfig, Preprocessing, TextConfig, VisionConfig
from bioclip_jax.evaluation import claims
from bioclip_jax.evaluation.results import Results
from bioclip_jax.evaluation.rows import Figure
from bioclip_jax.models import clip

TINY = CLIPConfig(16, VisionConfig(32, 16, 32, 1, 2), TextConfig(width=32, layers=1, heads=2))


def test_killed_and_started_again(tmp_path, monkeypatch):
    model, data, results = tmp_path / "model", tmp_path / "data", tmp_path / "out" / "results.sqlite"
    other = tmp_path / "other"
    for seed, folder in enumerate((other, model)):
        parameters = clip.split(clip.CLIP(TINY, rngs=nnx.Rngs(seed)))[1]
        bioclip_jax.Model(TINY, Preprocessing(), parameters).save(folder, "open_clip")
    world = ["--num-images", "40", "--num-species", "20", "--image-size", "32", "--test-images-per-species", "2"]
    main(["data", "build", "synthetic", str(data), *world])
    rest = ["--root", str(data), "--results", str(results), "--resamples", "20", "--no-few-shot", "--no-baseline"]
    main(["eval", str(other), "organisms", *rest])
    with Results(results) as opened:
        (earlier,) = opened.runs().values()
    features = set((results.parent / "features").iterdir())

    arguments = ["eval", str(model), "synthetic", *rest]
    process = subprocess.Popen([sys.executable, "-m", "bioclip_jax.cli", *arguments], stdout=subprocess.DEVNULL)
    try:
        while set((results.parent / "features").iterdir()) == features:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
                pytest.fail("it was done before it had kept the features of a photo")
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL

    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.5)  # else the dead worker's claim is respected for some seconds
    main(arguments)
    with Results(results) as opened:
        first, again = opened.runs().items()
        assert first[1] == earlier
        assert again[1].benchmark == "synthetic"
        assert {figure.split for figure in opened.rows(Figure, again[0])} >= {"seen", "unseen"}
