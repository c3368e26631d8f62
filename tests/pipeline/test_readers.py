import io
import json
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from rich.console import Console

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.manifest import read_manifest
from bioclip_jax.pipeline.readers import open_dataset, open_directory

pytestmark = pytest.mark.core

RECIPE = '''
class Numbers:
    """Records that are made when asked for."""
    def __init__(self, count): self.count = count
    def __len__(self): return self.count
    def __getitem__(self, index): return {"key": str(index)}

def source(*, count: int = 3):
    """Numbers.

    Args:
      count: how many.
    """
    return {"train": Numbers(count)}
'''


@pytest.fixture
def dataset(tmp_path, list_source, record):
    """A dataset directory of 30 records in several files."""
    splits = {"train": list_source([record(i) for i in range(30)])}
    build(splits, tmp_path / "set", name="wagtails", shard_bytes=8000, console=Console(file=io.StringIO()))
    return tmp_path / "set"


def test_many_threads_read_the_same_records(dataset, record):
    source = pickle.loads(pickle.dumps(open_dataset(dataset)["train"]))  # noqa: S301
    with ThreadPoolExecutor(8) as pool:
        keys = [entry["key"] for entry in pool.map(source.__getitem__, list(range(30)) * 5)]
    assert keys == [f"photo {i}" for i in range(30)] * 5
    with pytest.raises(IndexError):
        source[30]


def test_a_recipe_is_opened_with_its_arguments(tmp_path):
    (tmp_path / "numbers.py").write_text(RECIPE)
    source = open_dataset(tmp_path / "numbers.py", {"count": 5})["train"]
    assert (len(source), source[4]) == (5, {"key": "4"})


def test_wrong_names_and_arguments_are_usage_errors(tmp_path, dataset, monkeypatch):
    (tmp_path / "numbers.py").write_text(RECIPE)
    (tmp_path / "wrong.py").write_text("def source(): return [1]")
    monkeypatch.chdir(tmp_path)
    for name, arguments, message in [
        ("numbers.py", {"size": 3}, "takes count"),
        ("photo_table", {}, "takes table, images"),
        ("wrong.py", {}, "must return a dict"),
        ("nowhere", {}, "built-in recipes: .*photo_table"),
        ("./nowhere", {}, "no such directory"),
        (str(dataset), {"count": 3}, "takes no arguments"),
        (str(tmp_path), {}, "not a dataset directory"),
    ]:
        with pytest.raises(UsageError, match=message):
            open_dataset(name, arguments)
    assert len(open_dataset("set")["train"]) == 30


def test_a_damaged_dataset_is_one_line_that_names_the_file(dataset):
    shard = min(dataset.glob("*.array_record-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=rf"{shard.name} has \d+ bytes, the manifest says"):
        open_dataset(dataset)
    shard.write_bytes(whole.replace(b"Motacilla", b"Motacillo"))  # the right size, the wrong content
    with pytest.raises(UserError, match=shard.name):
        open_dataset(dataset)["train"][0]
    shard.unlink()
    with pytest.raises(UserError, match=f"{shard.name}: No such file"):
        open_directory(dataset)


def test_a_damaged_manifest_is_one_line(dataset):
    path = dataset / "manifest.json"
    good = json.loads(path.read_text())
    bad = {
        "is damaged": path.read_text()[:100],
        "is damaged .*KeyError": json.dumps({k: v for k, v in good.items() if k != "splits"}),
        "is damaged .*TypeError": "[]",
        "format version 99": json.dumps(good | {"version": 99}),
        "was changed after": json.dumps(good | {"name": "other"}),
        "outside the dataset": json.dumps(good).replace("wagtails-train", "../wagtails-train"),
    }
    for message, text in bad.items():
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_manifest(dataset)
