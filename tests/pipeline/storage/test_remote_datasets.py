"""A dataset directory in object storage is read as a local one is."""

import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.file_cache import FileCache, files_folder
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.text.taxonomy import RANKS


class Numbered:
    """Records of pixels whose key is their number."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        import numpy as np

        return {"key": str(index), "image": np.full((8, 8, 3), index, np.uint8), **dict.fromkeys(RANKS, "Aves")}


@pytest.fixture
def dataset(tmp_path, object_store):
    """A dataset of two files, here and at bucket/set."""
    build({"train": Numbered(30)}, tmp_path / "set", name="set", shard_bytes=4000)
    for path in (tmp_path / "set").iterdir():
        object_store.put(f"bucket/set/{path.name}", path.read_bytes())
    return tmp_path / "set"


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_records_are_those_of_the_local_dataset_and_each_file_is_fetched_once(scheme, dataset, object_store, tmp_path):
    cache = FileCache(tmp_path / "cache")
    remote = open_dataset(f"{scheme}://bucket/set", cache=cache)["train"]
    local = open_dataset(dataset)["train"]
    assert len(local) == 30
    assert [repr(remote[i]) for i in range(30)] == [repr(local[i]) for i in range(30)]
    files = sorted(path.name for path in dataset.glob("*.array_record-*"))
    assert len(files) > 1
    assert {object_store.count("read", f"bucket/set/{name}") for name in files} == {1}


def test_only_the_file_of_a_record_is_fetched(dataset, object_store, tmp_path):
    open_dataset("s3://bucket/set", cache=FileCache(tmp_path / "cache"))["train"][0]
    assert sum(object_store.count("read", f"bucket/set/{path.name}") for path in dataset.glob("*.array_record-*")) == 1


def test_what_is_missing_is_named(dataset, object_store):
    name = next(path.name for path in dataset.glob("*.array_record-00001-*"))
    whole = object_store.objects.pop(f"bucket/set/{name}")
    with pytest.raises(UserError, match=f"dataset gs://bucket/set: {name}: no such object"):
        open_dataset("gs://bucket/set")
    object_store.put(f"bucket/set/{name}", whole[:-1])
    with pytest.raises(UserError, match=f"{name} has {len(whole) - 1} bytes, the manifest says {len(whole)}"):
        open_dataset("gs://bucket/set")
    with pytest.raises(UsageError, match="gs://bucket/nothing is not a dataset directory"):
        open_dataset("gs://bucket/nothing")


def test_a_small_default_cache_leaves_the_indexes_of_tars_alone(dataset, object_store, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    index = tmp_path / "user" / "bioclip_jax" / "indexes" / "s3" / "a.tar.index"
    index.parent.mkdir(parents=True)
    index.write_bytes(bytes(1000))
    source = open_dataset("s3://bucket/set", cache=FileCache(files_folder(), limit_bytes=1, keep=1))["train"]
    assert [source[i]["key"] for i in range(30)] == [str(i) for i in range(30)]
    assert index.read_bytes() == bytes(1000)
