"""CLIP's tokenizer in the files that transformers opens, so that an export needs nothing from elsewhere.

`tokenizer.json` is what transformers' own `CLIPTokenizer` saves; `vocab.json` and `merges.txt` are for older programs.
Ids equal OpenCLIP's except where Unicode or special tokens are split otherwise (docs/weights.md), and padding is end of
text instead of 0, which no CLIP sees.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from bioclip_jax.text.tokenizer import END_OF_TEXT, END_OF_WORD, START_OF_TEXT, vocabulary_and_merges

START, END = "<|startoftext|>", "<|endoftext|>"
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_tokenizer(folder: Path, context_length: int) -> None:
    """Writes the tokenizer's files into a folder."""
    names = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "processor_class": "CLIPProcessor",
        "model_max_length": context_length,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        **names,
    }
    contents = {
        **_vocabulary_files(),
        "tokenizer_config.json": json.dumps(config, indent=2) + "\n",
        "special_tokens_map.json": json.dumps(names, indent=2) + "\n",
    }
    for name, content in contents.items():
        (folder / name).write_text(content, encoding="utf-8")


@lru_cache(maxsize=1)
def _vocabulary_files() -> dict[str, str]:
    """The large ones, which are the same for every model: five million characters."""
    vocabulary, merges = vocabulary_and_merges()
    vocabulary |= {START: START_OF_TEXT, END: END_OF_TEXT}
    return {
        "tokenizer.json": _tokenizer(vocabulary, merges).to_str(pretty=True),
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False) + "\n",
        "merges.txt": "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n",
    }


def _tokenizer(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix=END_OF_WORD,
            fuse_unk=False,
            unk_token=END,
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in (START, END)])
    tokenizer.post_processor = processors.RobertaProcessing(
        (END, END_OF_TEXT), (START, START_OF_TEXT), trim_offsets=False, add_prefix_space=False
    )
    return tokenizer
