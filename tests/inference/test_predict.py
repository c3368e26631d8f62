"""`bioclip-jax predict`: names out of any list of labels, with probabilities at every rank."""

import csv
import io
import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bioclip_jax.cli import main
from bioclip_jax.errors import UsageError, UserError
from bioclip_jax.evaluation.cache import ArrayCache
from bioclip_jax.heads import TaxonHead
from bioclip_jax.inference import predict as predicting
from bioclip_jax.inference.label_files import read_labels
from bioclip_jax.inference.photos import Encoded
from bioclip_jax.inference.predict import LABEL, Name, Predicted, Predictor
from bioclip_jax.inference.prediction_files import lines, write_predictions

QUIET = Console(file=io.StringIO())
TAXA = """kingdom;phylum;class;order;family;genus;species;common_name
Animalia;Chordata;Aves;Suliformes;Sulidae;Morus;bassanus;Northern gannet
Animalia;Chordata;Aves;Suliformes;Sulidae;Morus;capensis;Cape gannet
Plantae;Tracheophyta;Magnoliopsida;Rosales;Moraceae;Morus;nigra;black mulberry
Animalia;Chordata;Aves;Suliformes;Sulidae;Morus;bassanus;Northern gannet
"""


@pytest.fixture
def taxa(tmp_path):
    path = tmp_path / "taxa.csv"
    path.write_text(TAXA, encoding="utf-8")
    return path


@pytest.fixture
def features(small):
    """Photos that are texts: what they show is known."""
    return small.encode_text(["a photo of Morus nigra.", "a photo of Morus bassanus."])


def test_a_text_file_of_labels_is_read_as_people_write_it(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffCorvus corax\r\n\r\n  Vulpes   vulpes \r\nCorvus corax\r\n=1+1".encode())
    labels = read_labels(path)
    assert labels.names == ("Corvus corax", "Vulpes vulpes", "=1+1")
    assert labels.ranks == labels.taxa == ()
    assert labels.notes == ("1 labels stand there more than once and count once",)
    path.write_text("剣魚\nelk\n", encoding="utf-16")
    assert read_labels(path).names == ("剣魚", "elk")
    path.write_text("elk")
    assert read_labels(path).notes == (f"{path} has one label only: its score is 1 whatever a photo shows",)


def test_a_table_of_labels_has_a_taxonomy_or_plain_names(taxa, tmp_path):
    labels = read_labels(taxa)
    assert sorted(labels.names) == ["Morus bassanus", "Morus capensis", "Morus nigra"]
    assert labels.ranks == ("kingdom", "phylum", "class", "order", "family", "genus", "species")
    pq.write_table(pa.table({"id": [1, 2], "scientific_name": ["Corvus corax", "Vulpes"]}), tmp_path / "t.parquet")
    assert read_labels(tmp_path / "t.parquet").names == ("Corvus corax", "Vulpes")
    (tmp_path / "plain.csv").write_text("class\nTomato___Late_blight\nTomato___healthy\n")
    assert read_labels(tmp_path / "plain.csv").names == ("Tomato___Late_blight", "Tomato___healthy")
    (tmp_path / "index.csv").write_text(",cls,genus,species,class\n0,Aves,Morus,bassanus,gannet\n1,,,,\n")
    indexed = read_labels(tmp_path / "index.csv")
    assert (indexed.names, indexed.ranks) == (("Morus bassanus",), ("class", "genus", "species"))
    assert indexed.taxa[0].class_ == "Aves"
    assert indexed.notes[0].startswith("1 rows of")
    (tmp_path / "own.csv").write_text("Art,x\nCorvus corax,1\nNA,2\n")
    assert read_labels(tmp_path / "own.csv", ["scientific_name=Art"]).names == ("Corvus corax",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.txt", b"\n \n", "no label in it"),
        ("labels.txt", b"\x89PNG\0\0", "is not text in UTF-8"),
        ("labels.csv", b"a,b\n1,2\n", "no column holds a taxon"),
        ("labels.csv", b"genus\n", "has no rows"),
        ("labels.csv", b"genus,x\nNA,1\n", "no label in it"),
        ("labels.parquet", b"PAR1", "cannot be read|neither a CSV"),
    ],
)
def test_label_files_that_hold_no_labels_are_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        read_labels(tmp_path / "absent.txt")
    with pytest.raises(UsageError, match="is a folder"):
        read_labels(tmp_path)


def test_probabilities_are_the_models_softmax_and_add_up_at_every_rank(small, taxa, features, tmp_path):
    labels = read_labels(taxa)
    cache = ArrayCache(tmp_path / "heads")
    predictor = Predictor(small, labels, text_types=["sci"], cache=cache, console=QUIET)
    first, broken, second = predictor(Encoded(["a", "b", "c"], features, ["", "truncated", ""]))
    assert (broken.error, broken.names) == ("truncated", {})
    head = TaxonHead.from_text(small.encode_text, labels.taxa, logit_scale=small.logit_scale, text_types=["sci"])
    expected = np.exp(head.log_probabilities(features))
    for row, predicted in enumerate((first, second)):
        species = {name.name: name.score for name in predicted.names["species"]}
        assert species == pytest.approx(dict(zip(labels.names, expected[row], strict=True)), rel=1e-4)
        for names in predicted.names.values():
            assert sum(name.score for name in names) == pytest.approx(1, abs=1e-5)
            assert [name.score for name in names] == sorted((name.score for name in names), reverse=True)
    assert first.names["species"][0][:2] == ("Morus nigra", "black mulberry")
    assert {name.name for name in first.names["genus"]} == {"Morus (Animalia)", "Morus (Plantae)"}
    gannets = sum(name.score for name in second.names["species"] if "gannet" in name.common_name)
    assert second.names["family"][0] == ("Sulidae", "", pytest.approx(gannets, rel=1e-4))


def test_ranks_and_places_are_as_asked_for(small, taxa, features, tmp_path, monkeypatch):
    labels = read_labels(taxa)
    batch = Encoded(["a", "c"], features, ["", ""])
    whole = Predictor(small, labels, console=QUIET)(batch)
    monkeypatch.setattr(predicting, "_MOST_LOGITS", 1)  # a photo at a time
    for one, expected in zip(Predictor(small, labels, console=QUIET)(batch), whole, strict=True):
        for rank, names in one.names.items():
            assert [name.name for name in names] == [name.name for name in expected.names[rank]]
            assert [name.score for name in names] == pytest.approx([name.score for name in expected.names[rank]])
    chosen = Predictor(small, labels, ranks=["family", LABEL], top=1, console=QUIET)(batch)
    assert [{rank: len(names) for rank, names in one.names.items()} for one in chosen] == [{"family": 1, LABEL: 1}] * 2
    (tmp_path / "mixed.csv").write_text("genus,species\nMorus,nigra\nVulpes,\n")
    mixed = Predictor(small, read_labels(tmp_path / "mixed.csv"), console=QUIET)
    assert mixed.ranks == ("genus", "species", LABEL)
    (one, _) = mixed(batch)
    assert sum(name.score for name in one.names["species"]) < 1 < 1.001 + sum(name.score for name in one.names[LABEL])
    (tmp_path / "plain.txt").write_text("elk\nfox\n")
    for given, message in (({"ranks": ["genus"]}, "they have no taxonomy"), ({"top": 0}, "--top 0")):
        with pytest.raises(UsageError, match=message):
            Predictor(small, read_labels(tmp_path / "plain.txt"), console=QUIET, **given)
    with pytest.raises(UsageError, match="family: the labels have no names at that rank; they have genus, species"):
        Predictor(small, read_labels(tmp_path / "mixed.csv"), ranks=["family"], console=QUIET)


def test_the_features_of_labels_are_kept(small, taxa, tmp_path, monkeypatch):
    cache = ArrayCache(tmp_path / "heads")
    Predictor(small, read_labels(taxa), cache=cache, console=QUIET)
    with monkeypatch.context() as patch:
        patch.setattr(small, "encode_text", None)
        Predictor(small, read_labels(taxa), cache=cache, console=QUIET)
        with pytest.raises(TypeError):
            Predictor(small, read_labels(taxa), cache=cache, templates=["{}"], console=QUIET)
    assert len(list((tmp_path / "heads").iterdir())) == 1


def test_csv_holds_no_formula_and_json_lines_the_texts_as_they_are(tmp_path):
    odd = [
        Predicted("=cmd().png", {LABEL: [Name("@SUM(1)", "-x", 0.75), Name('elk, "big"\n', "", 0.25)]}),
        Predicted("+b.png", {}, "truncated"),
        Predicted("caf\udce9.png", {LABEL: [Name("1", "", 1.0)]}),
    ]
    write_predictions(odd, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["photo"], row["name"], row["common_name"]) for row in rows[:2]] == [
        ("'=cmd().png", "'@SUM(1)", "'-x"),
        ("'=cmd().png", 'elk, "big"\n', ""),
    ]
    assert [(row["place"], row["score"], row["error"]) for row in rows[1:3]] == [
        ("2", "0.25", ""),
        ("", "", "truncated"),
    ]
    write_predictions(odd, tmp_path / "p.jsonl")
    objects = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    assert objects[0]["photo"] == "=cmd().png"
    assert objects[0]["predictions"][LABEL][0] == {"name": "@SUM(1)", "common_name": "-x", "score": 0.75}
    assert objects[1] == {"photo": "+b.png", "error": "truncated"}
    assert lines(Predicted("\x1b[2J.png", {LABEL: [Name("elk", "", 0.5)]}))[0] == "\\x1b[2J.png"


def test_predictions_that_were_interrupted_leave_no_file(tmp_path):
    def stopped():
        yield Predicted("a.png", {LABEL: [Name("elk", "", 1.0)]})
        raise KeyboardInterrupt

    (tmp_path / "p.csv").write_text("from before")
    with pytest.raises(KeyboardInterrupt):
        write_predictions(stopped(), tmp_path / "p.csv")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["from before"]


def test_the_command_names_photos_and_features_alike(small, small_folder, album, taxa, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["predict", str(small_folder), str(album), "--labels", str(taxa)]
    main([*command, "--out", "p.csv"])
    said = capsys.readouterr()
    assert said.out == "p.csv: names of 6 photos out of 3 labels\n"
    monkeypatch.setattr("bioclip_jax.inference.load.load", lambda path, overrides: small)  # compiled already
    assert "2 of 8 photos could not be read" in said.err
    with Path("p.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["photo"] for row in rows if row["error"]} == {"broken.png", "gone.jpg"}
    assert len([row for row in rows if row["photo"] == "z.png"]) == 2 + 2 + 2 + 2 + 2 + 2 + 3
    main(["embed", str(small_folder), str(album)])
    capsys.readouterr()
    main(["predict", str(small_folder), "features.parquet", "--labels", str(taxa), "--out", "q.csv"])
    assert Path("q.csv").read_text() == Path("p.csv").read_text()
    capsys.readouterr()
    main([*command, "--top", "2", "--rank", "genus", "species"])
    shown = capsys.readouterr().out
    assert "broken.png: truncated" in shown
    assert shown.count("\n") == 2 + 6 * (1 + 1 + 2)
    for flags, message in (
        (["--out", "p.csv"], "--overwrite replaces a file"),
        (["--out", "p.xlsx"], "written as .csv or .jsonl"),
        (["--text-types", "latin"], "latin"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*command, *flags])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(small_folder), str(album / "broken.png"), "--labels", str(taxa), "--out", "r.csv"])
    assert stopped.value.code == 1
    assert "none of the 1 photos can be read" in capsys.readouterr().err
    assert not (tmp_path / "r.csv").exists()


def test_features_of_another_model_get_no_names(small, other, album, taxa, tmp_path):
    from bioclip_jax.inference.embed import embed
    from bioclip_jax.inference.photos import open_photos

    embed(other, open_photos([str(album)]), tmp_path / "f.parquet", console=QUIET)
    source = predicting.open_source([str(tmp_path / "f.parquet")])
    assert len(source) == 8
    with pytest.raises(UsageError, match=r"features of another model \(small-1\)"):
        source.batches(small, 4)


def test_every_block_of_the_page_for_people_with_photos_runs(small, album, taxa, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bioclip_jax.inference.load.load", lambda path, overrides: small)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    album.rename("photos")
    Path("labels.txt").write_text("Corvus corax\nVulpes vulpes\n")
    Path("table.csv").write_text("number,file\n1,a.png\n2,broken.png\n")
    page = (Path(__file__).parents[2] / "docs" / "inference.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    for language, code in blocks:
        if language == "python":
            Path("block.py").write_text(code)
            runpy.run_path("block.py")
            continue
        for line in code.splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "bioclip-jax"
            main(arguments)
    shown = capsys.readouterr().out
    assert f"small-0 {small.fingerprint[:12]} (6, 24) ['truncated', 'file is missing: gone.jpg']" in shown
    assert set(pq.read_table("of_table.parquet")["key"].to_pylist()) == {"1", "2"}
    assert len(Path("names.jsonl").read_text().splitlines()) == 6
    assert Path("again.csv").read_text() == Path("ranks.csv").read_text()
