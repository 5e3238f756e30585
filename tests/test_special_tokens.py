"""Special and added tokens come from the files, and in the order, that transformers takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.test_text import around, byte_level
from tests.tokenizers_like import compared, refusal, written

TEMPLATE = "{{ bos_token }}{{ eos_token }}{{ pad_token }}{{ image_token }}<|end|>\n{{ messages[0].content }}"
NAMED = {"bos_token": "<|begin|>", "eos_token": "<|end|>", "chat_template": TEMPLATE}


def flags(content: str, **changed: bool) -> dict[str, Any]:
    return {
        "content": content,
        **dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), False),
        "special": True,
    } | changed


DECODER = {"259": flags("<|begin|>"), "260": flags("<|end|>")}
STRIPPING = {"added_tokens_decoder": DECODER | {"260": flags("<|end|>", rstrip=True)}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "map before config": ({}, {"special_tokens_map__json": {"eos_token": "<|begin|>", "bos_token": flags("<|end|>")}}),
    "config with decoder": ({"added_tokens_decoder": DECODER}, {"special_tokens_map__json": {"eos_token": "<|begin|>"}}),
    "flags": (STRIPPING, {}),
    "not special": ({"added_tokens_decoder": DECODER | {"260": flags("<|end|>", special=False)}, "eos_token": None}, {}),
    "new token": ({"added_tokens_decoder": DECODER | {"261": flags("<s>")}}, {}),
    "bos absent from the vocabulary": ({"bos_token": "<s>", "pad_token": "</s>"}, {}),
    "additional": ({"additional_special_tokens": ["<s>", "<|x|>"]}, {}),
    "additional in the map": ({}, {"special_tokens_map__json": {"additional_special_tokens": ["<|x|>"]}}),
    "extra in both": ({"extra_special_tokens": ["</s>"]}, {"special_tokens_map__json": {"extra_special_tokens": ["<s>"]}}),
    "added_tokens.json": ({}, {"added_tokens__json": {"<|x|>": 262, "<s>": 261}}),
    "named extra": ({"extra_special_tokens": {"image_token": "<|x|>"}}, {}),
    "specific": ({"model_specific_special_tokens": {"image_token": "<|x|>"}}, {}),
    "named otherwise": ({"image_token": {"__type": "AddedToken", "content": "<|x|>", "lstrip": True}}, {}),
}


@pytest.mark.parametrize("named", ["PreTrainedTokenizerFast", "Qwen2Tokenizer", "GPT2Tokenizer"])
@pytest.mark.parametrize("case", CASES)
def test_tokens_are_those_of_transformers(case: str, named: str, tmp_path: Path) -> None:
    config, files = CASES[case]
    told = {"tokenizer_class": named, **NAMED, **config}
    compared(written(tmp_path, around(byte_level()), "llama", tokenizer_config__json=told, **files))


def test_padding_of_the_tokenizers_own_names_a_token(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_padding(pad_token="<s>", pad_id=0)
    compared(written(tmp_path, tokenizer, "llama", tokenizer_config__json=NAMED))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (
            {"added_tokens_decoder": {"400": flags("<s>")}},
            "added_tokens_decoder gives '<s>' id 400; tokenizer.json gives it 261",
        ),
        ({"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder is {'x': {}}; accepted: a mapping of ids to tokens"),
        ({"added_tokens_decoder": {"0": "a"}}, "added_tokens_decoder: 0 is 'a'; accepted: a token's text, or its content"),
        ({"bos_token": 3}, "bos_token is 3; accepted: a token's text"),
        ({"eos_token": "\ud800"}, "eos_token is '\\ud800'; accepted: a token's text"),
        (
            {"added_tokens_decoder": {"0": {"content": "\udfff"}}},
            "added_tokens_decoder: 0 is '\\udfff'; accepted: a token's text",
        ),
        ({"extra_special_tokens": "a"}, "extra_special_tokens is 'a'; accepted: a list of tokens"),
        ({"model_specific_special_tokens": [1]}, "model_specific_special_tokens is [1]; accepted: a mapping"),
    ],
    ids=str,
)
def test_what_is_no_token_is_refused(config: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert f"tokenizer_config.json: {said}" in refusal(written(tmp_path, byte_level(), "llama", tokenizer_config__json=config))
