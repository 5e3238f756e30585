"""The command line: help everywhere, one-sentence errors, JSON records."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compiler.frontend.shapes import random_checkpoint as checkpoint_of
from compiler.pipeline import compile_checkpoint
from sim.check import check
from sim.command import doctor
from sim.functional import engine as functional
from sim.result import Computed
from sim.routing import independent, load_trace, save_trace
from skipopu import cli
from skipopu.errors import ProgramError
from skipopu.isa.program import Run
from skipopu.machine.config import Machine
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


@pytest.mark.agreement
def test_run_on_the_rtl(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """To its end: text, tokens, counters, records."""
    out, figures = tmp_path / "program", tmp_path / "run.json"
    assert cli.main(["compile", str(model), "-o", str(out), "--target", "tiny"]) == 0
    run = ["run", str(out), "--prompt", "ab", "--max-new", "2", "--json", str(figures)]
    tokens = []
    for engine in ("rtl", "functional"):
        capsysbinary.readouterr()
        assert cli.main([*run, "--engine", engine, *(["--profile"] if engine == "rtl" else [])]) == 0
        tokens.append(json.loads(figures.read_text())["outputs"]["tokens"])
    assert tokens[0] == tokens[1]


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

    def wrong_token(*args: object, **options: object) -> Computed:
        result = honest(*args, **options)  # type: ignore[arg-type]
        result.tokens[0] = (result.tokens[0] + 1) % 256
        return result

    monkeypatch.setattr(functional, "run", wrong_token)
    assert cli.main(arguments) == 1


def test_records_know_their_kind() -> None:
    with pytest.raises(ValueError, match="kind 'guessed'"):
        Record("cycles", 1, "cycle", "guessed", "nowhere")


@pytest.fixture
def program(model: Path, tmp_path: Path) -> Path:
    out = tmp_path / "program"
    assert cli.main(["compile", str(model), "-o", str(out)]) == 0
    return out


def said(arguments: list[object], capsysbinary: pytest.CaptureFixture[bytes]) -> tuple[int, str]:
    """Exit code and what stands on standard error, of one line where it is an error."""
    capsysbinary.readouterr()
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as done:
        code = int(done.code or 0)
    error = capsysbinary.readouterr().err.decode()
    assert code != 2 or error.count("\n") == 1, error
    return code, error


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


def test_every_engine_refuses_negative_lengths(model: Path) -> None:
    config = small_config()
    with pytest.raises(ProgramError, match="-1 new tokens"):
        Run((1,), -1).validate(compile_checkpoint(checkpoint_of(config, 1), Machine.load("tiny"), context=8))


def test_text_needs_ids_that_are_bytes(model: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (model / "tokenizer.json").write_text("{}")
    for command in (["run", model], ["check", model, "--no-rtl"], ["demo", "--model", model]):
        code, error = said(command, capsysbinary)
        assert code == 2
        assert '"byte_level": true' in error
    assert said(["run", model, "--tokens", "1,2", "--max-new", "1"], capsysbinary)[0] == 0
    (model / "tokenizer.json").unlink()
    assert said(["run", model, "--prompt", "\udcff\udcfe", "--max-new", "1"], capsysbinary)[0] == 0, "any bytes are"
    config = json.loads((model / "config.json").read_text())
    del config["byte_level"]
    (model / "config.json").write_text(json.dumps(config))
    assert said(["run", model], capsysbinary)[0] == 2


def test_traces_are_bool_under_their_own_name(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    trace = tmp_path / "deep" / "trq"
    run = ["run", model, "--prompt", "ab", "--max-new", "2"]
    assert said([*run, "--skip", "0.5", "--save-trace", trace], capsysbinary)[0] == 0
    assert said([*run, "--skip-trace", trace], capsysbinary)[0] == 0
    good = load_trace(trace)
    for bad in (good * 0.5, good * 2, good.astype(np.float32), good[0]):
        np.save(tmp_path / "bad.npy", bad)
        assert said([*run, "--skip-trace", tmp_path / "bad.npy"], capsysbinary)[0] == 2
    save_trace(tmp_path / "whole.npy", good.astype(np.int8))  # type: ignore[arg-type]
    assert (load_trace(tmp_path / "whole.npy") == good).all()


def test_random_routing_does_not_know_the_length() -> None:
    long = independent(3, 50, 0.3, 0.6, 7)
    assert (independent(3, 20, 0.3, 0.6, 7) == long[..., :20]).all()
    assert abs(1 - independent(3, 4000, 0.3, 0.6, 7)[1:].mean((0, 2)) - [0.3, 0.6]).max() < 0.02


def test_saturation_is_told(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    config = small_config(head_dim=16, vocab_size=256, byte_level=True)
    tensors = checkpoint_of(config, 0).tensors
    for name in tensors:
        if "v_proj" in name:
            tensors[name] = tensors[name] * np.float32(1e5)
    save_file(tensors, model / "model.safetensors")
    figures = tmp_path / "run.json"
    text = tmp_path / "text"
    text.write_bytes(b"abcdefgh")
    for command in (["run", "--max-new", "2"], ["run", "--engine", "timing", "--max-new", "2"], ["eval", "--text", text]):
        code, error = said([command[0], model, *command[1:], "--json", figures], capsysbinary)
        assert code == 0
        assert "saturated" in error
        assert json.loads(figures.read_text())["outputs"]["saturated"] is True
    for name in tensors:
        if "down_proj" in name:
            tensors[name] = tensors[name] * np.float32(1e9)
    save_file(tensors, model / "model.safetensors")
    code, error = said(["run", model], capsysbinary)
    assert code == 2
    assert "tensor model.layers.0.mlp.down_proj.weight holds" in error


def test_a_check_that_compares_nothing_says_so(model: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    program = compile_checkpoint(checkpoint_of(small_config(), 1), Machine.load("tiny"), context=8)
    whole = check(program, Run((1, 2, 3), 0), with_rtl=False)
    assert whole.agreement.routing_positions == 9, "of three tokens, the last one too; layer 0's attention is not decided"
    assert check(program, Run((1,), 0), with_rtl=False).ok
    everything = compile_checkpoint(checkpoint_of(small_config(), 1, False, 1e-6), Machine.load("tiny"), context=8)
    region = everything.regions["embedding"]
    for port in everything.memory:
        port[region.address : region.address + region.size] = 0
    assert check(everything, Run((1, 2), 2), with_rtl=False).remarks, "all logits are zero"
    large = checkpoint_of(small_config(), 1, False)
    for name, tensor in large.tensors.items():
        if "v_proj" in name:
            large.tensors[name] = tensor * np.float32(1e5)  # the reference's V is infinite, the machine's saturates
    found = check(compile_checkpoint(large, Machine.load("tiny"), context=8), Run((1, 2), 2), with_rtl=False)
    assert not found.ok
    assert "NaN or infinite" in found.problems[0]
    assert "saturated" in found.remarks[0]


def test_json_describes_the_run(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    run = ["run", str(model), "--prompt", "ab", "--max-new", "2", "--skip", "0.5", "--seed", "3"]
    assert cli.main([*run, "--json", str(tmp_path / "run.json")]) == 0
    body = json.loads((tmp_path / "run.json").read_text())
    wanted = {"max_new": 2, "skip": "0.5", "seed": 3, "dial": 0.0, "prompt": "ab", "tokens": [97, 98], "prompt_length": 2}
    assert wanted.items() <= body["inputs"].items()
    assert len(body["outputs"]["tokens"]) == 2
    capsysbinary.readouterr()
    assert cli.main(["isa", "--json", "-"]) == 0
    isa = json.loads(capsysbinary.readouterr().out.decode())["outputs"]
    assert {"opcode", "fields"} <= set(isa["instructions"][0])
    assert {"bit", "width"} <= set(isa["instructions"][0]["fields"][0])


def test_shapes_of_config_files(model: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    (model / "model.safetensors").unlink()
    cycles = []
    for shape in (model, model / "config.json"):
        code, error = said(
            ["run", "--shape", shape, "--engine", "timing", "--prompt-length", "4", "--max-new", "2"], capsysbinary
        )
        assert code == 0
        cycles.append(next(line for line in error.splitlines() if "cycles" in line))
    assert cycles[0] == cycles[1]
    assert "did you mean 'llama-2-7b'?" in said(["run", "--shape", "lama-2-7b", "--engine", "timing"], capsysbinary)[1]


def test_tables_are_on_standard_output(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(doctor, "findings", lambda: [("x", "pip install 'skipopu[synth]'", True)])
    assert cli.main(["doctor"]) == 0
    assert "skipopu[synth]" in capsysbinary.readouterr().out.decode()
    assert cli.main(["check", str(model), "--max-new", "1", "--no-rtl"]) == 0
    assert "reference" in capsysbinary.readouterr().out.decode()


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
