"""The data recipes of published datasets, on small files in the layout of those who publish them."""

import ast
import csv
import io
import tarfile
import uuid
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.images import decode
from bioclip_jax.pipeline.about import About
from bioclip_jax.pipeline.readers import check_splits
from bioclip_jax.recipes import builtin_recipes, load_recipe, recipe_arguments
from bioclip_jax.text.captions import ALL_TEXT_TYPES, caption
from bioclip_jax.text.taxonomy import RANKS, Taxon

pytestmark = pytest.mark.core

PUBLISHED = ("treeoflife", "treeoflife_10m", "biocap", "laion_replay")
SIX = ("jpg", "sci", "scientific_name", "taxon", "taxonTag", "taxonomic_name")
ELEVEN = ("com", "common_name", "jpg", "sci", "sci_com", "scientific_name", "taxon", "taxonTag", "taxonTag_com")
ELEVEN = (*ELEVEN, "taxon_com", "taxonomic_name")


def key_of(number):
    return str(uuid.UUID(int=number, version=4))


@pytest.fixture(scope="module")
def organisms(photos):
    """Thirty photos of the table, of as many kinds as there are: (key, taxon, JPEG of 224 x 224 pixels)."""
    with (photos / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = []
    for number, row in enumerate(rows[:: max(1, len(rows) // 30)][:30]):
        bgr = decode((photos / row["filepath"]).read_bytes())[..., ::-1]
        resized = cv2.resize(bgr, (224, 224), interpolation=cv2.INTER_CUBIC)  # as the toolbox does, whatever the shape
        found.append((key_of(number), Taxon.from_record(row), cv2.imencode(".jpg", resized)[1].tobytes()))
    return found


def write_tar(path, samples):
    """Members as webdataset's writer lays them out: sorted, with a time in fractions of a second (so PAX headers)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for key, members in samples:
            for suffix, data in sorted(members.items()):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size, info.mtime = len(data), 1700000000.25
                tar.addfile(info, io.BytesIO(data))
    return path


def members(taxon, image, names, convention, **texts):
    """The files of a sample: the photo and the texts that upstream's writer makes for the taxon."""
    found = {f"{name}.txt": caption(taxon, name, convention).encode() for name in names if name != "jpg"}
    return found | {f"{name}.txt": text.encode() for name, text in texts.items()} | {"jpg": image}


def source(recipe, **arguments):
    splits = load_recipe("data", recipe).source(**arguments)
    return check_splits(splits, recipe)


def captions(record, names=ALL_TEXT_TYPES, convention="treeoflife_200m"):
    taxon = Taxon.from_record(record)
    return {name: caption(taxon, name, convention) for name in names if name != "jpg"}


def expected(sample):
    return {suffix.removesuffix(".txt"): text.decode() for suffix, text in sample.items() if suffix != "jpg"}


def catalog(path, organisms):
    """`catalog.parquet` as it is published: the species is an epithet alone."""
    rows = [
        {"uuid": key, "source_url": f"https://example.org/{key}.jpg"}
        | {name: value or None for name, value in zip(RANKS, taxon.ranks, strict=True)}
        | {"scientific_name": taxon.scientific_name, "common": taxon.common_name or None, "data_source": "gbif"}
        | {"publisher": "p", "basis_of_record": "HUMAN_OBSERVATION", "img_type": "Citizen Science", "source_id": "1"}
        for key, taxon, _ in organisms
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("recipe", PUBLISHED)
def test_a_published_dataset_says_what_it_is_and_each_flag_is_documented(recipe):
    module = load_recipe("data", recipe)
    assert isinstance(module.about, About)
    assert all((module.about.description, module.about.homepage, module.about.license, module.about.citation))
    assert module.about.citation.count("{") == module.about.citation.count("}")
    function = next(
        node
        for node in ast.parse(open(module.__file__).read()).body  # noqa: SIM115, PTH123
        if isinstance(node, ast.FunctionDef)
    )
    documented = ast.get_docstring(function).partition("Args:")[2]
    assert all(f"\n{name}: " in documented.replace("  ", "") for name in (a.arg for a in function.args.kwonlyargs))
    assert f"bioclip-jax data build {recipe} " in module.__doc__


def test_flags_become_arguments():
    assert "tfds" in builtin_recipes("data")
    parse = recipe_arguments(load_recipe("data", "treeoflife").source, ["--tars", "a.tar", "b.tar"], "x")
    assert (parse["tars"], parse["images"]) == (("a.tar", "b.tar"), None)
    parse = recipe_arguments(load_recipe("data", "tfds").source, ["--name", "x", "--label-names", "common_name"], "x")
    assert (parse["name"], parse["label_names"]) == ("x", "common_name")


@pytest.mark.parametrize("recipe", ["treeoflife_10m", "biocap"])
def test_captions_from_tars_of_treeoflife_10m_are_upstreams_for_every_text_type(tmp_path, organisms, recipe):
    samples = []
    for number, (key, taxon, image) in enumerate(organisms):
        taxon = taxon if number % 3 else replace(taxon, common_name="", order="", scientific_name="")
        texts = {"caption": f"A photo, number {number}."} if recipe == "biocap" else {}
        samples.append((key, members(taxon, image, ELEVEN, "bioclip_10m", **texts)))
    write_tar(tmp_path / "train" / "shard-000000.tar", samples[:20])
    write_tar(tmp_path / "train" / "shard-000001.tar", samples[20:25])
    write_tar(tmp_path / "val" / "shard-000000.tar", samples[25:])
    splits = source(recipe, root=tmp_path)
    assert {split: len(records) for split, records in splits.items()} == {"train": 25, "val": 5}
    records = [splits["train"][index] for index in range(25)] + [splits["val"][index] for index in range(5)]
    for number, (record, (key, sample)) in enumerate(zip(records, samples, strict=True)):
        wanted = expected(sample)
        assert record["caption"] == wanted.pop("caption", "")
        assert (record["key"], record["image"]) == (key, organisms[number][2])
        assert captions(record, convention="bioclip_10m") == wanted
        if wanted["scientific_name"]:  # else upstream writes 'a photo of .', and the default what is known
            assert captions(record) == wanted
    assert list(source(recipe, root=tmp_path, splits=("val",))) == ["val"]
    with pytest.raises(UsageError, match="no folder 'test' of tars; it has: train, val"):
        source(recipe, root=tmp_path, splits=("test",))
    with pytest.raises(UsageError, match=r"split '\.\.' must be a letter"):
        source(recipe, root=tmp_path, splits=("..",))


def test_captions_from_tars_of_eleven_members_are_upstreams_for_every_text_type(tmp_path, organisms):
    samples = [(key, members(taxon, image, ELEVEN, "treeoflife_200m")) for key, taxon, image in organisms]
    write_tar(tmp_path / "shard-00000.tar", samples)
    records = source("treeoflife", tars=(str(tmp_path / "shard-{00000..00000}.tar"),))["train"]
    for record, (key, sample) in zip((records[i] for i in range(len(records))), samples, strict=True):
        assert record["key"] == key
        assert captions(record) == expected(sample)


def test_captions_from_tars_of_six_members_are_upstreams_and_common_names_come_from_the_catalog(tmp_path, organisms):
    samples = []
    for key, taxon, image in organisms:  # the toolbox wants a binomial
        binomial = replace(taxon, species=f"{taxon.genus} {taxon.species}" if taxon.species else "")
        samples.append((key, members(binomial, image, SIX, "tol2webdataset")))
    tar = write_tar(tmp_path / "shard-00000.tar", samples)
    records = source("treeoflife", tars=(str(tar),))["train"]
    for record, (_, sample) in zip((records[i] for i in range(len(records))), samples, strict=True):
        assert captions(record, SIX) == expected(sample)
        assert record["common_name"] == ""
    records = source("treeoflife", tars=(str(tar),), catalog=catalog(tmp_path / "catalog.parquet", organisms))["train"]
    for index, (_, taxon, _) in enumerate(organisms):
        assert captions(records[index]) == {name: caption(taxon, name) for name in ALL_TEXT_TYPES}
        assert records[index]["source"] == "gbif"


@pytest.mark.parametrize("form", ["downloader", "transferred", "files"])
def test_the_catalog_and_a_crawl_give_the_same_captions_as_the_tars(tmp_path, organisms, form):
    table = catalog(tmp_path / "catalog.parquet", organisms)
    provenance = tmp_path / "provenance.parquet"
    licences = {"uuid": [key for key, _, _ in organisms], "license_name": ["cc-by-nc-4.0"] * len(organisms)}
    pyarrow.parquet.write_table(pa.table(licences), provenance)
    images = tmp_path / "images"
    folder = images / {"downloader": "server_name=a.org/partition_id=3", "transferred": "source=gbif/server=a.org"}.get(
        form, "a/b"
    )
    folder.mkdir(parents=True)
    kept = organisms[2:]
    if form == "files":
        for key, _, image in kept:
            (folder / f"{key}.jpg").write_bytes(image)
    else:
        rows = []
        for key, _, image in kept:
            bgr = decode(image)[..., ::-1][:200]
            rows.append(
                {"uuid": key, "source_id": "1", "identifier": "https://example.org", "is_license_full": False}
                | {"original_size": [400, 448], "resized_size": [200, 224], "image": bgr.tobytes()}
            )
        name = "successes.parquet" if form == "downloader" else f"data_{uuid.UUID(int=5)}.parquet"
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / name, compression="zstd")
    records = source("treeoflife", images=images, catalog=table, provenance=provenance)["train"]
    found = [records[index] for index in range(len(records))]
    assert sorted(record["key"] for record in found) == sorted(key for key, _, _ in kept)
    by_key = {key: (taxon, image) for key, taxon, image in kept}
    for record in found:
        taxon, image = by_key[record["key"]]
        assert captions(record) == {name: caption(taxon, name) for name in ALL_TEXT_TYPES}
        assert (record["license"], record["image_type"]) == ("cc-by-nc-4.0", "Citizen Science")
        if form == "files":
            assert record["image"] == image
        else:
            np.testing.assert_array_equal(record["image"], decode(image)[:200])


def test_pairs_of_laion_have_their_text_as_caption_and_no_names(tmp_path, organisms):
    samples = [
        (f"{number:09d}", {"jpg": image, "txt": f"a caption {number}\n".encode(), "json": b'{"status": "success"}'})
        for number, (_, _, image) in enumerate(organisms)
    ]
    write_tar(tmp_path / "00000.tar", samples[:20])
    write_tar(tmp_path / "00001.tar", samples[20:])
    records = source("laion_replay", tars=str(tmp_path / "{00000..00001}.tar"))["train"]
    found = [records[index] for index in range(len(records))]
    assert [record["key"] for record in found] == [key for key, _ in samples]
    assert [record["caption"] for record in found] == [f"a caption {number}" for number in range(30)]
    assert {Taxon.from_record(record) for record in found} == {Taxon()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give --images .* or --tars"),
        ({"images": "a", "tars": ("b",)}, "give --images .* or --tars"),
        ({"images": "a"}, "--images needs --catalog"),
        ({"tars": ("b",), "provenance": "p"}, "--provenance goes with --images"),
        ({"images": "nowhere", "catalog": "c"}, "folder of images nowhere: no such directory"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message):
    with pytest.raises((UsageError, UserError), match=message):
        source("treeoflife", **arguments)
