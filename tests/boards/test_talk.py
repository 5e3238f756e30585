"""``skipopu host --interactive``: conversations on a board behind a stand-in for XRT."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest

from compiler.pipeline import compile_checkpoint
from sim.conversation import Conversation
from skipopu.machine.config import Machine
from skipopu.program.program import Program
from skipopu.sampling import GREEDY, Sampling
from tests.boards.behind import CYCLES, Behind, alveo
from tests.support import random_checkpoint, said, small_config

CONFIG = small_config(
    hidden_size=32,
    intermediate_size=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    vocab_size=256,
    max_positions=128,
    byte_level=True,
)
MACHINE = dataclasses.replace(Machine.load("tiny"), ports=4)  # of every token a run can begin at
SAID = ("abcab", "def abc")


class Command:
    """The command on a board, of a program in a directory."""

    def __init__(
        self,
        program: Program,
        directory: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsysbinary: pytest.CaptureFixture[bytes],
    ) -> None:
        self.directory, self.monkeypatch, self.captured = directory, monkeypatch, capsysbinary
        program.save(directory)
        self.behind = Behind(program)
        alveo(self.behind, monkeypatch)
        self.record: dict[str, Any] = {}

    def __call__(self, lines: str, *options: object) -> tuple[int, str]:
        """Its code, and what it says; ``record`` is what it wrote."""
        figures = self.directory / "host.json"
        figures.unlink(missing_ok=True)
        self.behind.memory.clear()
        self.monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        board = ["--xclbin", "x.xclbin", "--device", 1]
        done = said(["host", self.directory, *board, "--max-new", 12, "--json", figures, *options], self.captured)
        if figures.exists():
            self.record = json.loads(figures.read_text())
        return done

    @property
    def turns(self) -> list[dict[str, Any]]:
        return self.record["outputs"]["turns"]

    def values(self, name: str) -> list[float]:
        return [record["value"] for record in self.record["records"] if record["name"] == name]


def program_of(logits: bool = False) -> Program:
    return compile_checkpoint(random_checkpoint(CONFIG, 2), MACHINE, context=100, logits=logits)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Command:
    return Command(program_of(), tmp_path, monkeypatch, capsysbinary)


def expected(program: Program, sampling: Sampling = GREEDY) -> list[tuple[int, ...]]:
    talk = Conversation(program, sampling)
    return [talk.ask(message, 12).tokens for message in SAID]


def test_two_turns(command: Command) -> None:
    code, told = command(f"{SAID[0]}\n{SAID[1]}\n/exit\nmore\n", "--interactive", "--check")
    assert code == 0, told
    turns = command.turns
    assert [tuple(turn["tokens"]) for turn in turns] == expected(command.behind.program)
    assert [turn["kept"] > 0 for turn in turns] == [False, True]
    assert command.behind.resets == 2, "of the first, and before"
    assert command.values("tokens_equal") == [1, 1]
    runs = command.behind.runs
    assert len(runs) == sum(turn["runs"] for turn in turns) == 24
    computed = sum(len(run.known) - run.first for run in runs)
    assert sum(command.values("cycles")) == CYCLES * computed
    assert told.count("tokens equal to the functional engine's") == 2
    second = turns[1]["prompt"], turns[1]["kept"]
    assert "{} prompt ({} kept) + 12 new tokens, ".format(*second) in told
    assert "prompt" not in command.record["inputs"]


def test_drafts_change_nothing(command: Command) -> None:
    lines = "".join(f"{message}\n" for message in SAID)
    assert command(lines, "--interactive")[0] == 0
    plain, alone = [turn["text"] for turn in command.turns], len(command.behind.runs)
    code, told = command(lines, "--interactive", "--speculate", "lookup", "--drafts", 3, "--check")
    assert code == 0, told
    assert [turn["text"] for turn in command.turns] == plain
    accepted = sum(turn["accepted"] for turn in command.turns)
    assert accepted > 0
    assert command.values("accepted_tokens") == [accepted]
    assert len(command.behind.runs) - alone == alone - accepted == command.values("runs")[0]
    assert f"{accepted} were accepted" in told


def test_a_wrong_board_is_told(command: Command) -> None:
    machine = command.behind
    execute = machine.execute

    def wrong() -> None:
        execute()
        place = machine.runs[-1].predicting(machine.program)
        machine.ports()[0][place.start] ^= 1

    command.monkeypatch.setattr(machine, "execute", wrong)
    code, told = command("abc\n", "--interactive", "--check")
    assert (code, command.values("tokens_equal")) == (1, [0])
    assert "tokens differ from the functional engine's" in told


def test_turns_are_taken_back_and_stopped(command: Command) -> None:
    assert command("abc\n/undo\nabc\n", "--interactive")[0] == 0
    (turn,) = command.turns
    assert turn["kept"] == 2, "the message is there, but for its last token's logits"
    stop = turn["text"][4]
    code, _ = command("abc\n", "--interactive", "--stop", stop, "--check")
    assert (code, command.turns[0]["ended"]) == (0, "stop")
    assert command.turns[0]["text"] == turn["text"][: turn["text"].index(stop)]


def test_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    command = Command(program_of(logits=True), tmp_path / "with", monkeypatch, capsysbinary)
    options = ["--interactive", "--temperature", 1.3, "--top-k", 9, "--seed", 5]
    code, told = command("".join(f"{message}\n" for message in SAID), *options, "--check")
    assert code == 0, told
    drawn = expected(command.behind.program, Sampling(1.3, 9, seed=5))
    assert [tuple(turn["tokens"]) for turn in command.turns] == drawn != expected(command.behind.program)
    without = Command(program_of(), tmp_path / "without", monkeypatch, capsysbinary)
    code, told = without("abc\n", *options)
    assert code == 2
    assert "compiled without --logits" in told


def test_options_of_the_other_kind_are_refused(command: Command) -> None:
    for options in (
        ["--system", "x"],
        ["--raw"],
        ["--stop", "x"],
        ["--temperature", 1],
        ["--top-k", 1],
        ["--top-p", 0.5],
        ["--repetition-penalty", 2],
        ["--speculate", "lookup"],
        ["--drafts", 2],
    ):
        code, told = command("", *options)
        assert (code, f"{options[0]} is of --interactive, which was not given" in told) == (2, True), told
    for options in (["--prompt", "x"], ["--tokens", "1"], ["--chat"], ["--skip", "0.5"], ["--skip-trace", "x.npy"]):
        code, told = command("", "--interactive", *options)
        assert (code, f"{options[0]} has no effect: --interactive is a conversation" in told) == (2, True), told
    for options, message in (
        (["--max-new", 0], "--max-new is 0; an answer has 1 token or more"),
        (["--raw", "--system", "x"], "--system stands in the chat template, which --raw leaves out"),
        (["--system", "x"], "a system's message needs a chat template"),
        (["--seed", 1], "--seed has no effect without --temperature"),
        (["--drafts", 2], "--drafts is of --speculate, which was not given"),
        (["--policy", "always", "--dial", 1], "dial is 1.0; it has no effect"),
    ):
        code, told = command("", "--interactive", *options)
        assert (code, message in told) == (2, True), told
    assert not command.behind.memory, "nothing is loaded before"
    code, told = command("", "--seed", 1)
    assert "--seed is of random routing" in told
