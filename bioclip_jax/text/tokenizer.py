"""CLIP's byte-pair tokenizer, giving the very ids of OpenCLIP's.

A text is cleaned (ftfy, HTML unescaped twice, white space collapsed, lower case), split into words by CLIP's pattern,
and each word's UTF-8 bytes are merged by the published table. The splitting is done here with the `regex` package,
because the ready-made CLIP tokenizers split some Unicode and special tokens differently; the merging by `tokenizers`.
The table is read on first use.
"""

from __future__ import annotations

import gzip
import html
from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

import ftfy
import numpy as np
import regex
from tokenizers import models

from bioclip_jax.errors import UsageError

START_OF_TEXT = 49406
END_OF_TEXT = 49407
VOCABULARY_SIZE = 49408

_SPECIAL_TOKENS = {"<start_of_text>": START_OF_TEXT, "<end_of_text>": END_OF_TEXT}
_MERGE_COUNT = VOCABULARY_SIZE - 2 * 256 - len(_SPECIAL_TOKENS)
END_OF_WORD = "</w>"
# A literal '<end_of_text>' is the special token only where a match starts with it, as in OpenCLIP; the case of
# everything is ignored.
_WORDS = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+", regex.IGNORECASE
)


class Tokenizer:
    """Strings to token ids. Holds nothing but its length: cheap to make and to pickle, safe to share by threads."""

    def __init__(self, context_length: int = 77):
        """`context_length`: ids per text, start and end tokens included; at least 2."""
        if context_length < 2:
            raise UsageError(f"context_length {context_length}: start and end of text alone need 2")
        self.context_length = context_length

    @property
    def vocab_size(self) -> int:
        """49,408: 512 byte symbols, 48,894 merges, start and end of text."""
        return VOCABULARY_SIZE

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Ids, int32 [len(texts), context_length]: start of text, the text, end of text, then 0.

        A text that is too long is cut, and its last id is end of text. 0 is also the token of a `!` inside a word:
        find a text's end by the first `END_OF_TEXT`, never by the first 0.
        """
        if isinstance(texts, str):
            raise UsageError(f"texts {texts[:40]!r}: a list of strings is needed, not one string")
        ids = np.zeros((len(texts), self.context_length), np.int32)
        for row, text in zip(ids, texts, strict=True):
            encoded = self.encode(text)[: self.context_length]
            row[: len(encoded)] = encoded
            row[len(encoded) - 1] = END_OF_TEXT
        return ids

    def encode(self, text: str) -> list[int]:
        """All ids of one text, start and end of text included, neither cut nor padded.

        A special token written out in the text becomes that token, so that the text tower would stop reading there.
        """
        ids = [START_OF_TEXT]
        for word in _WORDS.findall(clean(text)):
            ids.extend(_word_ids(word))
        ids.append(END_OF_TEXT)
        return ids

    def count(self, text: str) -> int:
        """How many ids `encode` gives: the context length that the whole text needs."""
        return len(self.encode(text))


def clean(text: str) -> str:
    """The text as the pattern sees it: ftfy, HTML unescaped twice, white space collapsed to spaces, lower case."""
    # ftfy and unescape leave printable ASCII without '&' alone; most captions are that, and ftfy is slow.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@lru_cache(maxsize=2**16)
def _word_ids(word: str) -> tuple[int, ...]:
    if word in _SPECIAL_TOKENS:
        return (_SPECIAL_TOKENS[word],)
    symbols = _byte_symbols()
    return tuple(token.id for token in _merges().tokenize("".join(symbols[byte] for byte in word.encode())))


@lru_cache(maxsize=1)
def _byte_symbols() -> tuple[str, ...]:
    """The character that stands for each byte: its own in Latin-1 if that is printable, else the next from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    substitutes = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(substitutes)) for byte in range(256))


@lru_cache(maxsize=1)
def _merges() -> models.BPE:
    vocabulary, merges = vocabulary_and_merges()
    return models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix=END_OF_WORD)


def vocabulary_and_merges() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The id of each token but the special ones, and the pairs that are merged, in order.

    Ids: printable bytes, other bytes, both again ending a word, merges in order; the special tokens come last.
    """
    # In code point order the symbols of printable bytes come before the substitutes.
    symbols = sorted(_byte_symbols())
    with gzip.open(Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as lines:
        next(lines)  # the version
        merges = [(first, second) for first, second in (line.split() for line in islice(lines, _MERGE_COUNT))]
    tokens = [*symbols, *(symbol + END_OF_WORD for symbol in symbols), *(first + second for first, second in merges)]
    return {token: index for index, token in enumerate(tokens)}, merges
