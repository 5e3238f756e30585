"""Ranges: what the formats do not hold is divided by a power of two, or refused with its layer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from compiler.frontend.checkpoint import Checkpoint
from compiler.passes.fold import attention_scale
from compiler.quantise.ranges import rescale
from sim.quantise.calibrate import Asked, Calibration, Quantised, quantise, router_tensors
from sim.quantise.loss import model_of
from skipopu.errors import CheckpointError
from skipopu.numerics import fp16
from tests.support import random_checkpoint, said, small_config
from tests.variants import VARIANTS

pytestmark = pytest.mark.slow

IDS = np.random.default_rng(3).integers(0, 70, (3, 24))


@pytest.mark.parametrize("method", ["rtn", "gptq+awq"])
@pytest.mark.parametrize("variant", ["plain", "biases of q, k, v", "norm of heads"])
@pytest.mark.parametrize("kind", ["key", "value"])
def test_keys_and_values_beyond_fp16_are_made_smaller(kind: str, variant: str, method: str) -> None:
    """By a power of two, made up for elsewhere: codes and function are those of the model whose numbers FP16 holds."""
    config = small_config(**VARIANTS[variant])
    small, large = random_checkpoint(config, 2), random_checkpoint(config, 2)
    for checkpoint in (small, large):
        for name, tensor in checkpoint.tensors.items():
            tensor *= np.float32(2**12 if "q_proj" in name or "o_proj" in name else 1)  # FP16 scales stay normal numbers
    rescale(config, large.tensors, kind, -18)  # pyright: ignore[reportArgumentType]
    asked = Asked(128, method)
    expected, found = quantise(small, IDS, asked), quantise(large, IDS, asked)
    assert not expected.rescaled
    ((name, done),) = found.rescaled.items()
    assert name == kind
    assert done.most == expected_most(expected, kind, small) * 2**18
    assert done.most > fp16.LARGEST >= 1.9 * max(most for (its, _), most in found.largest.items() if its == kind)
    for tensor, choice in expected.choices.items():
        assert np.array_equal(choice.rounded.codes, found.choices[tensor].rounded.codes), tensor
    routers = router_tensors(small)
    same, ours = (model_of(config, each.tensors, routers, 128)(torch.from_numpy(IDS)).logits for each in (expected, found))
    assert torch.equal(same, ours)


def expected_most(found: Quantised, kind: str, checkpoint: Checkpoint) -> float:
    """The largest of a kind in the model as it is."""
    calibration = Calibration(checkpoint, IDS, Asked(128, "rtn"))
    for stream in calibration.begin():
        for layer in range(2):
            stream = calibration.layer(layer)(stream)
    return calibration.model.most(kind)[0]


def test_a_rescaled_checkpoint_runs_like_the_reference(
    model: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Values beyond 65504: refused as NaN before, equal on the engines behind quantising."""
    config = small_config(head_dim=16, vocab_size=256, byte_level=True)
    tensors = {n: t * np.float32(1e5 if "v_proj" in n else 1) for n, t in random_checkpoint(config, 0).tensors.items()}
    save_file(tensors, model / "model.safetensors")
    assert said(["check", model, "--no-rtl", "--max-new", 2], capsysbinary)[0] == 1
    out, figures = tmp_path / "out", tmp_path / "figures.json"
    asked = ["--samples", 2, "--window", 16, "--group", 8, "--calibration", __file__, "--plain", "--method", "gptq"]
    code, error = said(["quantise", model, "-o", out, *asked, "--json", figures], capsysbinary)
    assert code == 0, error
    records = json.loads(figures.read_text())["records"]
    kinds = {r["name"].removeprefix("largest_") for r in records if r["name"].startswith("largest_")}
    assert kinds == {"residual", "query", "key", "value", "score", "attention", "inner", "product"}
    assert {r["context"] for r in records if r["name"] == "largest_residual"} == {"layer 0", "layer 1", "output"}
    for name in ("as it is", "to nearest", "gptq"):
        (nats,) = (r["value"] for r in records if r["name"] == "nats_per_token" and r["system"] == name)
        assert np.isfinite(nats)
    assert said(["check", out, "--group", 32, "--no-rtl", "--max-new", 2], capsysbinary)[0] == 0


def test_ranges_are_of_what_the_formats_hold() -> None:
    """Each kind against the layer's own numbers, computed apart."""
    checkpoint = random_checkpoint(small_config(num_kv_heads=4), 3)
    calibration = Calibration(checkpoint, IDS[:1], Asked(128))
    model, (stream,) = calibration.model, calibration.begin()
    after = calibration.layer(0)(stream)
    seen = {kind: most for (kind, layer), most in model.largest.items() if layer == 0}
    assert after.k is not None
    assert after.v is not None
    assert seen["key"] == float(after.k.abs().max())
    assert seen["value"] == float(after.v.abs().max())
    assert seen["residual"] >= float(stream.h.abs().max())
    assert model.queries is not None
    scores = (model.queries @ after.k.transpose(-1, -2)).tril() * attention_scale(checkpoint.config)
    assert seen["score"] == pytest.approx(float(scores.abs().max()), rel=1e-5)
    assert seen["query"] == float(model.queries.abs().max())
    assert seen["product"] >= max(seen["value"], 0.0)


def test_numbers_beyond_every_format_are_refused() -> None:
    checkpoint = random_checkpoint(small_config(), 2)
    checkpoint.tensors["model.layers.1.mlp.down_proj.weight"] *= np.float32(1e7)
    with pytest.raises(
        CheckpointError, match=r"tensor model.layers.1.mlp.down_proj.weight holds .*; 7 times an FP16 scale reaches"
    ):
        quantise(checkpoint, IDS, Asked(128, "rtn"))
    checkpoint = random_checkpoint(small_config(), 2)
    checkpoint.tensors["model.embed_tokens.weight"] *= np.float32(1e20)
    with pytest.raises(CheckpointError, match=r"layer 0: residuals .*; FP32 sums of squares hold"):
        quantise(checkpoint, IDS, Asked(128, "rtn"))
