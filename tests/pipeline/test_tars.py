import csv
import io
import itertools
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from rich.console import Console

from bioclip_jax.config import DataConfig
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.pipeline import tar_patterns
from bioclip_jax.pipeline.build import build
from bioclip_jax.pipeline.contact_sheet import contact_sheet
from bioclip_jax.pipeline.loader import make_loader
from bioclip_jax.pipeline.readers import open_dataset
from bioclip_jax.pipeline.record import BadRecord
from bioclip_jax.pipeline.tar_patterns import expand_braces, expand_tars
from bioclip_jax.pipeline.tar_texts import fields_of_texts, parse_tagged
from bioclip_jax.pipeline.tars import open_tars
from bioclip_jax.text.captions import caption
from bioclip_jax.text.taxonomy import RANKS, Taxon

pytestmark = pytest.mark.core

RAVEN = Taxon("Animalia", "Chordata", "Aves", "Passeriformes", "Corvidae", "Corvus", "corax", "Corvus corax", "Raven")
NAMES = (*RANKS, "scientific_name", "common_name")
SIX = ("jpg", "sci.txt", "scientific_name.txt", "taxon.txt", "taxonTag.txt", "taxonomic_name.txt")
ELEVEN = (*SIX, "com.txt", "common_name.txt", "sci_com.txt", "taxonTag_com.txt", "taxon_com.txt")


def members_of(key, image, taxon, suffixes=ELEVEN, **more):
    """A sample as upstream writes it: its members in the order of their names."""
    texts = {f"{suffix}.txt": text.encode() for suffix, text in more.items()}
    for suffix in suffixes:
        texts[suffix] = image if suffix == "jpg" else caption(taxon, suffix.removesuffix(".txt")).encode()
    return [(f"{key}.{suffix}", data) for suffix, data in sorted(texts.items())]


def write(path, members, file_format=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=file_format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1700000000.5 if file_format == tarfile.PAX_FORMAT else 1700000000
            tar.addfile(info, io.BytesIO(data))
    return path


def quiet():
    return Console(file=io.StringIO())


def taxon_of(record):
    return Taxon.from_record(record)


def open_quietly(tars, **options):
    return open_tars(tars, console=quiet(), **options)


@pytest.fixture
def raven(tmp_path, photo):
    """Writes a tar of one sample and opens it; returns the record."""
    number = itertools.count()

    def opened(members, **options):
        source = open_quietly(write(tmp_path / f"{next(number)}.tar", members), **options)
        assert len(source) == 1
        return source[0]

    return opened


@pytest.mark.parametrize("file_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("suffixes", [SIX, ELEVEN])
def test_treeoflife_samples_become_records(tmp_path, photo, suffixes, file_format):
    members = [entry for i in range(30) for entry in members_of(f"uuid-{i}", photo(i), RAVEN, suffixes)]
    source = open_quietly(write(tmp_path / "a.tar", members, file_format), source_name="gbif")
    assert len(source) == 30
    for index in (3, 4, 29, 0):
        record = source[index]
        assert (record["key"], record["image"], record["source"]) == (f"uuid-{index}", photo(index), "gbif")
        common = RAVEN.common_name if suffixes is ELEVEN else ""
        assert [record[name] for name in NAMES] == [*RAVEN.ranks, RAVEN.scientific_name, common]
    with pytest.raises(IndexError):
        source[30]
    with pytest.raises(IndexError):
        source[-1]


def test_captions_of_biocap_and_of_img2dataset_are_kept(raven, photo):
    record = raven(members_of("a", photo(), RAVEN, caption="A black bird\non a post.\n"))
    assert (record["caption"], record["genus"]) == ("A black bird\non a post.", "Corvus")
    laion = [("000010005.jpg", photo()), ("000010005.json", b'{"url": "http://x"}'), ("000010005.txt", b"a cat\n")]
    record = raven(laion)
    assert (record["key"], record["caption"], taxon_of(record)) == ("000010005", "a cat", Taxon())
    assert "http" not in str({name: value for name, value in record.items() if name != "image"})


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("kingdom A phylum B class C order D family E genus F species g", "A B C D E F g"),
        ("kingdom A class C species g", "A . C . . . g"),
        ("family incertae sedis genus F species g x h", ". . . . incertae_sedis F g_x_h"),
        ("kingdom Viruses genus Influenza A virus", "Viruses . . . . Influenza_A_virus ."),
        ("genus F species species", ". . . . . F species"),
        ("genus class species order", ". . . . . class order"),
        ("species g genus F", ". . . . . . g_genus_F"),
        ("unknown taxonomy", ". . . . . . ."),
        ("", ". . . . . . ."),
    ],
)
def test_each_rank_is_found_by_its_label(text, ranks):
    expected = [name.replace("_", " ").removeprefix(".") for name in ranks.split()]
    assert list(parse_tagged(text)) == expected


@pytest.mark.parametrize(
    ("texts", "taxon"),
    [
        (
            {"taxontag_com.txt": "a photo of genus Corvus species corax with common name Raven."},
            ("Corvus", "corax", "", ""),
        ),
        ({"taxontag.txt": "a photo of genus Corvus species Corvus corax."}, ("Corvus", "corax", "", "")),
        ({"taxontag.txt": "a photo of genus Corvus species sp.."}, ("Corvus", "sp.", "", "")),
        ({"sci.txt": "a photo of Corvus corax.", "com.txt": "a photo of Raven."}, ("", "", "Corvus corax", "Raven")),
        ({"taxon.txt": "a photo of A B C D E Corvus corax."}, ("Corvus", "corax", "", "")),
        ({"taxonomic_name.txt": "Animalia Corvus corax"}, ("", "", "Animalia Corvus corax", "")),
        ({"scientific_name.txt": "Corvus corax", "common_name.txt": "Corvus corax"}, ("", "", "Corvus corax", "")),
        (
            {"taxontag.txt": "genus Corvus species corax", "common_name.txt": "corvus  corax"},
            ("Corvus", "corax", "", ""),
        ),
        ({"taxonomic_name.txt": "A B C", "common_name.txt": "A B C"}, ("", "", "A B C", "")),
        ({"scientific_name.txt": "Unknown", "taxontag.txt": "a photo of unknown taxonomy."}, ("", "", "Unknown", "")),
    ],
)
def test_a_record_is_made_from_the_texts_that_are_there(texts, taxon):
    fields = fields_of_texts(texts)
    assert tuple(fields[name] for name in ("genus", "species", "scientific_name", "common_name")) == taxon


def test_samples_of_one_shape_with_other_members_are_told_apart(tmp_path, photo):
    image = photo()
    kinds = [
        members_of("a", image, RAVEN),
        [("b.jpg", image), ("b.sci.txt", b"Corvus"), ("b.zzz.txt", b"x")],
        [("c.caption.txt", b"seen"), ("c.jpg", image), ("c.sci.txt", b"Pica")],
        [("d.jpg", image), ("d.sci.txt", b"Pica"), ("d.txt", b"words")],
        [("e.jpg", image), ("e.sci.txt", b"Corvus"), ("e.sci.seg", b"x")],
        [("\N{LATIN SMALL LETTER E WITH ACUTE}.jpg", image), ("\N{LATIN SMALL LETTER E WITH ACUTE}.sci.txt", b"Pica")],
        [("f.JPG", image), ("f.sci.TXT", b"Corvus")],
        [("g.jpg", image), ("g.sci.txt", b"Grus"), ("g.depth.bin", bytes(300_000)), ("g.com.txt", b"crane")],
    ]
    source = open_quietly(write(tmp_path / "a.tar", [entry for _ in range(1) for kind in kinds for entry in kind]))
    expected = {
        "a": ("Corvus corax", "Raven", ""),
        "b": ("Corvus", "", ""),
        "c": ("Pica", "", "seen"),
        "d": ("Pica", "", "words"),
        "e": ("Corvus", "", ""),
        "\N{LATIN SMALL LETTER E WITH ACUTE}": ("Pica", "", ""),
        "f": ("Corvus", "", ""),
        "g": ("Grus", "crane", ""),
    }
    for _ in range(2):
        found = [source[index] for index in range(len(source))]
        assert {r["key"]: (r["scientific_name"], r["common_name"], r["caption"]) for r in found} == expected
        assert all(record["image"] == image for record in found)


CATALOG = {
    "uuid": ["b", "a", "c", "a"],
    "kingdom": ["Animalia", "Animalia", None, "Plantae"],
    "genus": ["Pica", "Corvus", None, "Abies"],
    "species": ["pica", "corax", None, "alba"],
    "scientific_name": ["Pica pica", "Corvus corax", None, "Abies alba"],
    "common": ["Magpie", None, None, "fir"],
    "data_source": ["gbif", "eol", "eol", "eol"],
    "source_id": ["17", "18_2", "9", "10"],
    "img_type": ["Citizen Science", None, None, None],
}


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_names_come_from_the_published_catalog_by_key(tmp_path, photo, form):
    table = tmp_path / f"catalog.{form}"
    if form == "parquet":
        pyarrow.parquet.write_table(pa.table(CATALOG), table, row_group_size=2)
    else:
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([list(CATALOG), *zip(*CATALOG.values(), strict=True)])
    members = [(f"folder/{key}.jpg", photo()) for key in "abc"] + members_of("d", photo(), RAVEN)
    for folder in ("", "folder/"):
        named = [(name.removeprefix("folder/") if not folder else name, data) for name, data in members]
        source = open_quietly(write(tmp_path / "a.tar", named), taxonomy=table)
        a, b, d = source[0], source[1], source[3]
        assert (a["key"], a["kingdom"], a["scientific_name"]) == (f"{folder}a", "Animalia", "Corvus corax")
        assert (a["common_name"], a["source"], a["source_id"]) == ("", "eol", "18_2")
        assert (b["genus"], b["species"], b["common_name"], b["image_type"]) == (
            "Pica",
            "pica",
            "Magpie",
            "Citizen Science",
        )
        assert (d["scientific_name"], d["common_name"]) == ("Corvus corax", "Raven")
        with pytest.raises(BadRecord, match=r"'.*c': no name at any rank"):
            source[2]
        assert pickle.loads(pickle.dumps(source))[1] == b  # noqa: S301


def test_a_mapping_goes_before_what_the_tar_says(raven, photo):
    record = raven(members_of("a", photo(), RAVEN), taxonomy={"a": {"genus": "Pica", "species": None, "source": ""}})
    assert (record["genus"], record["species"], record["family"], record["common_name"]) == ("Pica", "", "", "")


def test_wrong_taxonomies_are_usage_errors(tmp_path, photo):
    path = write(tmp_path / "a.tar", members_of("a", photo(), RAVEN))
    (tmp_path / "no_key.csv").write_text("genus,species\nPica,pica\n")
    (tmp_path / "no_name.csv").write_text("uuid,colour\na,black\n")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1" + bytes(40))
    for name, message in [
        ("no_key.csv", "no column 'uuid' or 'key'"),
        ("no_name.csv", "no column holds a taxon"),
        ("cut.parquet", "cannot be read as Parquet"),
        ("nowhere.csv", "no such file"),
    ]:
        with pytest.raises(UserError, match=message):
            open_quietly(path, taxonomy=tmp_path / name)


def test_many_threads_read_many_tars_through_few_descriptors(tmp_path, photo):
    for tar in range(30):
        members = [entry for i in range(4) for entry in members_of(f"{tar}-{i}", photo(tar % 5), RAVEN)]
        write(tmp_path / f"{tar:02}.tar", members)
    source = open_quietly(tmp_path, max_open=3)
    assert len(source) == 120
    before, most = len(list(Path("/dev/fd").iterdir())), 0
    expected = [f"{tar}-{i}" for tar in range(30) for i in range(4)]
    order = [place * 37 % 120 for place in range(600)]
    with ThreadPoolExecutor(4) as pool:
        for place, record in zip(order, pool.map(source.__getitem__, order), strict=True):
            assert record["key"] == expected[place]
            most = max(most, len(list(Path("/dev/fd").iterdir())) - before)
    assert most <= 2 * 3 + 4 * 4 + 1  # a thread that opens a tar has four for a moment; 30 open tars would have 60
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy[77] == source[77]
    with pytest.raises(UsageError, match="max_open 0"):
        open_quietly(tmp_path, max_open=0)


def test_text_that_is_not_utf8_is_replaced_and_counted(tmp_path, photo):
    members = [("a.jpg", photo()), ("a.common_name.txt", b"M\xf6we"), ("a.sci.txt", b"Larus")]
    source = open_quietly(write(tmp_path / "a.tar", members))
    assert source[0]["common_name"] == "M\N{REPLACEMENT CHARACTER}we"
    assert source.replaced_texts == 1


def test_a_sample_that_cannot_be_used_is_a_bad_record_that_says_why(tmp_path, photo):
    members = [
        ("a.sci.txt", b"Larus"),
        ("b.jpg", b""),
        ("c.jpg", photo()),
        ("d.jpg", photo()),
        ("d.txt", b"x" * 100_000),
        ("e.jpg.gz", b"x"),
        ("f.jpg", photo()),
        ("f.sci.txt", b"Larus"),
    ]
    report = quiet()
    source = open_tars(write(tmp_path / "a.tar", members), console=report)
    reasons = {}
    for index in range(len(source)):
        try:
            source[index]
        except BadRecord as error:
            reasons[error.key] = error.reason
    assert reasons == {
        "a": "no image",
        "b": "image is empty",
        "c": "no name at any rank",
        "d": "text is too long: 100,000 bytes",
        "e": "no image",
    }
    line = " ".join(report.file.getvalue().split())
    assert "6 samples in 1 tar; no image: 2 ('a', 'e'); image is empty: 1 ('b'); compressed member: 1 ('e')" in line


def test_a_tar_that_vanishes_shrinks_or_changes_while_it_is_read_is_named(tmp_path, photo):
    members = [entry for i in range(9) for entry in members_of(f"{i}", photo(i), RAVEN)]
    path = write(tmp_path / "a.tar", members)
    whole = path.read_bytes()
    open_quietly(path)[0]

    def fails(source, message, index=8):
        with pytest.raises(UserError, match=message) as caught:
            source[index]
        assert "a.tar" in str(caught.value)
        assert not isinstance(caught.value, BadRecord)

    fresh, reading = open_quietly(path), open_quietly(path)
    reading[8]
    path.write_bytes(whole[: len(whole) // 2])
    fails(fresh, r"had [\d,]+ bytes, and now has")
    fails(reading, "has become shorter")
    reading[0]
    path.write_bytes(whole.replace(b"8.jpg\0", b"9.jpg\0").replace(b"0.taxonTag.txt", b"0.taxonTag.txz"))
    fails(reading, "does not agree with its index")
    fails(reading, "does not agree with its index", index=0)
    path.unlink()
    fails(fresh, "no such file")
    path.write_bytes(whole)
    (tmp_path / "a.tar.index").unlink()
    fails(fresh, "index .* cannot be read")
    assert open_quietly(path)[8]["key"] == "8"


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("a{08..11}.tar", "a08.tar a09.tar a10.tar a11.tar"),
        ("{train,val}-{0..1}", "train-0 train-1 val-0 val-1"),
        ("x{a{1..2},b}", "xa1 xa2 xb"),
        ("{00..01}{,c}", "00 00c 01 01c"),
        ("{abc}.tar", "{abc}.tar"),
        ("{a{1..2}}", "{a1} {a2}"),
        ("{3..1}", ""),
        ("open{brace", "open{brace"),
        ("plain", "plain"),
    ],
)
def test_braces_are_expanded_as_in_webdataset(pattern, paths):
    assert list(expand_braces(pattern)) == paths.split()


def test_tars_are_found_by_path_folder_and_pattern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tar_patterns, "_MOST", 1000)
    for name in ("b.tar", "a.tar", "odd{1}.tar", "[x].tar", "c.txt"):
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    assert expand_tars(".") == ["[x].tar", "a.tar", "b.tar", "odd{1}.tar"]
    assert expand_tars("?.tar") == ["a.tar", "b.tar"]
    assert expand_tars(["b.tar", Path("a.tar")]) == ["b.tar", "a.tar"]
    assert expand_tars("b.tar::{a,d}.tar") == ["b.tar", "a.tar", "d.tar"]
    assert expand_tars(["odd{1}.tar", "[x].tar"]) == ["odd{1}.tar", "[x].tar"]
    for pattern, message in [
        ("empty", "no \\*.tar"),
        ("z*.tar", "no file fits"),
        ([], "no tars"),
        ("{0..9999999}", "more"),
    ]:
        with pytest.raises(UsageError, match=message):
            expand_tars(pattern)
    with pytest.raises(UserError, match=r"1 of 2 tars cannot be used: tar d.tar: no such file"):
        open_quietly("{a,d}.tar")


@pytest.fixture
def shards(tmp_path, photos):
    """Ten tars of the training photos in upstream's layout, and the table rows in their order."""
    with (photos / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train"][:100]
    for shard in range(10):
        members = []
        for row in rows[shard * 10 : shard * 10 + 10]:
            image = (photos / row["filepath"]).read_bytes()
            members += members_of(Path(row["filepath"]).stem, image, Taxon.from_record(row))
        write(tmp_path / f"shard-{shard:05}.tar", members)
    return tmp_path / "shard-{00000..00009}.tar", rows


def test_the_recipe_builds_shows_and_trains_on_tars_as_they_lie(tmp_path, photos, shards):
    pattern, rows = shards
    split = open_dataset("tars", {"tars": (str(pattern),), "split": "birds", "index_folder": tmp_path / "indexes"})
    source = split["birds"]
    assert len(source) == len(rows)
    for index in (0, 17, len(rows) - 1):
        text_types = ("sci", "taxon", "com", "sci_com", "taxon_com", "taxonTag")
        ours, theirs = taxon_of(source[index]), Taxon.from_record(rows[index])
        assert [caption(ours, t) for t in text_types] == [caption(theirs, t) for t in text_types]
    build(split, tmp_path / "out", name="birds", console=quiet())
    built = open_dataset(tmp_path / "out")["birds"]
    assert [built[i]["image"] for i in range(9)] == [source[i]["image"] for i in range(9)]
    assert contact_sheet(split, title="birds").width > 800
    options = {"image_size": 32, "context_length": 77, "global_batch_size": 16, "seed": 1, "token_lengths": [{}]}
    batches = [make_loader([data], DataConfig(), **options).batches(3, 4) for data in (source, built)]
    ours, theirs = (next(batch) for batch in batches)
    assert (ours.image == theirs.image).all()
    assert (ours.tokens == theirs.tokens).all()
