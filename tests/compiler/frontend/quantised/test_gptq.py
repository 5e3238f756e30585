"""GPTQ files are dequantised as their layout says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compiler.frontend.quantised.packed import ACT_ORDER
from compiler.frontend.tensors import Codes, NoCodes
from skipopu.errors import CheckpointError
from skipopu.numerics.formats import INT4Z, INT8
from tests.compiler.frontend.quantised import drawn, opened, parts

ROWS, N, BASE = 24, 256, "model.layers.0.mlp.up_proj."
CONFIG: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 64, "desc_act": False, "sym": False}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128, -1])
@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("kind", ["sym", "asym", "no g_idx", "act order"])
def test_values_and_integers(tmp_path: Path, bits: int, group: int, v2: bool, kind: str) -> None:
    given = drawn(ROWS, N, bits, group, kind == "sym", seed=bits + group, least=0 if v2 else 1)
    if kind == "act order":
        given = given.permuted(np.random.default_rng(1))
    config = CONFIG | {"bits": bits, "group_size": group} | ({"checkpoint_format": "gptq_v2"} if v2 else {})
    found = opened(tmp_path, given.gptq(BASE, v2, index=kind != "no g_idx"), config)
    expected = given.values()
    assert found.shapes == {f"{BASE}weight": (ROWS, N)}
    for rows in parts(ROWS):
        assert np.array_equal(found.read(f"{BASE}weight", rows), expected[rows])
    codes = found.codes(f"{BASE}weight", slice(3, 20))
    if kind == "act order" and group != -1:
        assert codes == NoCodes(ACT_ORDER, INT8 if bits == 8 else INT4Z)
        return
    assert isinstance(codes, Codes)
    assert np.array_equal(codes.integers, (given.fields - given.zeros[:, given.order])[3:20])
    assert np.array_equal(codes.scales, given.scales[3:20].astype(np.float32))


def test_zero_points_taken_off_whole_words(tmp_path: Path) -> None:
    """GPTQModel takes 1 off every field by one subtraction of words: a zero point of 0 borrows from the field above."""
    given = drawn(ROWS, N, 4, 64, False, least=0)
    assert (given.zeros == 0).any()
    tensors = given.gptq(BASE, v2=True)
    tensors[f"{BASE}qzeros"] = tensors[f"{BASE}qzeros"] - 0x11111111
    found = opened(tmp_path, tensors, CONFIG | {"meta": {"quantizer": ["gptqmodel:2.1.0"]}})
    assert np.array_equal(found[f"{BASE}weight"], given.values())
    with pytest.raises(CheckpointError, match=r"qzeros holds 15, a zero point of 16 or of 0; accepted: below, or .* gptq_v2"):
        opened(tmp_path, tensors, CONFIG)[f"{BASE}weight"]


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("scales", None, "up_proj.scales is missing; .*qweight needs it"),
        ("qzeros", None, "up_proj.qzeros is missing; .*qweight needs it"),
        ("qweight", lambda t: t[:-1], r"qweight has 248 columns; accepted: a multiple of the group of 64"),
        ("qweight", lambda t: t[:, :-8], r"scales has shape \(4, 24\); .* ask for \(4, 16\)"),
        ("qweight", lambda t: t.long(), "qweight holds I64; accepted: I32"),
        ("qweight", lambda t: t[0], r"qweight has shape \(24,\); .* ask for \(any, any\)"),
        ("qzeros", lambda t: t[:, :-1], r"qzeros has shape \(4, 2\); .* ask for \(4, 3\)"),
        ("scales", lambda t: t[:-1], r"scales has shape \(3, 24\); .* ask for \(4, 24\)"),
        ("scales", lambda t: t.int(), "scales holds I32; accepted: F64, F32, F16, BF16"),
        ("g_idx", lambda t: t + 1, "g_idx is no order of 4 groups of 64 columns, from 0 to 3"),
        ("g_idx", lambda t: t - 1, "g_idx is no order of 4 groups of 64 columns"),
        ("g_idx", lambda t: t * 0, "g_idx is no order of 4 groups of 64 columns"),
        ("g_idx", lambda t: t[:-1], r"g_idx has shape \(255,\); .* ask for \(256\)"),
        ("weight", lambda t: torch.zeros(ROWS, N), "up_proj.weight is beside .*qweight; accepted: one of them"),
    ],
)
def test_damaged_files_are_refused_by_the_tensors_name(tmp_path: Path, part: str, change: Any, message: str) -> None:
    tensors = drawn(ROWS, N, 4, 64, False).gptq(BASE)
    if change is None:
        del tensors[BASE + part]
    else:
        tensors[BASE + part] = change(tensors.get(BASE + part))
    with pytest.raises(CheckpointError, match=r"model\.safetensors: tensor .*" + message):
        opened(tmp_path, tensors, CONFIG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": 3}, "quantization_config.bits is 3; accepted: 4 or 8"),
        ({"bits": None}, "bits is None; accepted: 4 or 8"),
        ({"group_size": 0}, "group_size is 0; accepted: -1 or an integer"),
        ({"group_size": 96}, "qweight has 256 columns; accepted: a multiple of the group of 96"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'; accepted: 'gptq' or 'gptq_v2'"),
        ({"bits": 8}, r"(scales|qzeros) has shape"),
        ({"dynamic": {"+:.*up": {"bits": 8}}}, "dynamic is .*; accepted: null or patterns that start with '-:'"),
    ],
)
def test_configurations_are_refused_by_their_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened(tmp_path, drawn(ROWS, N, 4, 64, False).gptq(BASE), CONFIG | change)
