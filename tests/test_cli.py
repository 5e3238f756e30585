"""The command line: help everywhere, one-sentence errors, JSON records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from sim.engine import Result
from sim.functional import engine as functional
from skipopu import cli
from skipopu.report import Record
from tests.support import random_checkpoint, small_config


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = small_config(head_dim=16, vocab_size=256, byte_level=True)
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(config.to_hf()))
    save_file(random_checkpoint(config).tensors, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_compile_run_and_eval(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    out = tmp_path / "program"
    assert cli.main(["compile", str(model), "-o", str(out), "--kv", "dense", "--logits"]) == 0
    assert "layer: mlp.down_proj" in (out / "listing.txt").read_text()
    report = json.loads((out / "report.json").read_text())
    assert report["command"] == "compile"
    assert {"name", "value", "unit", "kind", "source"} <= set(report["records"][0])
    figures = tmp_path / "run.json"
    assert cli.main(["run", str(out), "--prompt", "ab", "--max-new", "3", "--json", str(figures)]) == 0
    assert cli.main(["run", str(out), "--prompt", "ab", "--max-new", "3", "--engine", "timing", "--profile"]) == 0
    assert cli.main(["run", str(out), "--prompt", "ab", "--max-new", "3", "--engine", "reference", "--skip", "0.5"]) == 0
    names = {r["name"] for r in json.loads(figures.read_text())["records"]}
    assert names == {"wall_s", "executed_share"}
    text = tmp_path / "text"
    text.write_bytes(bytes(range(64)))
    capsysbinary.readouterr()
    values = []
    for engine in ("functional", "reference"):
        assert cli.main(["eval", str(out), "--text", str(text), "--engine", engine, "--window", "16"]) == 0
        values.append(float(capsysbinary.readouterr().out.split()[0]))
    assert abs(values[0] - values[1]) < 0.01


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "nowhere", "-o", "x"], "config.json: no such file"),
        (["run", "MODEL", "--target", "huge"], "target 'huge' is not known; accepted:"),
        (["run", "MODEL", "--skip", "1.5"], "--skip is '1.5'; accepted: a ratio in 0..1"),
        (["run", "MODEL", "--max-new", "4", "--waves", "w.vcd"], "need --engine rtl, not functional"),
        (["run", "MODEL", "--max-new", "5000"], "exceeds the program's context"),
        (["run", "MODEL", "--tokens", "1,x"], "comma-separated integers are needed"),
        (["eval", "MODEL", "--text", "nowhere"], "nowhere: cannot be read"),
        (["hdl", "--target", "nowhere.yaml", "-o", "x"], "no such file"),
        (["isa", "--assemble", "nowhere"], "cannot be read as text"),
    ],
)
def test_errors_are_one_sentence(model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([str(model) if a == "MODEL" else a for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_profile_timeline_and_shape(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    trace = tmp_path / "trace.json"
    run = ["run", str(model), "--target", "tiny", "--prompt", "ab", "--max-new", "2"]
    assert cli.main([*run, "--engine", "timing", "--profile", "--timeline", str(trace)]) == 0
    assert b"exposed" in capsysbinary.readouterr().err
    assert json.loads(trace.read_text())["traceEvents"]
    assert cli.main([*run, "--engine", "functional", "--profile"]) == 2
    assert b"--profile needs --engine timing or rtl" in capsysbinary.readouterr().err
    assert cli.main([*run, "--engine", "rtl", "--timeline", str(trace)]) == 2
    assert b"--timeline needs --engine timing" in capsysbinary.readouterr().err
    out = tmp_path / "shape"
    assert cli.main(["compile", "--shape", "llama-2-7b", "--target", "u280", "-o", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["listing.txt", "report.json"]
    assert cli.main(["compile", "-o", str(out)]) == 2
    assert b"--shape NAME" in capsysbinary.readouterr().err


def test_check_passes_and_fails_by_exit_code(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out.json"
    arguments = ["check", str(model), "--prompt", "abc", "--max-new", "2", "--no-rtl", "--json", str(out)]
    assert cli.main(arguments) == 0
    names = {r["name"] for r in json.loads(out.read_text())["records"]}
    assert {"tokens_equal", "routing_differing", "executed_share", "cycles", "bytes_read"} <= names
    honest = functional.run

    def wrong_token(*args: object, **options: object) -> Result:
        result = honest(*args, **options)  # type: ignore[arg-type]
        result.tokens[0] = (result.tokens[0] + 1) % 256
        return result

    monkeypatch.setattr(functional, "run", wrong_token)
    assert cli.main(arguments) == 1


def test_records_know_their_kind() -> None:
    with pytest.raises(ValueError, match="kind 'guessed'"):
        Record("cycles", 1, "cycle", "guessed", "nowhere")
