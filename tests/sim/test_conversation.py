"""Conversations on the functional engine, by the class and by the command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from compiler.frontend.checkpoint import load
from compiler.pipeline import compile_checkpoint
from sim.conversation import Answer, Conversation
from sim.functional import engine as functional
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.program.run import Run
from skipopu.sampling import Sampling
from tests.support import random_checkpoint, said, small_config
from tests.test_text import llama_like

pytestmark = pytest.mark.slow
DRAWN = Sampling(temperature=0.9, top_k=20, top_p=0.95, repetition_penalty=1.1, seed=7)


@pytest.fixture(scope="module")
def program() -> Program:
    return compile_checkpoint(load(Path("models/pybyte-1m")), Machine.load("tiny"), context=160)


@pytest.mark.parametrize("sampling", [Sampling(), DRAWN])
def test_every_turn_is_that_of_one_long_run(program: Program, sampling: Sampling) -> None:
    talk, shown = Conversation(program, sampling), []
    for message in ("def read(self", ", size):\n", "# then\n"):
        turn = talk.ask(message, 12, shown.append)
        assert "".join(shown[-13:]).endswith(turn.text)
        whole = functional.run(program, Run(turn.prompt, 12)).tokens
        if sampling.greedy:
            assert list(turn.tokens) == whole
    assert [turn.kept > 0 for turn in talk.turns] == [False, True, True]
    assert talk.turns[2].prompt[: len(talk.turns[1].prompt)] == talk.turns[1].prompt
    again = Conversation(program, sampling)
    assert again.ask("def read(self", 12) == talk.turns[0]
    alone = Conversation(program, sampling)
    alone.turns.append(talk.turns[0])
    assert alone.ask(", size):\n", 12).tokens == talk.turns[1].tokens, "nothing kept, the same draw"


def test_messages_go_into_the_template(tmp_path: Path) -> None:
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}|{% endfor %}"
    config = small_config(head_dim=16, vocab_size=266, max_positions=256)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    save_file(dict(random_checkpoint(config).tensors), tmp_path / "model.safetensors")
    llama_like().save(str(tmp_path / "tokenizer.json"))
    spoken = compile_checkpoint(load(tmp_path), Machine.load("tiny"), context=200)
    talk = Conversation(spoken, system="ab", template=True)
    talk.ask("ba", 4)
    turn = talk.ask("bb", 4)
    assert spoken.text.decode(turn.prompt).split("|")[0] == "system: ab"
    assert turn.prompt == spoken.text.chat(
        [
            {"role": "system", "content": "ab"},
            {"role": "user", "content": "ba"},
            {"role": "assistant", "content": talk.turns[0].text},
            {"role": "user", "content": "bb"},
        ]
    )
    assert 0 < turn.kept < len(turn.prompt)
    assert list(turn.tokens) == functional.run(spoken, Run(turn.prompt, 4)).tokens
    raw = Conversation(spoken)
    first = raw.ask("ab", 3)
    assert raw.ask("ba", 3).prompt == (*first.prompt, *first.tokens, *spoken.text.inside("ba"))
    assert first.prompt == spoken.text.encode("ab")


def test_a_cap_of_the_logits_counts() -> None:
    """Sampling sees what the model gives, not what the machine compares."""
    config = small_config(num_layers=2, logit_cap=1.0, head_dim=16, vocab_size=256, byte_level=True, max_positions=64)
    capped = compile_checkpoint(random_checkpoint(config, 1), Machine.load("tiny"), context=32)
    talk = Conversation(capped, Sampling(temperature=0.01, seed=3))
    heard: list[float] = []
    draw = Sampling.choose

    def choose(self: Sampling, logits: np.ndarray, before: Sequence[int]) -> int:
        heard.append(float(abs(logits).max()))
        return draw(self, logits, before)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Sampling, "choose", choose)
        talk.ask("abc", 4)
    assert 0 < max(heard) < 1


def test_an_interrupt_ends_an_answer(program: Program) -> None:
    talk, shown = Conversation(program), []

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 4:
            raise KeyboardInterrupt

    turn = talk.ask("def read(self", 40, show)
    assert (turn.ended, len(turn.tokens)) == ("interrupted", 4)
    following = talk.ask(":", 4)
    assert list(following.tokens) == functional.run(program, Run(following.prompt, 4)).tokens
    assert talk.ask("x" * 60, 128).ended == "context"
    stopped = Conversation(program, stop="e").ask("def read(s", 40)
    assert stopped.ended == "stop"
    assert "e" not in stopped.text


def test_undo_goes_back(program: Program) -> None:
    talk = Conversation(program, DRAWN)
    first, second = talk.ask("class A", 8), talk.ask("(B):", 8)
    assert talk.undo()
    assert talk.ask("(B):", 8).tokens == second.tokens
    assert talk.undo()
    assert talk.undo()
    assert not talk.undo()
    assert talk.ask("class A", 8).tokens == first.tokens


def test_the_end_of_the_context(program: Program) -> None:
    talk = Conversation(program)
    assert len(talk.ask("x" * 150, 64).tokens) == 10
    with pytest.raises(ProgramError, match="the conversation has 161 tokens with this message; the program's context of 160"):
        talk.ask("y", 1)
    with pytest.raises(ProgramError, match="a system's message needs a chat template"):
        Conversation(program, system="be brief")
    with pytest.raises(ProgramError, match="a stop string is ''; accepted: text that is not empty"):
        Conversation(program, stop=("",))
    with pytest.raises(ProgramError, match="the message is empty"):
        Conversation(program).ask("", 1)
    with pytest.raises(ProgramError, match="max_new is 0; accepted: an integer from 1"):
        Conversation(program).ask("a", 0)
    with pytest.raises(ProgramError, match=r"message is \[1\]; accepted: text"):
        Conversation(program).ask([1])  # type: ignore[arg-type]
    with pytest.raises(ProgramError, match=r"dial is 0\.3; it has no effect"):
        Conversation(program, policy="always", dial=0.3)


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), max_size=2), st.data())
def test_stop_strings_never_show(text: str, stop: list[str], data: st.DataObject) -> None:
    answer, shown, at = Answer(tuple(stop)), "", 0
    while at < len(text) and not answer.stopped:
        size = data.draw(st.integers(1, 4))
        shown += answer.add(text[at : at + size], last=at + size >= len(text))
        at += size
        assert not any(word in shown for word in stop)
    ends = [place for word in stop if (place := text.find(word)) >= 0]
    assert shown == answer.text
    assert answer.stopped == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert len(shown) <= max(ends)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    import io

    figures = tmp_path / "figures.json"

    def outcome(lines: str, *options: object) -> list[dict]:
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        code, error = said(["chat", "pybyte-1m", "--max-new", 8, "--json", figures, *options], capsysbinary)
        assert code == 0, error
        return json.loads(figures.read_text())["outputs"]["turns"]

    turns = outcome("\ndef f(x\r\n):\n /undo\n\n):\n/udno\n")
    assert [turn["ended"] for turn in turns] == ["length"] * 2
    assert [turn["kept"] > 0 for turn in turns] == [False, True]
    assert outcome("def f(x\n):\n") == turns
    assert outcome("/help\n/undo\n/clear\n") == []
    assert outcome("//x\n")[0]["message"] == "/x"
    drawn = ["--temperature", 1.2, "--seed", 3]
    assert outcome("def f(x\n", *drawn) == outcome("def f(x\n/exit\nmore\n", *drawn) != turns[:1]
    for options, message in (
        (["--temperature", 1, "--top-p", 0], "argument --top-p: '0' is not accepted; a ratio above 0"),
        (["--top-k", 2, "--seed", 4], "--top-k has no effect without --temperature"),
        (["--system", "x"], "a system's message needs a chat template"),
        (["--policy", "always", "--dial", 1], "dial is 1.0; it has no effect"),
    ):
        code, error = said(["chat", "pybyte-1m", *options], capsysbinary)
        assert code == 2
        assert message in error
