"""Tokenizers of the structure that real checkpoints have, small, and what transformers makes of a directory with one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors

from skipopu.errors import ProgramError
from skipopu.text import Vocabulary, carried
from tests.test_text import SAMPLE, around, byte_level, llama_like

TEXTS = (SAMPLE, "ab  ab\n\n<s>ab </s> b<|x|> \nab 1234 it's", " <|begin|>\n ab<|end|>\t", "</s>a")
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama3_like() -> Tokenizer:
    tokenizer = around(byte_level())
    words = pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer


def smol_like() -> Tokenizer:
    tokenizer = byte_level()
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer


def pythia_like() -> Tokenizer:
    tokenizer = around(byte_level())
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def gemma_like() -> Tokenizer:
    tokenizer = llama_like()
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def written(directory: Path, tokenizer: Tokenizer, family: str | None, **files: Any) -> Path:
    """``files``: contents by name, ``__`` for the dot, mappings as JSON."""
    directory.mkdir(exist_ok=True, parents=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    if family is not None:
        files["config__json"] = {"model_type": family, **files.get("config__json", {})}
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def text_in(directory: Path) -> Vocabulary:
    return Vocabulary(carried(directory), 1000, directory.name)


def compared(directory: Path) -> None:
    """The same ids, of texts and of a chat, and the same texts of them, as transformers has."""
    transformers = pytest.importorskip("transformers")
    ours, theirs = text_in(directory), transformers.AutoTokenizer.from_pretrained(directory)
    for text in TEXTS:
        ids = tuple(theirs(text)["input_ids"])
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    asked = [{"role": "user", "content": " ab "}]
    if theirs.chat_template is not None:
        assert ours.chat(" ab ") == tuple(theirs.apply_chat_template(asked, add_generation_prompt=True)["input_ids"])


def refusal(directory: Path) -> str:
    try:
        text_in(directory)
    except ProgramError as error:
        return str(error)
    raise AssertionError("it was accepted")
