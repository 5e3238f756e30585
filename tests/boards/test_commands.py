"""``skipopu boards``, ``build`` and ``host`` as users call them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from boards import board
from skipopu.cli import main

MODEL = Path(__file__).parents[2] / "models" / "pybyte-300k"


def records(path: Path) -> dict[str, object]:
    return {r["name"]: r["value"] for r in json.loads(path.read_text())["records"]}


@pytest.fixture(autouse=True)
def present(monkeypatch: pytest.MonkeyPatch) -> None:
    """Committed resources are taken to be of the present design: to see that they are takes longer than these tests."""
    held = {json.loads(path.read_text())["inputs"]["target"]: path for path in board.COMMITTED.glob("*.json")}
    recorded = {name: json.loads(path.read_text())["inputs"]["structure"] for name, path in held.items()}
    monkeypatch.setattr(board, "structure_of", lambda machine: recorded[machine.name])


def test_resources_of_an_earlier_design_are_said_to_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "boards.json"
    arguments = ["boards", "ulx3s", "--shape", "pybyte-300k", "--json", str(out)]
    assert main(arguments) == 0
    assert "earlier design" not in capsys.readouterr().out + out.read_text()
    monkeypatch.setattr(board, "structure_of", lambda machine: "another")
    assert main(arguments) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Resources of ulx3s are of an earlier design, not of the present one; skipopu hdl --target ulx3s --report" in said
    sources = {r["source"] for r in json.loads(out.read_text())["records"] if r["kind"] == "synthesised"}
    assert sources == {"skipopu hdl --report, of an earlier design, board file"}


@pytest.mark.slow
def test_boards_lists_fit_and_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "boards.json"
    assert main(["boards", "ulx3s", "u280", "--shape", "pybyte-300k", "--shape", "llama-2-7b", "--json", str(out)]) == 0
    text, told = capsys.readouterr()
    assert "timing engine: 4 of 4, " in told
    assert "llama-2-7b on ulx3s: machine ulx3s: the number of key-value heads is 32; accepted: 1\n" in text
    assert "does not fit" in text, "a 7B model on an ULX3S, groups of 48 weights on ports of 128"
    rates = {
        (r["system"], r["model"]): r["value"]
        for r in json.loads(out.read_text())["records"]
        if r["name"] == "decode_tokens_per_s"
    }
    assert set(rates) == {("ulx3s", "pybyte-300k"), ("u280", "llama-2-7b")}
    assert 500 < rates["ulx3s", "pybyte-300k"] < 5000
    assert 100 < rates["u280", "llama-2-7b"] < 200


def test_boards_refuses_with_both_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["boards", "u50", "--target", "u280"]) == 1
    assert main(["boards", "nope"]) == 2
    assert main(["boards", "--shape", "nope"]) == 2
    with pytest.raises(SystemExit):
        main(["boards", "--skip", "2"])
    text = capsys.readouterr().err
    assert "argument --skip: '2' is not accepted; a ratio in 0..1" in text
    assert "board 'nope' is not known; accepted: kv260" in text
    assert "model 'nope' is not known; accepted: llama-2-7b" in text


def test_build_checks_the_fit_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["build", "--board", "u50", "--target", "u280", "-o", str(out)]) == 2
    assert re.search(r"machine u280 does not fit AMD Alveo U50: lut 9\d{5}, available 871680", capsys.readouterr().err)
    assert not out.exists()


@pytest.mark.slow
def test_build_writes_a_vendor_project(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["build", "--board", "kv260", "-o", str(out), "--json", str(tmp_path / "build.json")]) == 0
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "build.tcl",
        "package.tcl",
        "registers.csv",
        "skipopu.h",
        "skipopu_shell.v",
    }
    assert records(tmp_path / "build.json")["project_bytes"] == sum(path.stat().st_size for path in out.iterdir())


def test_host_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["host", str(MODEL), "--port", str(tmp_path / "nothing"), "--max-new", "1"]) == 2
    assert "nothing: cannot be opened" in capsys.readouterr().err
    assert main(["host", str(MODEL), "--xclbin", "x", "--max-new", "1"]) == 2
    assert "pyxrt is not installed" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["host", str(MODEL)])
    assert "one of the arguments --port --simulate --xclbin --overlay is required" in capsys.readouterr().err


@pytest.mark.rtl
def test_host_on_the_simulation(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Compile, load, prompt and compare, through the command line."""
    out = tmp_path / "host.json"
    arguments = ["host", str(MODEL), "--simulate", "--prompt", "class ", "--max-new", "4", "--check", "--json", str(out)]
    assert main(arguments) == 0
    assert capfdbinary.readouterr().out.startswith(b"class ")
    assert records(out)["tokens_equal"] == 1
