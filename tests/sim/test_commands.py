"""Commands of models: what they print, write and return."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from compiler.frontend.shapes import random_checkpoint as checkpoint_of
from sim.command import doctor
from sim.estimate import Workload, estimate
from sim.functional import engine as functional
from sim.mask_traces import save_mask_trace
from sim.masks import Active
from sim.result import Computed
from sim.routing import load_trace, save_trace
from skipopu import cli
from skipopu.machine.config import Machine
from skipopu.masks import ATTENTION
from skipopu.model_config import ModelConfig
from tests.support import said, small_config


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


def test_text_needs_bytes_or_a_tokenizer(model: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    commands = (["run", model], ["check", model, "--no-rtl"], ["demo", "--model", model], ["eval", model])
    for name, sentence in (("tokenizer.json", "model/tokenizer.json: not a tokenizer"), ("tokenizer.model", "save_pretrained")):
        (model / name).write_text("{}")
        for command in commands:
            code, error = said(command, capsysbinary)
            assert code == 2
            assert sentence in error
        assert said(["run", model, "--tokens", "1,2", "--max-new", "1"], capsysbinary)[0] == 0
        assert said(["run", model, "--tokens", "1,2", "--chat"], capsysbinary)[0] == 2
        (model / name).unlink()
    assert "no chat template" in said(["run", model, "--chat"], capsysbinary)[1]
    assert said(["run", model, "--prompt", "\udcff\udcfe", "--max-new", "1"], capsysbinary)[0] == 0, "any bytes are"
    config = json.loads((model / "config.json").read_text())
    del config["byte_level"]
    (model / "config.json").write_text(json.dumps(config))
    code, error = said(["run", model], capsysbinary)
    assert code == 2
    assert '"byte_level": true' in error


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
        assert cli.main(["run", "--shape", str(shape), "--engine", "timing", "--prompt-length", "4", "--max-new", "2"]) == 0
        cycles.append(next(line for line in capsysbinary.readouterr().out.splitlines() if b"cycles" in line))
    assert cycles[0] == cycles[1]
    assert "did you mean 'llama-2-7b'?" in said(["run", "--shape", "lama-2-7b", "--engine", "timing"], capsysbinary)[1]


def test_masks_of_a_shape(model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """Drawn and recorded ones leave out what they leave out of an estimate."""
    config, file = ModelConfig.load(model), tmp_path / "masks.safetensors"
    active = Active({ATTENTION: np.zeros((config.num_layers, 11, config.hidden_size), bool)})
    save_mask_trace(file, active)
    figures = tmp_path / "run.json"
    run: list[object] = ["run", "--shape", model, "--engine", "timing", "--prompt-length", 4, "--max-new", 8]
    masked: list[object] = [*run, "--target", "tiny-masks", "--json", figures]
    ways: list[tuple[list[object], Workload, Active | None]] = [
        (["--mask", 0.5, "--seed", 3], Workload(str(model), 4, 8, seed=3, masked=0.5), None),
        (["--mask-trace", file], Workload(str(model), 4, 8, masked=1.0), active),
    ]
    for options, workload, recorded in ways:
        assert said([*masked, *options], capsysbinary)[0] == 0
        found = {record["name"]: record["value"] for record in json.loads(figures.read_text())["records"]}
        expected = estimate(Machine.load("tiny-masks"), workload, config, active=recorded)
        assert found["decode_tokens_per_s"] == pytest.approx(expected.tokens_per_s, abs=1e-3)
        assert found["channels_left_out"] == expected.last["CHANNELS_LEFT_OUT"] > 0
    refused: dict[str, list[object]] = {
        "have masks": [*run, "--target", "tiny", "--mask", 0.5],
        "this run needs (2, 12, ": [*masked, "--max-new", 9, "--mask-trace", file],
        "not allowed with": [*masked, "--mask", 0.5, "--mask-trace", file],
        "cannot be combined with --speculate": [*masked, "--mask", 0.5, "--speculate", "lookup", "--acceptance", 0.5],
        "--mask is of --shape": ["run", model, "--mask", 0.5],
    }
    for sentence, arguments in refused.items():
        code, error = said(arguments, capsysbinary)
        assert (code, sentence in error) == (2, True), error


def test_tables_are_on_standard_output(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(doctor, "findings", lambda: [("x", "pip install 'skipopu[synth]'", True)])
    assert cli.main(["doctor"]) == 0
    assert "skipopu[synth]" in capsysbinary.readouterr().out.decode()
    assert cli.main(["check", str(model), "--max-new", "1", "--no-rtl"]) == 0
    assert "reference" in capsysbinary.readouterr().out.decode()
