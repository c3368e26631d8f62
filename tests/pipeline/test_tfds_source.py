import json
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.proto import tf_example_pb2

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.shards import ShardWriter, encode_example, write_tfds_metadata
from bioclip_jax.pipeline.tfds_source import find_dataset, open_tfds
from bioclip_jax.recipes import load_recipe

pytestmark = pytest.mark.core

F = tfds.features
LABELLED = {"image": F.Image(shape=(None, None, 3)), "label": F.ClassLabel(names=["001.Abies_alba", "Pica_pica"])}
UNUSUAL = {
    "photo": F.Image(),
    "mask": F.Image(shape=(None, None, 1)),
    "species": F.ClassLabel(names=["alba", "nigra"]),
    "taxon": {"genus": F.Text(), "rank": F.Text()},
    "id": F.Text(),
    "lat": F.Scalar(np.float32),
    "weight": F.Tensor(shape=(), dtype=np.int64),
    "boxes": F.Sequence({"box": F.BBoxFeature()}),
}


def example(values):
    """A `tf.train.Example` by the names that TFDS stores features under."""
    message = tf_example_pb2.Example()
    for name, value in values.items():
        feature = message.features.feature[name]
        if isinstance(value, bytes | str):
            feature.bytes_list.value.append(value if isinstance(value, bytes) else value.encode())
        elif isinstance(value, float):
            feature.float_list.value.append(value)
        else:
            feature.int64_list.value.append(value)
    return message.SerializeToString()


def write(directory, features, splits, supervised=None, suffix="array_record"):
    """Writes a dataset as TFDS lays it out: split -> a list of examples for each file."""
    directory.mkdir(parents=True)
    name = "my_set"
    template = tfds.core.ShardedFileTemplate(data_dir=directory, dataset_name=name, filetype_suffix=suffix)
    infos = []
    for split, shards in splits.items():
        for index, examples in enumerate(shards):
            path = directory / f"{name}-{split}.{suffix}-{index:05d}-of-{len(shards):05d}"
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for values in examples:
                writer.write(example(values))
            writer.close()
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(examples) for examples in shards],
                num_bytes=1,
                filename_template=template.replace(split=split),
            )
        )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=F.FeaturesDict(features),
        split_infos=infos,
        check_data=False,
        supervised_keys=supervised,
    )
    return directory


@pytest.fixture
def labelled(tmp_path, photo):
    """The data_dir of a dataset `my_set` with two classes, and an example without a label."""
    examples = [{"image": photo(n), "label": (0, 1, -1)[n % 3]} for n in range(5)]
    splits = {"train": [examples[:2], [], examples[2:]], "test": [examples[:1]]}
    write(tmp_path / "my_set" / "1.0.0", LABELLED, splits, ("image", "label"))
    return tmp_path


def test_the_classes_of_a_label_become_names_and_images_keep_their_bytes(labelled, photo):
    splits = load_recipe("data", "tfds").source(name="my_set", data_dir=labelled)
    assert {split: len(source) for split, source in splits.items()} == {"train": 5, "test": 1}
    record = splits["train"][0]
    assert record["image"] == photo(0)
    assert record["key"] == "my_set-train.array_record-00000-of-00003__0"
    assert (record["scientific_name"], record["genus"], record["species"]) == ("Abies alba", "Abies", "alba")
    assert (record["source"], record["common_name"]) == ("my_set", "")
    assert splits["train"][3]["key"] == "my_set-train.array_record-00002-of-00003__1"
    with pytest.raises(BadRecord, match="no name at any rank"):
        splits["train"][2]
    with pytest.raises(IndexError):
        splits["train"][5]
    assert pickle.loads(pickle.dumps(splits["test"]))[0]["image"] == photo(0)  # noqa: S301
    assert "tensorflow" not in sys.modules


def test_a_label_can_be_a_common_name(labelled):
    record = open_tfds("my_set", labelled, label_names="common_name")["train"][1]
    assert (record["common_name"], record["scientific_name"], record["genus"]) == ("Pica pica", "", "")


def test_a_dataset_built_here_is_read_as_it_is(tmp_path, record):
    path = tmp_path / "birds" / "wagtails-train.array_record-00000-of-00001"
    path.parent.mkdir()
    with ShardWriter(path, tmp_path / "temporary") as writer:
        for index in range(4):
            writer.write(encode_example(record(index, caption="seen", latitude=12.5)))
        write_tfds_metadata(path.parent, "wagtails", {"train": [writer.finish()]})
    source = open_tfds(str(path.parent))["train"]
    found = source[3]
    assert {name: found[name] for name in record(3)} == record(3)
    assert (found["caption"], found["latitude"]) == ("seen", 12.5)


def test_unusual_features_are_recognised_or_named(tmp_path, photo):
    values = {"photo": photo(1), "mask": photo(2), "species": 1, "taxon/genus": "Pinus", "taxon/rank": "x", "id": "7"}
    more = {"lat": -12.5, "weight": 40}
    directory = str(write(tmp_path / "set", UNUSUAL, {"train": [[values | more]]}))
    with pytest.raises(UsageError, match=r"2 features are images; name one with --columns filepath=FEATURE; .*mask"):
        open_tfds(directory)
    columns = {"filepath": "photo", "genus": "taxon/genus", "key": "id"}
    record = open_tfds(directory, columns=columns, attributes=["weight", "taxon/rank"])["train"][0]
    assert (record["key"], record["image"]) == ("7", photo(1))
    assert (record["genus"], record["species"], record["scientific_name"]) == ("Pinus", "nigra", "Pinus nigra")
    assert record["latitude"] == -12.5
    assert json.loads(record["attributes"]) == {"weight": "40", "taxon/rank": "x"}
    for wrong, message in (
        ({"filepath": "species"}, "'species' is no image"),
        ({"filepath": "photo", "genus": "no"}, "genus=no: no such column"),
        ({"filepath": "photo", "nothing": "id"}, "nothing=id: no such field"),
        ({"filepath": "photo", "species": ""}, "no column holds a taxon"),
    ):
        with pytest.raises(UsageError, match=message):
            open_tfds(directory, columns=wrong)
    with pytest.raises(UsageError, match="--attributes boxes: no such feature"):
        open_tfds(directory, columns=columns, attributes=["boxes"])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"label": F.ClassLabel(names=["a"])}, "0 features are images"),
        ({"image": F.Image()}, "no column holds a taxon"),
        ({"image": F.Image(), "label": F.ClassLabel(num_classes=3)}, "no column holds a taxon"),
        ({"image": F.Image(shape=(None, None, 1), dtype=np.uint16), "genus": F.Text()}, "holds uint16 values"),
    ],
)
def test_a_dataset_without_photos_or_names_is_refused(tmp_path, features, message):
    directory = write(tmp_path / "set", features, {"train": [[{}]]})
    with pytest.raises(UsageError, match=message):
        open_tfds(str(directory))


def test_an_example_without_its_image_is_a_bad_record(tmp_path):
    splits = {"train": [[{"label": 0}, {"label": 0, "image": b""}]]}
    source = open_tfds(str(write(tmp_path / "set", LABELLED, splits)))["train"]
    for index in range(2):
        with pytest.raises(BadRecord, match="image is empty"):
            source[index]


def test_the_newest_version_and_the_named_configuration_are_found(tmp_path):
    for folder in ("a/9.0.0", "a/10.0.0", "b/small/1.0.0", "b/large/1.0.0", "a/incomplete"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "features.json").touch()
    assert find_dataset("a", tmp_path) == tmp_path / "a/10.0.0"
    assert find_dataset("a:9.0.0", tmp_path) == tmp_path / "a/9.0.0"
    assert find_dataset("b/small", tmp_path) == tmp_path / "b/small/1.0.0"
    assert find_dataset(str(tmp_path / "b/large/1.0.0")) == tmp_path / "b/large/1.0.0"
    with pytest.raises(UsageError, match="has configurations: large, small; write b/CONFIG"):
        find_dataset("b", tmp_path)
    with pytest.raises(UsageError, match=r"no version of it.*tfds build c --file_format=array_record"):
        find_dataset("c", tmp_path)
    with pytest.raises(UsageError, match=r"a:1\.0\.0 is not prepared in .*\(there is a/\d+\.0\.0, a/\d+\.0\.0\)"):
        find_dataset("a:1.0.0", tmp_path)
    for name in ("../a", "huggingface:x", str(tmp_path / "a"), ""):
        with pytest.raises(UsageError, match="neither the directory of a prepared dataset"):
            find_dataset(name, tmp_path)


def test_tfrecord_files_are_refused_with_the_command_that_converts_them(tmp_path, photo):
    splits = {"train": [[{"image": photo(), "label": 0}]]}
    directory = write(tmp_path / "set", LABELLED, splits, suffix="tfrecord")
    with pytest.raises(UserError, match=r"stored as tfrecord.*tfds convert_format .*--out_file_format=array_record"):
        open_tfds(str(directory))


def test_a_damaged_or_strange_dataset_is_refused_in_one_line(labelled):
    directory = labelled / "my_set" / "1.0.0"
    shard = directory / "my_set-train.array_record-00002-of-00003"
    whole = shard.read_bytes()
    shard.write_bytes(bytes(len(whole)))
    with pytest.raises(UserError, match=rf"{shard.name} cannot be read \(.*prepare it again"):
        open_tfds("my_set", labelled)["train"][4]
    shard.unlink()
    with pytest.raises(UserError, match=f"lacks {shard.name}"):
        open_tfds("my_set", labelled)
    shard.write_bytes(whole)
    info = directory / "dataset_info.json"
    content = info.read_text()
    info.write_text(content.replace("{DATASET}-{SPLIT}", "../../{DATASET}-{SPLIT}"))
    with pytest.raises(UserError, match="names a file outside itself"):
        open_tfds("my_set", labelled)
    info.write_text(content[:-20])
    with pytest.raises(UserError, match=r"cannot be opened \(.*prepare it again") as caught:
        open_tfds("my_set", labelled)
    assert "\n" not in str(caught.value)
    features = directory / "features.json"
    features.write_text(features.read_text().replace("tensorflow_datasets.core.features.image_feature", "antigravity"))
    with pytest.raises(UserError, match=r"features of class antigravity\.Image are not read"):
        open_tfds("my_set", labelled)
    assert "antigravity" not in sys.modules
    features.write_text("{")
    with pytest.raises(UserError, match=r"features\.json cannot be read"):
        open_tfds("my_set", labelled)
