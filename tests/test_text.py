"""Text by small tokenizers that are built here: ids as the checkpoint says, text of ids, whatever way they come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from skipopu.errors import ProgramError
from skipopu.text import NoText, Text, carried, text_of
from skipopu.text_stream import Stream, continuation
from tests.support import small_config

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SAMPLE = "Größe 12 € — 日本語 🙂\n"


def byte_level() -> Tokenizer:
    """GPT-2's kind: every byte a token, three merges, two special tokens behind them."""
    merges = [("a", "b"), ("ab", "c"), ("Ġ", "ab")]
    vocabulary = [*ALPHABET, *(left + right for left, right in merges)]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|begin|>", "<|end|>"])
    return tokenizer


def llama_like() -> Tokenizer:
    """Llama's kind: words begin with a mark, unknown characters are bytes, <s> comes first."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{k:02X}>" for k in range(256)), "▁", "a", "b", "▁a", "▁b", "ab", "▁ab"]
    merges = [("▁", "a"), ("▁", "b"), ("a", "b"), ("▁a", "b")]
    vocabulary = {token: i for i, token in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


KINDS = {"byte_level": byte_level, "llama_like": llama_like}


def text(
    directory: Path, tokenizer: Tokenizer | None, config: dict[str, Any] | None = None, vocabulary: int = 300, **files: str
) -> Text:
    if tokenizer is not None:
        tokenizer.save(str(directory / "tokenizer.json"))
    if config is not None:
        (directory / "tokenizer_config.json").write_text(json.dumps(config))
    for name, content in files.items():
        (directory / name.replace("__", ".")).write_text(content)
    return text_of(small_config(vocab_size=vocabulary), carried(directory), directory.name)


@pytest.mark.parametrize("kind", KINDS)
def test_text_comes_back(kind: str, tmp_path: Path) -> None:
    known = text(tmp_path, KINDS[kind]())
    assert known.decode(known.encode(SAMPLE)) == SAMPLE
    assert known.encode(SAMPLE.encode()) == known.encode(SAMPLE)


@pytest.mark.parametrize("kind", KINDS)
def test_streams_hold_no_half_characters(kind: str, tmp_path: Path) -> None:
    known = text(tmp_path, KINDS[kind]())
    ids = known.encode(SAMPLE)
    stream = Stream(known)
    parts = [stream.add([number]) for number in ids]
    assert not any("\ufffd" in part for part in parts)
    assert "".join(parts) + stream.end() == SAMPLE
    assert {"€", "日", "🙂"} <= set(parts), "each as soon as its last byte came"
    for place in range(1, len(ids)):
        stream = Stream(known)
        assert stream.add(ids[:place]) + continuation(known, ids[:place], ids[place:]) == SAMPLE


@pytest.mark.parametrize("kind", KINDS)
def test_streams_of_broken_bytes_end(kind: str, tmp_path: Path) -> None:
    known = text(tmp_path, KINDS[kind]())
    euro = known.encode("€")[-3:]
    stream = Stream(known)
    shown = "".join(stream.add([number]) for number in (*euro, euro[1], *euro, euro[0]))
    if kind == "llama_like":  # a run of bytes is a text or it is none
        assert (shown, stream.end()) == ("€", "\ufffd" * 5)
    else:
        assert (shown, stream.end()) == ("€\ufffd€", "\ufffd")


def test_spaces_between_words_survive_where_decoders_drop_the_first(tmp_path: Path) -> None:
    known = text(tmp_path, llama_like())
    prompt, new = known.encode("ab"), known.encode("b")[1:]
    assert known.decode(new) == "b"
    assert continuation(known, prompt, new) == " b"


def around(tokenizer: Tokenizer) -> Tokenizer:
    """With a post-processor that puts the special tokens around a text."""
    first, last = "<|begin|>", "<|end|>"
    tokens = [(name, tokenizer.token_to_id(name)) for name in (first, last)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=tokens)
    return tokenizer


FLAGS: tuple[dict[str, Any], ...] = (
    {},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_bos_token": False, "add_eos_token": None},
    {"tokenizer_class": "GPTNeoXTokenizerFast"},
)


@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_first_and_last_tokens_are_the_tokenizers(flags: dict[str, Any], tmp_path: Path) -> None:
    """What tokenizer_config.json says beside it is not read; the test below has transformers say so."""
    named = {"bos_token": {"content": "<|begin|>"}, "eos_token": "<|end|>", **flags}
    for make, ends in ((byte_level(), ((), ())), (around(byte_level()), ((259,), (260,)))):
        known = text(tmp_path, make, named)
        before, behind = ((), ()) if "tokenizer_class" in flags else ends
        assert known.encode("b") == (*before, ALPHABET.index("b"), *behind)
        assert known.decode(known.encode("<|begin|>b")) == "b", "special tokens are read as such, and not shown"


def test_the_same_ids_as_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    template = "{{ bos_token }}{% if tools is not none or documents is not none %}!{% endif %}{% for m in messages %}[{{ m['role'] }}] {% generation %}{{ m['content'] | trim }}\n{% endgeneration %}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "chat_template": template,
    }
    made = [(make(), flags) for make in KINDS.values() for flags in FLAGS[:3]]
    for number, (tokenizer, flags) in enumerate([*((around(byte_level()), flags) for flags in FLAGS), *made]):
        directory = tmp_path / str(number)
        directory.mkdir()
        named = {"bos_token": "<s>", "eos_token": "</s>"} if tokenizer.token_to_id("<s>") is not None else {}
        known = text(directory, tokenizer, config | named | flags)
        (directory / "config.json").write_text('{"model_type": "llama"}')
        theirs = AutoTokenizer.from_pretrained(directory)
        assert known.encode(SAMPLE) == tuple(theirs(SAMPLE)["input_ids"])
        asked = [{"role": "user", "content": " abc "}]
        said = theirs.apply_chat_template(asked, add_generation_prompt=True, tokenize=False)
        assert known.chat(" abc ") == tuple(theirs(said, add_special_tokens=False)["input_ids"])
        assert known.decode(known.chat(" abc ")) == "[user] abc\n>"


def test_chat_templates(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"chat_template\.jinja"):
        text(tmp_path, byte_level()).chat("x")
    named = [{"name": "tool", "template": "no"}, {"name": "default", "template": "yes"}]
    known = text(tmp_path, byte_level(), {"chat_template": named})
    assert known.decode(known.chat("x")) == "yes"
    known = text(tmp_path, None, None, chat_template__jinja="{{ messages[0].content }}!")
    assert known.decode(known.chat("x")) == "x!", "the file of its own comes first"
    for messages in ([{"role": "user"}], [{"role": "user", "content": None}], ["a"], [{"content": "x"}]):
        with pytest.raises(
            ProgramError, match=r"a message is .*; accepted: a mapping with the text of its role and its content"
        ):
            known.chat(messages)  # type: ignore[arg-type]
    for bad in ("{{ raise_exception('no user') }}", "{% for", "{{ ''.__class__.__mro__ }}", "{{ messages[9].content }}"):
        with pytest.raises(ProgramError, match="its chat template fails") as failed:
            text(tmp_path, None, None, chat_template__jinja=bad).chat("x")
        assert "\n" not in str(failed.value)


def test_tokenizers_of_other_models_are_refused(tmp_path: Path) -> None:
    known = text(tmp_path, byte_level(), vocabulary=260)
    assert known.encode("<|begin|>") == (259,)
    with pytest.raises(ProgramError, match=r"tokenizer\.json: token '<\|end\|>' has id 260; accepted: ids below .* 260"):
        known.encode("a<|end|>")
    with pytest.raises(ProgramError, match=r"tokenizer\.json: its vocabulary has id 258; accepted: ids below .* 258"):
        text(tmp_path, None, vocabulary=258)
    with pytest.raises(ProgramError, match=r"tokenizer_config\.json: added_tokens_decoder gives '<\|end\|>' id 7"):
        text(tmp_path, None, {"added_tokens_decoder": {"7": {"content": "<|end|>"}}})
    with pytest.raises(ProgramError, match="is not UTF-8"):
        text(tmp_path, None, {}).encode(b"a\xff")
    with pytest.raises(ProgramError, match=r"tokenizer\.json: not a tokenizer"):
        text(tmp_path, None, tokenizer__json="version https://git-lfs.github.com/spec/v1\n")


def test_without_a_tokenizer_json_there_is_no_text(tmp_path: Path) -> None:
    assert carried(tmp_path) == {}
    for name in ("tokenizer.model", "vocab.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes(b"\xff{}" if name == "tokenizer.model" else b"{}")
        with pytest.raises(NoText, match=f"there is {name} and no tokenizer.json.*save_pretrained"):
            text(tmp_path, None)
        (tmp_path / name).unlink()


def test_truncation_and_padding_are_for_training(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64, pad_id=0, pad_token="!")
    assert text(tmp_path, tokenizer).encode("xyzxyzxyz") == byte_level_ids("xyzxyzxyz")


def byte_level_ids(plain: str) -> tuple[int, ...]:
    return tuple(byte_level().encode(plain).ids)


@pytest.mark.parametrize("kind", KINDS)
def test_a_passage_counts_every_byte_once(kind: str, tmp_path: Path) -> None:
    passage = text(tmp_path, KINDS[kind]()).passage(SAMPLE.encode())
    assert passage.head == ((1,) if kind == "llama_like" else ())
    assert passage.sizes is not None
    assert len(passage.sizes) == len(passage.ids)
    assert passage.sizes.sum() == len(SAMPLE.encode())
    assert (passage.sizes >= 0).all()
    assert passage.ids.dtype == np.int64


def test_a_tokens_bytes_are_those_up_to_the_next(tmp_path: Path) -> None:
    passage = text(tmp_path, byte_level()).passage("abc€ ab".encode())
    assert passage.sizes is not None
    assert passage.sizes.tolist() == [3, 0, 0, 3, 3], "of a character in parts, with the last of them"
