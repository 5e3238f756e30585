"""The GPU harness on a CPU: its steps against a plain loop, its kernels interpreted, its records as ``compare`` reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sim.baselines import data
from sim.baselines.gpu import plain, reference
from sim.baselines.gpu.__main__ import device_of, file_name, main
from sim.baselines.gpu.decoder import Decoder
from sim.baselines.gpu.measure import bytes_per_token, check
from sim.baselines.gpu.state import State, new_state
from sim.baselines.gpu.weights import Weights, quantise, random_weights
from sim.routing import independent
from skipopu.errors import ProgramError
from skipopu.model_config import ModelConfig
from tests.support import small_config

CPU = torch.device("cpu")
CONFIG = ModelConfig(128, 256, 3, 4, 2, 32, 96, 64)
TOKENS = [int(t) for t in np.random.default_rng(0).integers(0, 96, 9)]
TRACE = independent(3, 12, 0.4, 0.4, 1)
MODES = [(None, None), ("dense", TRACE), ("reuse", TRACE), ("dense", None), ("reuse", None)]


def error(weights: Weights, policy: str | None, trace: np.ndarray | None) -> float:
    state = new_state(weights, 12, policy, trace)
    expected = reference.logits(weights, TOKENS, policy, trace)
    return check(Decoder(weights, state, plain, forced=True), expected, TOKENS)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int4"])
@pytest.mark.parametrize(("policy", "trace"), MODES)
def test_steps_and_prefill_are_the_plain_loop(precision: str, policy: str | None, trace: np.ndarray | None) -> None:
    weights = random_weights(CONFIG, precision, CPU)
    assert error(weights, policy, trace) < reference.tolerance(weights)


def test_a_wrong_step_is_far_outside_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(CONFIG, "fp16", CPU)
    attend = plain.attend

    def of_the_layer_before(w: Weights, s: State, layer: int) -> None:
        attend(w, s, max(layer - 1, 0))

    monkeypatch.setattr(plain, "attend", of_the_layer_before)
    assert error(weights, "reuse", TRACE) > 10 * reference.tolerance(weights)


def test_entries_are_those_of_executed_attention() -> None:
    weights = random_weights(CONFIG, "fp16", CPU)
    state = new_state(weights, 12, "reuse", TRACE)
    decoder = Decoder(weights, state, plain)
    decoder.prefill(5)
    decoder.run(6)
    assert int(state.entries) == TRACE[:, 0, :11].sum()
    assert (state.taken.numpy() == TRACE[:, :, :11].sum(2)).all()
    # Every step's bytes are those of what it executed.
    matrices = sum(
        a * (layer.qkv.bytes + layer.o.bytes) + f * (layer.gate_up.bytes + layer.down.bytes)
        for layer, (a, f) in zip(weights.layers, TRACE[:, :, 5:11].sum(2), strict=True)
    )
    entries = (TRACE[:, 0, 5:11] * (np.arange(5, 11) + 1)).sum() * 2 * 2 * 32 * 2
    others = 6 * (weights.head.bytes + 128 * 2 + 3 * 2 * 128 * 2)
    assert bytes_per_token(decoder, 5, 7, TRACE) == pytest.approx((matrices + entries + others) / 6)


def test_int4() -> None:
    values = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)).half()
    matrix = quantise(values)
    assert matrix.bytes == 16 * (128 + 2 * 2)
    assert matrix.scales is not None
    step = matrix.scales.float().repeat_interleave(128, 1)
    assert ((matrix.plain(torch.float32) - values.float()).abs() <= 0.51 * step).all()


def test_models_that_are_not_what_is_measured_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(small_config(hidden_act="relu").to_hf()))
    with pytest.raises(ProgramError, match="hidden_act is 'relu'; accepted: 'silu', of a plain Llama"):
        main(["--shape", str(tmp_path / "config.json"), "--device", "cpu"])


@pytest.mark.slow
def test_the_command_writes_records_that_the_comparison_reads(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    assert main(["--precision", "int4", "--context", "4+6", "--repeats", "2", "--device", "cpu", "-o", str(path)]) == 0
    file = data.read_measured(path)
    kinds = {r.name: r.kind for r in file.records}
    assert (kinds["decode_tokens_per_s"], kinds["bytes_per_token"]) == ("measured", "derived")
    names = {(r.name, r.skip, r.kv) for r in file.records}
    for skip, kv in ((0.0, None), (0.25, "reuse"), (0.25, "dense")):
        assert {("decode_tokens_per_s", skip, kv), ("bandwidth_efficiency", skip, kv)} <= names
    assert file.inputs["copy_bandwidth_gb_s"] > 0


def test_a_wrong_decoder_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plain, "down", lambda *state: None)
    assert main(["--precision", "fp16", "--mode", "reuse", "--device", "cpu", "-o", str(tmp_path / "cpu.json")]) == 1
    assert "wrong: logits differ" in capsys.readouterr().out
    assert not (tmp_path / "cpu.json").exists()


def test_nothing_runs_on_a_cpu_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of(None, "small").type == "cpu"
    assert device_of("cpu", "llama-2-7b").type == "cpu"
    with pytest.raises(ProgramError, match="--shape llama-2-7b needs a GPU and PyTorch finds none"):
        device_of(None, "llama-2-7b")
    for name in ("cuda", "mps", "gpu"):
        with pytest.raises(ProgramError, match=f"--device is '{name}'"):
            device_of(name, "small")


@pytest.mark.parametrize(
    ("name", "file"), [("NVIDIA A100-SXM4-80GB", "a100-sxm4-80gb"), ("NVIDIA GeForce RTX 4090 (x/y)", "geforce-rtx-4090-x-y")]
)
def test_a_record_s_default_name_is_a_plain_one(name: str, file: str) -> None:
    assert file_name(name) == file


INTERPRETED = """
import numpy as np, torch
from sim.baselines.gpu import kernels
from tests.sim import test_gpu_baseline as t
from sim.baselines.gpu.decoder import Decoder
from sim.baselines.gpu.state import new_state
kernels.tiling = lambda rows, inputs: (64, 1, 1)
for precision, policy, trace in (("int4", None, None), ("int4", "reuse", t.TRACE), ("int4", "dense", t.TRACE), ("fp16", "reuse", None)):
    weights = t.random_weights(t.CONFIG, precision, t.CPU)
    state = new_state(weights, 12, policy, trace)
    expected = t.reference.logits(weights, t.TOKENS[:4], policy, trace)
    error = t.check(Decoder(weights, state, kernels, forced=True), expected, t.TOKENS[:4])
    assert error < t.reference.tolerance(weights), (precision, policy, error)
"""


@pytest.mark.slow
def test_kernels_interpreted() -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", INTERPRETED], check=True, env=environment)
