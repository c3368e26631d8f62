import io
import math
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.shards import (
    TEXT_FIELDS,
    ShardWriter,
    check_name,
    decode_example,
    encode_example,
    shard_name,
    write_tfds_metadata,
)

pytestmark = pytest.mark.core


def test_every_field_comes_back_whatever_the_alphabet(record):
    text = dict.fromkeys(TEXT_FIELDS, "Öðruvísi 小鸟 🐦 × ذئب")
    full = record(0, **text, latitude=-12.5, longitude=179.0)
    assert decode_example(encode_example(full)) == full


def test_absent_fields_come_back_empty_and_unknown_ones_are_left_out(record):
    back = decode_example(encode_example(record(0, invented="x")))
    assert back["order"] == back["caption"] == back["attributes"] == ""
    assert math.isnan(back["latitude"])
    assert "invented" not in back


def test_the_same_record_gives_the_same_bytes(record):
    backwards = dict(reversed(record(3).items()))
    assert encode_example(record(3)) == encode_example(backwards)


def test_a_shard_has_its_name_only_when_it_is_complete(tmp_path, record):
    path, temporary = tmp_path / "shard", tmp_path / "temporary"
    with ShardWriter(path, temporary) as writer:
        writer.write(encode_example(record(0)))
        assert not path.exists()
        file = writer.finish()
    assert (file.name, file.records, file.bytes) == ("shard", 1, path.stat().st_size)
    assert not temporary.exists()


def test_a_shard_that_is_given_up_leaves_nothing(tmp_path, record):
    writer = ShardWriter(tmp_path / "shard", tmp_path / "temporary")
    writer.write(encode_example(record(0)))
    assert (tmp_path / "temporary").exists()
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert list(tmp_path.iterdir()) == []


def test_tfds_opens_the_directory_without_tensorflow_and_decodes_the_images(tmp_path, record):
    splits = {}
    for split, spans in {"train": [range(2), range(0), range(2, 5)], "test_unseen": [range(5, 6)]}.items():
        splits[split] = []
        for index, span in enumerate(spans):
            path = tmp_path / shard_name("wagtails", split, index, len(spans))
            with ShardWriter(path, tmp_path / "temporary") as writer:
                for place in span:
                    writer.write(encode_example(record(place)))
                splits[split].append(writer.finish())
    write_tfds_metadata(tmp_path, "wagtails", splits)

    train = tfds.builder_from_directory(tmp_path).as_data_source(split="train")

    assert [entry["key"].decode() for entry in train] == [f"photo {index}" for index in range(5)]
    assert train[4]["class"] == b"Aves"
    expected = np.asarray(Image.open(io.BytesIO(record(4)["image"])), np.int16)
    assert np.abs(train[4]["image"] - expected).max() <= 4  # another JPEG decoder
    assert len(tfds.builder_from_directory(tmp_path).as_data_source(split="test_unseen")) == 1
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize(
    ("what", "name"), [("dataset name", "a-b"), ("dataset name", ""), ("split", "1"), ("split", "all")]
)
def test_names_that_tfds_cannot_take_are_refused(what, name):
    with pytest.raises(UsageError, match=what):
        check_name(what, name)
