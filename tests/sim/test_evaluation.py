"""Losses: the same by stored logits, by parts of a vocabulary, by PyTorch; ids and text that the vocabulary does not hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from compiler.pipeline import compile_checkpoint
from sim.evaluation import Loss, evaluate, windows_of
from sim.functional import engine as functional
from sim.reference import engine as reference
from sim.result import logits_of
from skipopu.errors import ProgramError
from skipopu.machine.config import Machine
from skipopu.program.run import Run
from skipopu.text import Passage
from tests.support import random_checkpoint, said, small_config
from tests.test_text import byte_level, llama_like

IDS = np.random.default_rng(3).integers(0, 70, 21)


def test_parts_of_a_vocabulary_give_the_whole_loss() -> None:
    logits = np.random.default_rng(0).normal(0, 30, (5, 40)).astype(np.float32)
    targets = np.array([0, 39, 17, 16, 5])
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets), reduction="sum")
    padded = np.pad(logits, ((0, 0), (0, 8)), constant_values=1e6)  # rows of a head beyond the vocabulary
    loss = Loss(targets, 40)
    for first in (16, 0, 32):
        for rows in (np.arange(2), np.arange(2, 5)):
            loss.add(rows, first, padded[rows, first : first + 16])
    loss.add(np.array([5]), 0, padded[:1])  # a position without a target
    assert loss.nats() == pytest.approx(float(expected), rel=1e-6)


def test_the_loss_is_that_of_stored_logits() -> None:
    checkpoint = random_checkpoint(small_config(), 1)
    program = compile_checkpoint(checkpoint, Machine.load("tiny"), context=24)
    stored = compile_checkpoint(checkpoint, Machine.load("tiny"), context=24, logits=True)
    found = evaluate(program, Passage(IDS, None), "functional", 24, False)
    result = functional.run(stored, Run(tuple(IDS.tolist()), 0))
    logits = torch.from_numpy(logits_of(stored, result, len(IDS))).double()
    expected = torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(IDS[1:]), reduction="sum")
    assert found.nats == pytest.approx(float(expected), rel=1e-12)
    assert (found.tokens, found.bytes, found.bits_per_byte) == (20, None, None)
    assert found.executed_share == result.executed_share
    assert evaluate(stored, Passage(IDS, None), "functional", 24, False) == found
    exact = evaluate(program, Passage(IDS, None), "reference", 24, False)
    assert exact.nats == pytest.approx(found.nats, rel=1e-3)


def test_a_cap_of_logits_counts() -> None:
    """The machine has no need of it, a loss has."""
    config = small_config(logit_cap=0.05)
    program = compile_checkpoint(random_checkpoint(config, 1), Machine.load("tiny"), context=24)
    found, exact = (evaluate(program, Passage(IDS, None), engine, 24, False).nats for engine in ("functional", "reference"))
    assert found == pytest.approx(exact, rel=1e-4)
    plain = compile_checkpoint(random_checkpoint(small_config(), 1), Machine.load("tiny"), context=24)
    assert abs(evaluate(plain, Passage(IDS, None), "functional", 24, False).nats / exact - 1) > 1e-3


def test_windows_start_with_the_head_of_a_text() -> None:
    program = compile_checkpoint(random_checkpoint(small_config(), 1), Machine.load("tiny"), context=24)
    sizes = np.arange(21)
    found = evaluate(program, Passage(IDS, sizes, (7,)), "reference", 11, False)
    assert (found.tokens, found.bytes) == (21, sizes.sum()), "every token is predicted, the first ones behind the head"
    model, total = reference.model_of(program), 0.0
    for part in (IDS[:10], IDS[10:20], IDS[20:]):
        ids = torch.tensor([[7, *part]])
        out = reference.forward(program, model, ids, Run(tuple(ids[0].tolist())))
        total += float(torch.nn.functional.cross_entropy(out.logits[0, :-1], ids[0, 1:], reduction="sum"))
    assert found.nats == pytest.approx(total, rel=1e-5)
    headless = evaluate(program, Passage(IDS, sizes), "reference", 11, False)
    assert (headless.tokens, headless.bytes) == (19, sizes.sum() - sizes[0] - sizes[11])
    with pytest.raises(ProgramError, match="there are 1 tokens"):
        windows_of(Passage(IDS[:1], None), 8)


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A checkpoint with a tokenizer like Llama's."""
    config = small_config(head_dim=16, vocab_size=266)
    directory = tmp_path / "spoken"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": "<s>{{ messages[0].content }}"}))
    save_file(random_checkpoint(config).tensors, directory / "model.safetensors")
    llama_like().save(str(directory / "tokenizer.json"))
    return directory


def test_text_reaches_every_command(spoken: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    figures, out, text = tmp_path / "figures.json", tmp_path / "out", tmp_path / "text"
    text.write_text("ab ab €\n" * 4)

    def outcome(*command: object) -> dict:
        code, error = said([*command, "--json", figures], capsysbinary)
        assert code == 0, error
        return json.loads(figures.read_text())

    ran = outcome("run", spoken, "--prompt", "ab a", "--max-new", 6)
    assert ran["inputs"]["tokens"][0] == 1
    assert isinstance(ran["outputs"]["text"], str)
    assert outcome("check", spoken, "--prompt", "ab a", "--max-new", 6, "--no-rtl")["outputs"] == ran["outputs"]
    chat = outcome("run", spoken, "--prompt", "ab a", "--max-new", 2, "--chat")
    assert chat["inputs"]["tokens"] == ran["inputs"]["tokens"], "the template's first token stands for the tokenizer's own"
    evaluated = outcome("eval", spoken, "--text", text)
    values = {record["name"]: record["value"] for record in evaluated["records"]}
    tokens, size = evaluated["outputs"]["predicted_tokens"], evaluated["outputs"]["predicted_bytes"]
    assert size == len(text.read_bytes())
    assert values["bits_per_byte"] == pytest.approx(values["nats_per_token"] * tokens / np.log(2) / size)
    # A compiled program is by itself: it knows its tokenizer.
    outcome("compile", spoken, "-o", out)
    for file in spoken.iterdir():
        file.unlink()
    assert outcome("run", out, "--prompt", "ab a", "--max-new", 6)["outputs"] == ran["outputs"]
    again = outcome("eval", out, "--text", text)
    assert again["records"][0] == evaluated["records"][0]


def test_what_a_vocabulary_does_not_hold_is_said_first(
    spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (spoken / "model.safetensors").unlink()  # nothing is compiled
    ids = tmp_path / "ids.npy"
    for wrong, sentence in (
        (np.array([1, 266]), "holds 266; accepted: ids below the model's vocab_size, 266"),
        (np.array([-1]), "holds -1"),
        (np.array([0.5]), "float64 of shape (1,)"),
        (np.array([[1, 2]]), "of shape (1, 2)"),
        (np.array([], int), "of shape (0,)"),
    ):
        np.save(ids, wrong)
        code, error = said(["eval", spoken, "--tokens", ids], capsysbinary)
        assert code == 2
        assert sentence in error
    for text in ("", "1 2 x", "[1, 2", '["a"]', "[[1], [2]]", "[1e3]", "9" * 30):
        ids.with_suffix(".json").write_text(text)
        code, error = said(["eval", spoken, "--tokens", ids.with_suffix(".json")], capsysbinary)
        assert code == 2
        assert "accepted: " in error
    tokenizer = byte_level()
    tokenizer.add_tokens([f"more{k}" for k in range(9)])
    tokenizer.save(str(spoken / "tokenizer.json"))
    text = tmp_path / "text"
    text.write_text("a more8 b")
    code, error = said(["eval", spoken, "--text", text], capsysbinary)
    assert code == 2
    assert "spoken/tokenizer.json: token 'more8' has id 269; accepted: ids below config.json's vocab_size, 266" in error


def test_ids_from_files(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    figures, found = tmp_path / "figures.json", []
    np.save(tmp_path / "ids.npy", IDS.astype(np.uint16))
    (tmp_path / "ids.json").write_text(json.dumps(IDS.tolist()))
    (tmp_path / "ids.txt").write_text("\n".join(map(str, IDS)))
    (tmp_path / "ids.bin").write_bytes(IDS.astype(np.uint8).tobytes())
    for option in (["--tokens", "ids.npy"], ["--tokens", "ids.json"], ["--tokens", "ids.txt"], ["--text", "ids.bin"]):
        assert said(["eval", model, option[0], tmp_path / option[1], "--json", figures], capsysbinary)[0] == 0
        found.append([r["value"] for r in json.loads(figures.read_text())["records"] if r["name"] != "wall_s"])
    assert all(values == found[0] for values in found)


def test_a_reference_that_is_not_finite_fails(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    config = small_config(head_dim=16, vocab_size=256, byte_level=True)
    tensors = random_checkpoint(config, 0).tensors
    save_file({n: t * np.float32(1e5 if "v_proj" in n else 1) for n, t in tensors.items()}, model / "model.safetensors")
    figures = tmp_path / "figures.json"
    np.save(tmp_path / "ids.npy", IDS)
    evaluated = ["eval", model, "--tokens", tmp_path / "ids.npy", "--engine", "reference", "--json", figures]
    assert said(evaluated, capsysbinary)[0] == 1
    assert json.loads(figures.read_text())["records"][0]["value"] is None
    code, error = said(["check", model, "--no-rtl", "--max-new", "2", "--json", figures], capsysbinary)
    assert code == 1
    assert "NaN or infinite" in error
    assert "saturated" in error
    told = {r["engine"]: r["value"] for r in json.loads(figures.read_text())["records"] if r["name"] == "saturated"}
    assert told == {"reference": 1, "functional": 1}


@pytest.mark.slow
def test_vocabularies_beyond_a_products_rounds(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    config = small_config(hidden_size=32, num_layers=1, vocab_size=70_000, byte_level=True)
    (tmp_path / "config.json").write_text(json.dumps(config.to_hf()))
    save_file(random_checkpoint(config).tensors, tmp_path / "model.safetensors")
    np.save(tmp_path / "ids.npy", [69_999, 3, 40_000, 65_536])
    values = []
    for engine in ("functional", "reference"):
        command = ["eval", tmp_path, "--tokens", tmp_path / "ids.npy", "--engine", engine, "--json", tmp_path / "figures.json"]
        code, error = said(command, capsysbinary)
        assert code == 0, error
        values.append(json.loads((tmp_path / "figures.json").read_text())["records"][0]["value"])
    assert values[0] == pytest.approx(values[1], rel=1e-4)
