"""The tokenizer beside an export: what transformers itself would save, with OpenCLIP's ids for what captions hold."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as FileTokenizer

from bioclip_jax.convert.tokenizer_files import write_tokenizer
from bioclip_jax.text.tokenizer import END_OF_TEXT, Tokenizer, clean

GOLDENS = Path(__file__).parents[1] / "goldens" / "text_image"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, 77)
    return folder


@pytest.mark.core
def test_every_caption_of_the_goldens_gets_the_same_ids(folder):
    tokenizer, ours = FileTokenizer.from_file(str(folder / "tokenizer.json")), Tokenizer()
    cases = json.loads((GOLDENS / "captions.json").read_text())["cases"]
    writers = [case[name] for case in cases for name in ("tol2webdataset", "tol_hybrid_to_wds") if case.get(name)]
    texts = sorted({text for texts in writers for text in texts.values()})
    assert len(texts) > 500
    assert [ids.ids for ids in tokenizer.encode_batch([clean(text) for text in texts])] == list(map(ours.encode, texts))
    # OpenCLIP straightens quotation marks, which no tokenizer file can say.
    differ = [text for text in texts if tokenizer.encode(text).ids != ours.encode(text)]
    assert all("‘" in text for text in differ)
    assert len(differ) < 10


@pytest.mark.core
def test_of_the_hardest_strings_only_special_tokens_and_rare_unicode_differ(folder):
    """Cleaned as OpenCLIP does; the published Hugging Face tokenizers differ in the same strings."""
    tokenizer, ours = FileTokenizer.from_file(str(folder / "tokenizer.json")), Tokenizer()
    strings = [entry["text"] for entry in json.loads((GOLDENS / "tokens.json").read_text())["strings"]]
    differ = [
        text for text in map(clean, strings) if text.isprintable() and tokenizer.encode(text).ids != ours.encode(text)
    ]
    assert len(strings) == 287
    rest = [text for text in differ if "_of_text>" not in text]
    assert len(rest) < 5
    assert not [text for text in rest if text.isascii()]


def test_files_are_those_that_transformers_saves(folder, tmp_path):
    from transformers import CLIPTokenizer

    theirs = CLIPTokenizer(
        vocab=json.loads((folder / "vocab.json").read_text()),
        merges=[tuple(line.split()) for line in (folder / "merges.txt").read_text().splitlines()[1:]],
        model_max_length=77,
    )
    theirs.save_pretrained(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    written, saved = (json.loads((path / "tokenizer_config.json").read_text()) for path in (folder, tmp_path))
    assert saved.items() - {("backend", "tokenizers")} <= written.items()
    ids = CLIPTokenizer.from_pretrained(folder)(["a b", "a"], padding="max_length", max_length=5)["input_ids"]
    assert ids[1] == [49406, 320, END_OF_TEXT, END_OF_TEXT, END_OF_TEXT]
