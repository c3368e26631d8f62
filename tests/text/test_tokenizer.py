import hashlib
import html
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import ftfy
import numpy as np
import pytest

import bioclip_jax.text.tokenizer as tokenizer_module
from bioclip_jax.errors import UsageError
from bioclip_jax.text.tokenizer import Tokenizer, clean

pytestmark = pytest.mark.core

GOLDENS = Path(__file__).parents[1] / "goldens" / "text_image"


@pytest.fixture(scope="module")
def strings():
    return json.loads((GOLDENS / "tokens.json").read_text(encoding="utf-8"))["strings"]


def test_every_string_has_the_ids_of_the_reference(strings):
    ids = Tokenizer()([string["text"] for string in strings])
    assert ids.shape == (287, 77)
    assert ids.dtype == np.int32
    for row, string in zip(ids, strings, strict=True):
        assert row.tolist() == string["ids"] + [0] * (77 - len(string["ids"])), string["text"]


def test_every_string_is_cleaned_as_the_reference_does(strings):
    assert [clean(string["text"]) for string in strings] == [string["cleaned"] for string in strings]


def test_count_tells_which_texts_are_cut(strings):
    counts = [Tokenizer().count(string["text"]) for string in strings]
    assert [count > 77 for count in counts] == [string["truncated"] for string in strings]
    whole = [(n, string) for n, string in zip(counts, strings, strict=True) if not string["truncated"]]
    assert all(count == len(string["ids"]) for count, string in whole)


def test_plain_ascii_takes_a_short_cut_to_the_same_text():
    generator = random.Random(5)
    for _ in range(500):
        text = "".join(chr(generator.randrange(0x20, 0x7F)) for _ in range(generator.randrange(60)))
        assert clean(text) == " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()


def test_a_short_context_ends_with_end_of_text():
    assert Tokenizer(4)(["a photo of Corvus corax.", "", "raven"]).tolist() == [
        [49406, 320, 1125, 49407],
        [49406, 49407, 0, 0],
        [49406, 16803, 49407, 0],
    ]
    assert Tokenizer(8)([]).shape == (0, 8)


def test_a_special_token_written_out_becomes_one():
    assert Tokenizer().encode("a<end_of_text>b") == [49406, 320, 49407, 321, 49407]
    assert Tokenizer().vocab_size == 49408


def test_wrong_arguments_are_usage_errors():
    with pytest.raises(UsageError, match="list of strings"):
        Tokenizer()("one string")
    with pytest.raises(UsageError, match="context_length 1"):
        Tokenizer(1)


def test_a_tokenizer_survives_pickling_and_threads():
    tokenizer = cloudpickle.loads(cloudpickle.dumps(Tokenizer(16)))
    tokenizer_module._word_ids.cache_clear()
    tokenizer_module._merges.cache_clear()
    texts = [f"a photo of Genus{i} epithet{i % 7}." for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        concurrent = list(pool.map(lambda text: tokenizer([text])[0], texts))
    np.testing.assert_array_equal(concurrent, tokenizer(texts))


def test_captions_are_tokenised_fast_enough_for_training(strings):
    captions = [string["text"] for string in strings if string["group"].startswith("caption")] * 20
    tokenizer = Tokenizer()
    tokenizer(captions[:90])
    start = time.process_time()
    tokenizer(captions)
    # About 40,000 per second on one ordinary core; the bound leaves room for a slow one.
    assert len(captions) / (time.process_time() - start) > 5_000


def test_the_merge_table_is_the_published_file():
    table = Path(tokenizer_module.__file__).with_name("bpe_simple_vocab_16e6.txt.gz").read_bytes()
    assert hashlib.sha256(table).hexdigest() == "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
