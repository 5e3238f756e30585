"""The command line: help everywhere, one-sentence errors."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from skipopu import cli
from tests.support import said


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "nowhere", "-o", "x"], "config.json: no such file"),
        (["run", "MODEL", "--target", "huge"], "target 'huge' is not known; accepted:"),
        (["run", "MODEL", "--skip", "1.5"], "--skip is '1.5'; accepted: a ratio in 0..1"),
        (
            ["run", "pybyte-300k"],
            "machine tiny: weight group is 48; accepted: 8, 16 or a multiple of 32 from 32 to 512; the model fits --target",
        ),
        (["compile", "pybyte-300k", "--group", "48", "-o", "x"], "the model fits --target mono or ulx3s"),
        (["run", "pybyte-300k", "--weights", "fp4"], "accepted: 8, 16 or a multiple of 32 from 32 to 512\n"),
        (["run", "pybyte-300k", "--target", "tiny"], "accepted: 8, 16 or a multiple of 32 from 32 to 512\n"),
        (
            ["run", "pybyte-300k", "--group", "50"],
            "machine tiny: weight group is 50; accepted: 8, 16 or a multiple of 32 from 32 to 512\n",
        ),
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


@pytest.fixture
def program(model: Path, tmp_path: Path) -> Path:
    out = tmp_path / "program"
    assert cli.main(["compile", str(model), "-o", str(out)]) == 0
    return out


def test_what_would_be_ignored_is_refused(program: Path, model: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    for options in (["--target", "nosuch"], ["--weights=int8"], ["--kv", "dense"], ["--routers", "x"], ["--no-prefetch"]):
        code, error = said(["run", program, *options], capsysbinary)
        assert code == 2
        assert f"{options[0].partition('=')[0]} has no effect on {program}, which is compiled already" in error
    assert said(["check", program, "--target", "mono"], capsysbinary)[0] == 2
    for options in (["--prompt", "a"], ["--tokens", "1"], ["--dial", "0"], ["--routers", "x"], ["--seed", "1"]):
        code, error = said(["run", "--shape", "llama-2-7b", "--engine", "timing", *options], capsysbinary)
        assert code == 2
        assert options[0] in error
    for command, options in (
        ("run", ["--seed", "1"]),
        ("run", ["--skip", "0.5", "--dial", "1"]),
        ("run", ["--dial", "1"]),  # the model has no routers
        ("run", ["--window", "0:2"]),
        ("run", ["--prompt-length", "3"]),
    ):
        assert said([command, model, *options], capsysbinary)[0] == 2, options


@pytest.mark.parametrize(
    "options",
    [
        ["--max-new", "-1"],
        ["--max-new", "x"],
        ["--seed", "-1"],
        ["--context", "0"],
        ["--group", "0"],
        ["--history", "-1"],
        ["--latency", "0"],
        ["--latency", "-5"],
        ["--bandwidth", "257"],
        ["--dial", "nan"],
        ["--dial", "1e39"],
        ["--json", "."],
        ["--save-trace", "FILE/x"],
        ["--save-mask-trace", "FILE/x"],
        ["--timeline", "FILE/x"],
    ],
)
def test_numbers_and_places_have_ranges(
    options: list[str], model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "file").touch()
    code, error = said(["run", model, *(o.replace("FILE", str(tmp_path / "file")) for o in options)], capsysbinary)
    assert code == 2
    assert options[0] in error
    assert "needed" in error
    assert "Traceback" not in error


def test_help_version_and_near_misses(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main([]) == 0
    assert "usage: skipopu" in capsysbinary.readouterr().out.decode()
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsysbinary.readouterr().out.decode().startswith("skipopu ")
    assert "did you mean 'check'?" in said(["chekc"], capsysbinary)[1]


def test_missing_packages_and_files_are_sentences(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    class Command:
        @staticmethod
        def add_arguments(parser: object) -> None:
            raise problem

    monkeypatch.setitem(sys.modules, "sim.command.doctor", Command)  # type: ignore[arg-type]
    problem: BaseException = ModuleNotFoundError("No module named 'torch'", name="torch.nn")
    assert "the package torch is not installed; pip install" in said(["doctor"], capsysbinary)[1]
    problem = PermissionError(13, "Permission denied", "/nowhere/x")
    assert said(["doctor"], capsysbinary)[1] == "skipopu doctor: /nowhere/x: Permission denied\n"
    problem = KeyboardInterrupt()
    assert said(["doctor"], capsysbinary) == (130, "")


def test_an_interrupt_in_a_destructor_still_ends_the_command() -> None:
    class Slow:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    def command() -> None:
        with cli.interruptible():
            Slow()
            threading.Event().wait(10)

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        command()
    assert time.monotonic() - begin < 5


def test_a_locale_that_lacks_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert cli.main(["isa"]) == 0
    print("7 \N{MICRO SIGN}s", flush=True)
    assert written.getvalue().endswith(b"7 ?s\n")
