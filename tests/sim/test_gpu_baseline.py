"""The GPU harness on a CPU: its steps against a plain loop, its kernels interpreted, its records as ``compare`` reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from sim.baselines import data
from sim.baselines.gpu import plain, reference
from sim.baselines.gpu.__main__ import device_of, file_name, main
from sim.baselines.gpu.decoder import Decoder
from sim.baselines.gpu.masks import SAMPLES, drawn
from sim.baselines.gpu.measure import bytes_per_token, check
from sim.baselines.gpu.state import State, new_state
from sim.baselines.gpu.weights import Weights, quantise, random_weights
from sim.routing import independent
from skipopu.errors import ProgramError
from skipopu.masks import ATTENTION, ATTENTION_OUTPUT, FFN, FFN_INNER, channels
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


def masked_error(weights: Weights, ops: ModuleType, policy: str | None, trace: np.ndarray | None, tokens: list[int]) -> float:
    masks = drawn(CONFIG, 0.4, CPU)
    expected = reference.logits(weights, tokens, policy, trace, masks)
    unmasked = reference.logits(weights, tokens, policy, trace)
    state = new_state(weights, 12, policy, trace, masks)
    return check(Decoder(weights, state, ops, forced=True), expected, tokens, unmasked)


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int4"])
@pytest.mark.parametrize(("policy", "trace"), MODES)
def test_steps_and_prefill_are_the_plain_loop(precision: str, policy: str | None, trace: np.ndarray | None) -> None:
    weights = random_weights(CONFIG, precision, CPU)
    assert error(weights, policy, trace) < reference.tolerance(weights)


@pytest.mark.parametrize(
    ("precision", "policy", "trace"), [("int4", "reuse", TRACE), ("int4", "dense", None), ("bf16", None, None)]
)
def test_masked_steps_are_the_masked_plain_loop(precision: str, policy: str | None, trace: np.ndarray | None) -> None:
    weights = random_weights(CONFIG, precision, CPU, by_channel=True)
    assert masked_error(weights, plain, policy, trace, TOKENS) < reference.tolerance(weights)


def test_steps_without_their_masks_are_far_outside_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(CONFIG, "fp16", CPU, by_channel=True)
    monkeypatch.setattr(State, "active", lambda *input: None)
    assert masked_error(weights, plain, "reuse", TRACE, TOKENS) > 10 * reference.tolerance(weights)


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


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_weights_by_channel_are_the_same(precision: str) -> None:
    rows, columns = (random_weights(CONFIG, precision, CPU, by_channel=by_channel) for by_channel in (False, True))
    for a, b in zip(rows.layers, columns.layers, strict=True):
        for one, other in ((a.qkv, b.qkv), (a.o, b.o), (a.gate_up, b.gate_up), (a.down, b.down)):
            assert torch.equal(one.plain(torch.float16), other.plain(torch.float16))
            assert (one.bytes, one.rows, one.inputs) == (other.bytes, other.rows, other.inputs)
    assert not columns.head.by_channel


def test_masks_take_turns_and_are_drawn_independently() -> None:
    masks = drawn(CONFIG, 0.4, CPU, seed=3)
    assert {name: place.stop - place.start for name, place in masks.places.items()} == channels(CONFIG)
    assert masks.draws.float().mean() == pytest.approx(0.6, abs=0.02)
    for position in (2, 2 + SAMPLES):
        masks.take(torch.tensor([position]))
        assert torch.equal(masks.present[0], masks.draws[2])
    for share in (0, 1):
        assert (drawn(CONFIG, share, CPU).draws == 1 - share).all()


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_channels_left_out_are_not_counted_as_read(precision: str) -> None:
    weights, masks = random_weights(CONFIG, precision, CPU, by_channel=True), drawn(CONFIG, 0.4, CPU)
    counted = []
    for some in (None, masks):
        decoder = Decoder(weights, new_state(weights, 12, "dense", TRACE, some), plain)
        counted.append(bytes_per_token(decoder, 5, 7, TRACE))
    spared = 0.0
    for position in range(5, 11):
        for number, layer in enumerate(weights.layers):
            attention, ffn = TRACE[number, :, position]
            kv = 1 if attention else 2 * CONFIG.num_kv_heads / (CONFIG.num_heads + 2 * CONFIG.num_kv_heads)
            parts = ((layer.qkv, ATTENTION, kv), (layer.o, ATTENTION_OUTPUT, attention))
            for matrix, name, share in (*parts, (layer.gate_up, FFN, ffn), (layer.down, FFN_INNER, ffn)):
                off = masks.draws[position % SAMPLES, number, masks.places[name]] == 0
                spared += share * int(off.sum()) * matrix.data[0].numel() * matrix.data.element_size()
    assert counted[0] - counted[1] == pytest.approx(spared / 6)


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "inf", "some"])
def test_shares_of_channels_that_are_none_are_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--mask={value}"])
    assert f"argument --mask: '{value}' is not accepted; a ratio in 0..1 is needed" in capsys.readouterr().err


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


@pytest.mark.slow
def test_masked_records_say_so(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    options = [
        "--precision",
        "fp16",
        "--mode",
        "reuse",
        "--context",
        "4+6",
        "--repeats",
        "1",
        "--device",
        "cpu",
        "-o",
        str(path),
    ]
    counted = []
    for masked, more in ((None, []), (0.4, ["--mask", "0.4"])):
        assert main([*options, *more]) == 0
        file = data.read_measured(path)
        assert {(r.skip, r.masked) for r in file.records} == {(0.25, masked)}
        assert ("masks" in file.inputs) == (masked is not None)
        counted += [r.value for r in file.records if r.name == "bytes_per_token"]
    assert counted[1] < 0.8 * counted[0]


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

# Three groups in two parts; rows of one block and a half. What lies under a mask is not a number: it must not be read.
MASKED_PRODUCTS = """
import torch
from sim.baselines.gpu import masked
from sim.baselines.gpu.weights import Matrix, quantise
generator = torch.Generator().manual_seed(0)
weight, x = torch.randn(384, 384, generator=generator).half(), torch.randn(384, generator=generator)
active = (torch.rand(384, generator=generator) >= 0.4).to(torch.uint8)
flag, masked.PROGRAMS = torch.ones(1, dtype=torch.int32), 4

def products(matrix, form, norm):
    for _ in range(2):
        y = torch.full((matrix.rows // (2 if form == 2 else 1),), 2.0)
        masked.product(matrix, y, x, active, flag, 1e-5, norm, form, 1 << 30)
        yield y

for int4 in (True, False):
    matrix = quantise(weight, True) if int4 else Matrix(weight.T.contiguous(), by_channel=True)
    plain = matrix.plain(torch.float32) @ (x * active)
    scaled = plain / (x.square().mean() + 1e-5).sqrt()
    if not int4:
        matrix.data[active == 0] = torch.nan
    gate, up = scaled.chunk(2)
    for form, norm, expected in ((1, False, 2 + plain), (0, True, scaled), (2, True, torch.nn.functional.silu(gate) * up)):
        y, again = products(matrix, form, norm)
        assert torch.equal(y, again)
        assert (y - expected).norm() < 2e-5 * expected.norm(), (int4, form, (y - expected).norm() / expected.norm())
flag.zero_()
assert all((y == 2).all() for y in products(matrix, 0, False))
"""

MASKED_STEPS = """
from sim.baselines.gpu import kernels
from tests.sim import test_gpu_baseline as t
kernels.tiling = lambda rows, inputs: (64, 1, 1)
for precision, policy, trace in (("int4", "dense", t.TRACE), ("fp16", "reuse", None)):
    weights = t.random_weights(t.CONFIG, precision, t.CPU, by_channel=True)
    error = t.masked_error(weights, kernels, policy, trace, t.TOKENS[:3])
    assert error < t.reference.tolerance(weights), (precision, policy, error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "script", [INTERPRETED, MASKED_PRODUCTS, MASKED_STEPS], ids=["steps", "masked products", "masked steps"]
)
def test_kernels_interpreted(script: str) -> None:
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)
