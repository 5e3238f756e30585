"""Which chat template a checkpoint has, by its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from skipopu.errors import ProgramError
from tests.test_text import byte_level
from tests.tokenizers_like import compared, text_in, written

SAID = "{{ messages[0].content }}!"


def test_templates_are_those_of_transformers(tmp_path: Path) -> None:
    named = {"name": "default", "template": SAID}
    for number, given in enumerate((SAID, {"default": SAID, "b": ""}, [{"name": "default", "template": ""}, named])):
        compared(written(tmp_path / str(number), byte_level(), "llama", tokenizer_config__json={"chat_template": given}))
    directory = written(
        tmp_path, byte_level(), "llama", tokenizer_config__json={"chat_template": "no"}, chat_template__jinja="file"
    )
    compared(directory)
    (directory / "additional_chat_templates").mkdir()
    (directory / "additional_chat_templates/tool.jinja").write_text("no")
    compared(directory)
    (directory / "additional_chat_templates/default.jinja").write_text("\ufeff" + SAID)
    compared(directory)
    assert text_in(directory).render([{"role": "user", "content": "x"}]) == "\ufeffx!"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([{"name": ["a"], "template": "b"}], r"chat_template is .*; accepted: a template's text, or several by their names"),
        ({"default": 3}, r"chat_template is .*; accepted: a template's text"),
        ([{"name": "rag", "template": "b"}], r"chat_template has 'rag'; accepted: templates of which one is 'default'"),
        (None, r"no chat template: neither chat_template\.jinja nor"),
    ],
)
def test_what_is_no_template_is_refused(given: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=said):
        text_in(written(tmp_path, byte_level(), "llama", tokenizer_config__json={"chat_template": given})).chat("x")
