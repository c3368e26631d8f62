import dataclasses
import io

import pytest
from rich.console import Console

from bioclip_jax.errors import UserError
from bioclip_jax.pipeline import verify as checks
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.manifest import read_manifest, write_manifest
from bioclip_jax.pipeline.shards import ShardWriter, encode_example
from bioclip_jax.pipeline.verify import verify

pytestmark = pytest.mark.core

QUIET = Console(file=io.StringIO())


@pytest.fixture
def dataset(tmp_path, list_source, record):
    """A sound dataset of two splits."""
    splits = {
        "train": list_source([record(i, source_id=f"o{i}") for i in range(12)]),
        "test": list_source([record(i, source_id=f"o{i}") for i in range(12, 16)]),
    }
    build(splits, tmp_path / "set", name="wagtails", shard_bytes=8000, console=QUIET)
    return tmp_path / "set"


@pytest.fixture
def unchecked(dataset):
    """Replaces a split's first file by one with the given records, past all that a build looks at."""

    def write(split, records):
        manifest = read_manifest(dataset)
        name = manifest.splits[split][0].name
        with ShardWriter(dataset / name, dataset / "temporary") as writer:
            for entry in records:
                writer.write(encode_example(entry))
            file = writer.finish()
        splits = dict(manifest.splits) | {split: (file, *manifest.splits[split][1:])}
        write_manifest(dataset, dataclasses.replace(manifest, splits=splits))

    return write


def broken(directory):
    report = verify(directory, threads=2, console=QUIET)
    assert report.exit_code == (not report.ok)
    return {check.name: check.broken for check in report.checks if check.broken}


def test_a_sound_dataset_keeps_every_promise(dataset):
    report = verify(dataset, console=QUIET)
    assert report.ok
    assert {check.name: check.looked_at for check in report.checks}[checks.IMAGES] == 16


def test_the_same_observation_in_two_splits_is_found(dataset, unchecked, record):
    unchecked("test", [record(20, source_id="o3"), record(21, source_id="o99"), record(22), record(23)])
    assert broken(dataset) == {checks.GROUPS: 1}


def test_the_same_picture_in_two_splits_is_found(dataset, unchecked, record):
    unchecked("test", [record(20, image=record(3)["image"]), record(21, image=record(21)["image"])])
    assert broken(dataset) == {checks.PICTURES: 1}


def test_a_repeated_key_is_found_and_named(dataset, unchecked, record):
    unchecked("test", [record(20), record(20), record(3, image=record(30)["image"])])
    report = verify(dataset, console=QUIET)
    keys = next(check for check in report.checks if check.name == checks.KEYS)
    # The same key within a split, and one of the other split's.
    assert keys.broken == 2
    assert "test photo 20 = test photo 20" in keys.examples


def test_images_and_records_that_slipped_through_are_found(dataset, unchecked, record):
    unchecked("test", [record(20, image=b"no image"), record(21, key=""), record(22)])
    assert broken(dataset) == {checks.IMAGES: 1, checks.SCHEMA: 1}


def test_damaged_missing_and_cut_files_are_found(dataset):
    first, second, *_, last = sorted(dataset.glob("*.array_record-*"))
    first.write_bytes(first.read_bytes().replace(b"Motacilla", b"Motacillo"))
    second.write_bytes(second.read_bytes()[:1000])
    last.unlink()
    found = broken(dataset)
    assert found[checks.FILES] == 3
    assert found[checks.READABLE] > 3


def test_what_is_odd_about_the_taxonomy_is_a_warning_with_examples(dataset, unchecked, record):
    odd = [record(20, kingdom="Metazoa"), record(23, kingdom="Metazoa"), record(22, species="Motacilla nigra")]
    unchecked("test", [*odd, record(21, scientific_name="Motacilla cinerea")])
    report = verify(dataset, console=QUIET)
    assert report.ok
    warnings = {check.name: check for check in report.checks if check.warning}
    synonym = warnings[f"{checks.TAXONOMY}: kingdom synonym"]
    assert (synonym.looked_at, synonym.broken) == (6, 1)
    assert synonym.examples == ["kingdom 'Metazoa' -> 'Animalia' (2 records)"]
    assert warnings[f"{checks.TAXONOMY}: binomial in species"].broken == 1
    assert warnings[f"{checks.TAXONOMY}: epithet disagrees with scientific name"].broken == 1


def test_a_sound_taxonomy_is_said_to_be_so(dataset):
    (warning,) = (check for check in verify(dataset, console=QUIET).checks if check.warning)
    assert (warning.name, warning.looked_at, warning.broken) == (checks.TAXONOMY, 3, 0)


def test_the_table_is_readable_even_where_names_look_like_markup(dataset, unchecked, record):
    unchecked("test", [record(20, key="[bold]odd[/]", image=b"no image")])
    console = Console(file=io.StringIO(), width=140)
    console.print(verify(dataset, console=QUIET).table())
    text = console.file.getvalue()
    assert "train 12, test 1" in text
    assert "[bold]odd[/]: not an image" in text


def test_a_directory_without_a_manifest_is_an_error(dataset):
    (dataset / "manifest.json").unlink()
    with pytest.raises(UserError, match="not a dataset directory"):
        verify(dataset, console=QUIET)
