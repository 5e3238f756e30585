"""What files of policies say, and what is refused in them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compiler.frontend.policies import policies_of
from skipopu.errors import ProgramError
from skipopu.policy import ALWAYS, EXIT, NEVER, ROUTER, SKIP_POLICIES, TOP, everywhere
from tests.support import ANYTHING

PAGE = Path(__file__).parents[3] / "docs" / "policies.md"
FILE = """
decode: {ffn: exit}
layers:
  1: {attention: never}
  2-3: {prefill: {attention: always}, ffn: never}
  3: {decode: {ffn: always}}
"""
SAID = [
    ((ROUTER, ROUTER), (ROUTER, EXIT)),
    ((NEVER, ROUTER), (NEVER, EXIT)),
    ((ALWAYS, NEVER), (ROUTER, NEVER)),
    ((ALWAYS, NEVER), (ROUTER, ALWAYS)),
]


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_a_file_names_layers_modules_and_phases(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"policies{suffix}"
    path.write_text(FILE if suffix == ".yaml" else json.dumps(yaml.safe_load(FILE), indent="\t"))
    assert policies_of(path, 4, True) == SAID
    assert policies_of(yaml.safe_load(FILE), 4, True) == SAID


def test_the_pages_example() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    said = policies_of(yaml.safe_load(text), 8, True)
    assert (said[0], said[3], said[7]) == (
        ((ROUTER, ROUTER), (ROUTER, EXIT)),
        ((NEVER, ROUTER), (NEVER, EXIT)),
        ((ROUTER, ROUTER), (NEVER, EXIT)),
    )


def test_the_page_names_all_of_them() -> None:
    named = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (.*?) \|", PAGE.read_text(), re.M))))
    assert named == {policy.name for policy in SKIP_POLICIES}


def test_what_compares_a_prompts_tokens_leaves_decoding_to_the_router() -> None:
    top = TOP[1]
    assert policies_of({"ffn": top.name}, 1, True) == [((ROUTER, top), (ROUTER, ROUTER))]
    assert policies_of({"decode": {"ffn": "never"}, "prefill": {"ffn": top.name}}, 1, True) == [
        ((ROUTER, top), (ROUTER, NEVER))
    ]
    assert everywhere(top) == ((top, top), (ROUTER, ROUTER))


def test_what_is_left_out_is_the_models_own() -> None:
    assert policies_of(None, 2, True) == [everywhere(ROUTER)] * 2
    assert policies_of({}, 2, False) == [everywhere(ALWAYS)] * 2
    assert policies_of({"layers": {"1": {"ffn": "never"}}}, 2, False)[1] == ((ALWAYS, NEVER), (ALWAYS, NEVER))


@pytest.mark.parametrize(
    ("text", "routers", "message"),
    [
        ("[1]", True, ": the content is [1]; accepted: a mapping of names"),
        (
            "attention: {decode: never}",
            True,
            ": attention is {'decode': 'never'}; accepted: 'router' or 'always' or 'never' or",
        ),
        ("ffn: trace", True, ": ffn is 'trace'; accepted: 'router' or"),
        ("mlp: never", True, ": a key is 'mlp'; accepted: 'attention' or 'ffn' or 'prefill' or 'decode'"),
        ("decode: never", True, ": decode is 'never'; accepted: a mapping of names"),
        ("decode: {mlp: never}", True, ": decode: a key is 'mlp'; accepted: 'attention' or 'ffn'"),
        ("decode: {ffn: top2}", True, ": decode: ffn is 'top2', which compares tokens of a prompt; accepted: 'router'"),
        ("ffn: exit", False, ": ffn is 'exit', which asks routers; the model has none"),
        (
            "layers: {1: {decode: {ffn: router}}}",
            False,
            ": layer 1: decode: ffn is 'router', which asks routers; the model has none",
        ),
        ("layers: [never]", True, ": layers is ['never']; accepted: a mapping of layers, each a number or two as in 4-7"),
        ("layers: {x: {ffn: never}}", True, ": layers is {'x': {'ffn': 'never'}}; accepted: a mapping of layers"),
        ("layers: {2-1: {ffn: never}}", True, ": layers is {'2-1': {'ffn': 'never'}}; accepted: a mapping of layers"),
        ("layers: {3-4: {ffn: never}}", True, ": layer '3-4' is not among the model's 4; accepted: 0 to 3"),
        ("layers: {3: never}", True, ": layer 3 is 'never'; accepted: a mapping of names"),
        ("layers: {3: {both: never}}", True, ": layer 3: a key is 'both'; accepted: 'attention'"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, routers: bool, message: str) -> None:
    path = tmp_path / "policies.yaml"
    path.write_text(text)
    with pytest.raises(ProgramError, match=re.escape(f"{path}{message}")):
        policies_of(path, 4, routers)


@given(
    st.dictionaries(
        st.sampled_from(["attention", "prefill", "decode", "layers"]), ANYTHING | st.dictionaries(st.text("1-a"), ANYTHING)
    )
)
def test_any_other_content_is_refused_in_a_sentence(content: dict[str, Any]) -> None:
    try:
        found = policies_of(content, 4, True)
    except ProgramError as error:
        found = str(error).splitlines() * 4
    assert len(found) == 4
