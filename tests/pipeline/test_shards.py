import io
import math
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from bioclip_jax.errors import UsageError
from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.record import OPTIONAL_NUMBER_FIELDS
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


@pytest.mark.parametrize("size", [0, 1, 40, 120, 126, 127, 128, 300, 16_370, 16_384, 2_097_140, 2_097_152])
def test_the_bytes_are_those_of_protobuf(record, size):
    fields = dict(zip(TEXT_FIELDS, ("x" * n for n in range(115, 131)), strict=False))
    some = record(0, image=b"\xff" * size, **fields, latitude=1e300, longitude=-0.0)
    for full in (some, {"image": b"i" * size}, some | {"key": "k" * size, "caption": "\N{MULTIPLICATION SIGN}" * size}):
        example = tf_example_pb2.Example()
        feature = example.features.feature
        feature["image"].bytes_list.value.append(full["image"])
        for name in TEXT_FIELDS:
            feature[name].bytes_list.value.append(full.get(name, "").encode())
        for name in OPTIONAL_NUMBER_FIELDS:
            feature[name].float_list.value.append(full.get(name, math.nan))
        assert encode_example(full) == example.SerializeToString(deterministic=True)


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


def test_tfds_shows_what_the_recipe_says_about_the_dataset(tmp_path, record):
    path = tmp_path / shard_name("wagtails", "train", 0, 1)
    with ShardWriter(path, tmp_path / "temporary") as writer:
        writer.write(encode_example(record(0)))
        files = {"train": [writer.finish()]}
    about = About("Wagtails.", "https://example.org/wagtails", "v2 of May", "CC BY 4.0", "@misc{wagtails}")
    write_tfds_metadata(tmp_path, "wagtails", files, about)
    builder = tfds.builder_from_directory(tmp_path)
    info = builder.info
    assert info.description == "Wagtails.\n\nVersion v2 of May"
    assert (info.homepage, info.citation) == ("https://example.org/wagtails", "@misc{wagtails}")
    assert info.redistribution_info.license == "CC BY 4.0"
    write_tfds_metadata(tmp_path, "wagtails", files, About(version="2.1.0"))
    builder = tfds.builder_from_directory(tmp_path)
    assert str(builder.version) == "2.1.0"
    assert "organisms" in builder.info.description


@pytest.mark.parametrize(
    ("what", "name"), [("dataset name", "a-b"), ("dataset name", ""), ("split", "1"), ("split", "all")]
)
def test_names_that_tfds_cannot_take_are_refused(what, name):
    with pytest.raises(UsageError, match=what):
        check_name(what, name)
