"""Tokenizers are what transformers makes of a checkpoint's files: by the model's family, or the class that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from skipopu.text import NoText, carried, text_of
from skipopu.text_stream import Stream
from tests.support import small_config
from tests.test_text import around, byte_level, llama_like
from tests.tokenizers_like import compared, gemma_like, llama3_like, pythia_like, refusal, smol_like, text_in, written

FAST = "PreTrainedTokenizerFast"
TOLD = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "chat_template": "{{ bos_token }}[INST]{{ messages[0].content }}</s>\n b{{ eos_token }}",
}
# Family, class, tokenizer: as their repositories have them, then pairings that few have.
REAL: tuple[tuple[str, str | None, Any], ...] = (
    ("llama", "LlamaTokenizer", llama_like),
    ("llama", FAST, llama3_like),
    ("llama", "LlamaTokenizerFast", llama3_like),
    ("llama", "GPT2Tokenizer", smol_like),
    ("llama", "CodeLlamaTokenizer", llama_like),
    ("mistral", "LlamaTokenizer", llama_like),
    ("phi3", "LlamaTokenizer", llama_like),
    ("qwen2", "Qwen2Tokenizer", byte_level),
    ("qwen3", "Qwen2Tokenizer", byte_level),
    ("smollm3", FAST, llama3_like),
    ("gemma2", "GemmaTokenizer", gemma_like),
    ("olmo", "GPTNeoXTokenizer", pythia_like),
    ("olmo2", "GPT2Tokenizer", llama3_like),
    ("gpt_neox", "GPTNeoXTokenizerFast", pythia_like),
    ("stablelm", "GPTNeoXTokenizerFast", pythia_like),
    ("granite", "GPT2Tokenizer", smol_like),
)
ODD: tuple[tuple[str, str | None, Any], ...] = (
    ("llama", None, llama_like),
    ("gpt_neox", None, pythia_like),
    ("olmo", None, lambda: around(byte_level())),
    ("gemma", None, llama_like),
    ("qwen2", "LlamaTokenizerFast", llama3_like),
    ("qwen3", "LlamaTokenizer", llama_like),
    ("qwen3", None, smol_like),
    ("olmo", "LlamaTokenizer", llama_like),
    ("gemma2", FAST, llama_like),
)


@pytest.mark.parametrize(("family", "named", "make"), REAL + ODD)
def test_the_class_decides_as_in_transformers(family: str, named: str | None, make: Any, tmp_path: Path) -> None:
    config = TOLD | ({"tokenizer_class": named} if named else {})
    compared(written(tmp_path, make(), family, tokenizer_config__json=config))


@pytest.mark.parametrize(
    ("named", "make", "more"),
    [
        ("LlamaTokenizer", llama_like, {"legacy": True}),
        ("LlamaTokenizer", llama_like, {"legacy": None, "add_bos_token": False}),
        ("LlamaTokenizer", llama_like, {"add_prefix_space": False}),
        ("GPT2Tokenizer", byte_level, {"add_prefix_space": True}),
        ("Qwen2Tokenizer", byte_level, {"add_prefix_space": True}),
        (FAST, byte_level, {"add_prefix_space": True, "clean_up_tokenization_spaces": True}),
        (FAST, byte_level, {"split_special_tokens": True}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_what_is_set_of_a_class(named: str, make: Any, more: dict[str, Any], tmp_path: Path) -> None:
    compared(written(tmp_path, make(), "llama", tokenizer_config__json=TOLD | {"tokenizer_class": named} | more))


def test_a_class_in_the_models_own_description_counts(tmp_path: Path) -> None:
    compared(written(tmp_path / "a", pythia_like(), "llama", config__json={"tokenizer_class": "GPTNeoXTokenizer"}))
    directory = written(tmp_path / "b", pythia_like(), None, tokenizer_config__json={"tokenizer_class": "GPTNeoXTokenizer"})
    assert text_in(directory).encode("b") == byte_level_ids("b"), "without config.json, as beside a GGUF file"


def byte_level_ids(text: str) -> tuple[int, ...]:
    return tuple(byte_level().encode(text).ids)


def test_llama_2_says_its_turns_as_it_was_trained(tmp_path: Path) -> None:
    """No mark of a word after a special token, unlike what tokenizer.json says."""
    known = text_in(
        written(tmp_path, llama_like(), "llama", tokenizer_config__json=TOLD | {"tokenizer_class": "LlamaTokenizer"})
    )
    by_file = text_in(written(tmp_path, llama_like(), "llama", tokenizer_config__json=TOLD))
    mark = known.tokenizer.token_to_id("▁")
    assert known.chat("x")[1] != mark == by_file.chat("x")[1]
    ids = known.encode("ab</s>b €")
    stream = Stream(known)
    assert "".join(stream.add([number]) for number in ids) + stream.end() == known.decode(ids) == "abb €"


def test_classes_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    def said(config: dict[str, Any], family: str = "llama", tokenizer: Tokenizer | None = None, **own: Any) -> str:
        files = {"tokenizer_config__json": config, "config__json": own}
        return refusal(written(tmp_path, tokenizer or byte_level(), family, **files))

    assert "tokenizer_config.json: tokenizer_class is 'BertTokenizer'; accepted: Tok" in said(
        {"tokenizer_class": "BertTokenizer"}
    )
    assert "/config.json: tokenizer_class is [1]; accepted" in said({}, tokenizer_class=[1])
    assert "tokenizer_config.json: auto_map is ['a.B', None]; accepted: null" in said(
        {"auto_map": {"AutoTokenizer": ["a.B", None]}}
    )
    assert "add_prefix_space is 3; accepted: true or false" in said({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": 3})
    pieces = Tokenizer(models.Unigram([("a", 0.0)], unk_id=0))
    assert "model.type is 'Unigram'; accepted: 'BPE'" in said({"tokenizer_class": "LlamaTokenizer"}, tokenizer=pieces)
    assert "clean_up_tokenization_spaces is True" in said({"clean_up_tokenization_spaces": True}, tokenizer=pieces)
    large = Tokenizer(models.BPE({f"t{k}": k for k in range(100_001)}, []))
    old = {"fix_mistral_regex": True}
    assert "fix_mistral_regex is True; accepted: none" in said(old, "mistral", large, transformers_version="4.57.1")
    text_in(written(tmp_path, byte_level(), "mistral", tokenizer_config__json=old))


def test_a_text_that_the_tokenizer_cannot_encode_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE({"b": 0}, [], unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    with pytest.raises(Exception, match=r"tokenizer\.json: cannot encode 'a' \(Unk token"):
        text_in(written(tmp_path, tokenizer, "llama")).encode("c")


def test_a_program_without_the_models_family_has_no_text(tmp_path: Path) -> None:
    files = carried(written(tmp_path, byte_level(), "llama", config__json={"vocab_size": 300}))
    assert json.loads(files.pop("config.json")) == {"model_type": "llama"}
    with pytest.raises(NoText, match="compile it again"):
        text_of(small_config(vocab_size=300), files, "old")
