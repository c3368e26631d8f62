"""Mixtures, replay and bad samples in a run, and that a run notices other data than it began with."""

import dataclasses
import io
import itertools

import numpy as np
import pytest
from rich.console import Console

from bioclip_jax.config import (
    CLIPConfig,
    DataConfig,
    DatasetConfig,
    OptimizerConfig,
    TextConfig,
    TrainConfig,
    VisionConfig,
)
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.parallel.mesh import make_mesh
from bioclip_jax.pipeline.build import build
from bioclip_jax.recipes import load_recipe
from bioclip_jax.training.checkpointing import finished_steps
from bioclip_jax.training.data import open_streams, zipped
from bioclip_jax.training.feed import DeviceFeed
from bioclip_jax.training.metrics import TIMINGS, read_metrics
from bioclip_jax.training.run import train

RECIPE = '''
"""Squares of one colour with a caption; every third one is damaged if asked for."""
import numpy as np
from bioclip_jax.pipeline.record import BadRecord


class Squares:
    def __init__(self, count, damaged):
        self.count, self.damaged = count, damaged

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if self.damaged and index % 3 == 0:
            raise BadRecord(f"square {index}", "it is round")
        image = np.full((32, 32, 3), 7 * index % 256, np.uint8)
        return {"key": str(index), "image": image, "caption": f"square {index}"}


def source(*, count: int = 12, damaged: bool = False):
    return {"train": Squares(count, damaged)}
'''


@pytest.fixture
def config(tmp_path):
    """A tiny run on drawn organisms, with replay of squares."""
    (tmp_path / "squares.py").write_text(RECIPE)
    return TrainConfig(
        model=CLIPConfig(
            16, VisionConfig(32, 16, 32, 1, 2), TextConfig(width=32, layers=1, heads=2), replay_projector=True
        ),
        data=DataConfig(dataset="synthetic", arguments={"num_images": 200, "num_species": 20, "image_size": 32}),
        replay=DataConfig(dataset=str(tmp_path / "squares.py"), text_types=("caption",)),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
        global_batch_size=16,
        replay_batch_size=4,
        total_steps=4,
        dtype="float32",
        log_every=1,
    )


def figures(work_dir):
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in read_metrics(work_dir)]


def said(config, work_dir):
    console = Console(file=io.StringIO(), width=300)
    train(config, work_dir, console)
    return console.file.getvalue()


def test_replay_has_a_loss_of_its_own(config, tmp_path):
    said(config, tmp_path / "run")
    rows = figures(tmp_path / "run")
    assert all(np.isclose(row["loss"], row["bio_loss"] + row["replay_loss"], rtol=1e-6) for row in rows)
    assert {row["replaced_samples"] for row in rows} == {0}


def test_replay_runs_through_its_own_records_and_never_restarts_because_the_other_stream_does(config):
    streams = open_streams(dataclasses.replace(config, data=DataConfig("synthetic", SMALL)), make_mesh())
    shades = [batch["replay"].image[:, 0, 0, 0].tolist() for batch in zipped(streams, 0, 6)]
    epochs = [sorted(itertools.chain(*shades[start : start + 3])) for start in (0, 3)]
    assert epochs[0] == epochs[1] == sorted(7 * index % 256 for index in range(12))
    assert shades[:3] != shades[3:]  # meanwhile the 20 organisms began anew nearly five times


SMALL = {"num_images": 20, "num_species": 20, "image_size": 32}


def test_mixed_datasets_come_by_their_weights(config, tmp_path):
    squares = DatasetConfig(str(tmp_path / "squares.py"), {"count": 500}, weight=3.0)
    data = dataclasses.replace(config.data, mixed_with=(squares,), text_types=("sci",))
    streams = open_streams(dataclasses.replace(config, data=data), make_mesh())
    images = np.concatenate([batch["bio"].image for batch in zipped(streams, 0, 4)])
    assert sum((image == image[0, 0]).all() for image in images) == 48


@pytest.mark.slow
def test_bad_samples_are_counted_named_and_past_the_limit_the_run_stops(config, tmp_path):
    replay = dataclasses.replace(config.replay, arguments={"damaged": True, "count": 60})
    run = dataclasses.replace(config, replay=replay)
    shown = said(run, tmp_path / "a")
    counts = [row["replaced_samples"] for row in figures(tmp_path / "a")]
    assert sum(counts) > 1
    assert "it is round; first 'square " in shown
    strict = dataclasses.replace(run, total_steps=40, replay=dataclasses.replace(replay, max_bad_share=0.01))
    with pytest.raises(UserError, match=r"samples could not be used \(\d+ it is round.*more than max_bad_share 0.01"):
        said(strict, tmp_path / "b")
    done = len(figures(tmp_path / "b"))
    assert finished_steps(tmp_path / "b") == [done]
    assert 0 < done < 40


@pytest.mark.slow
@pytest.mark.full
def test_a_run_does_not_continue_on_data_that_were_built_anew(config, tmp_path):
    def built(images):
        source = load_recipe("data", "synthetic").source(num_images=images, num_species=20, image_size=32)
        build({"train": source["train"]}, tmp_path / "data", name="synthetic", overwrite=True)

    built(40)
    changes = {"data": DataConfig(str(tmp_path / "data")), "replay": DataConfig(dataset=""), "replay_batch_size": 0}
    run = dataclasses.replace(config, **changes, total_steps=2)
    said(run, tmp_path / "run")
    assert "finished" in said(run, tmp_path / "run")
    built(50)
    with pytest.raises(UserError, match=r"began with other data .*'synthetic' was built anew"):
        said(run, tmp_path / "run")


def test_feed_is_ahead_of_the_step_and_ends_with_what_the_loaders_raise(config):
    streams = open_streams(config, make_mesh())
    feed = DeviceFeed(zipped(streams, 0, 2), config_sharding())
    shapes = [{name: stream["image"].shape for name, stream in placed.streams.items()} for placed in feed]
    assert shapes == [{"bio": (16, 32, 32, 3), "replay": (4, 32, 32, 3)}] * 2
    feed.close()

    def failing():
        yield next(zipped(streams, 0, 1))
        raise UserError("shard 7 is gone")

    feed = DeviceFeed(failing(), config_sharding())
    next(feed)
    for _ in range(2):
        with pytest.raises(UserError, match="shard 7 is gone"):
            next(feed)
    feed.close()


def config_sharding():
    from bioclip_jax.parallel.sharding import batch_sharding

    return batch_sharding(make_mesh())


def test_a_feed_that_is_closed_early_ends_what_works_behind_it(config):
    ended = []

    def endless():
        try:
            for step in itertools.count():
                yield next(zipped(open_streams(config, make_mesh()), step, step + 1))
        finally:
            ended.append(True)

    feed = DeviceFeed(endless(), config_sharding())
    next(feed)
    feed.close()
    assert ended == [True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replay": DataConfig(dataset="")}, "replay_batch_size is 4, but replay.dataset is empty"),
        ({"replay_batch_size": 1}, "replay_batch_size is 1; it has to be 0 for none, or 2 or more"),
        ({"data": DataConfig(dataset="")}, "data.dataset is empty"),
    ],
)
def test_replay_that_cannot_be_is_refused(config, changes, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(config, **changes)


def test_replay_that_does_not_divide_over_the_devices_is_refused(config):
    with pytest.raises(UsageError, match="replay_batch_size 6 does not divide over 4 devices"):
        open_streams(dataclasses.replace(config, replay_batch_size=6), make_mesh())
